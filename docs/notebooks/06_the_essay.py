# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # The essay in one hour
#
# *What attention in a Transformer really is* (《Transformer 注意力机制的本质》) says in eight sections how attention
# works. It is a good essay, and like all good essays it says some things that only sound right. Take an hour, and
# measure each claim on a model that runs in moments. On a real language model all of it was measured too:
# [the essay, measured](../essay.md).
#
# In Colab, run this line first. Where the library is installed already, leave it out.

# %% tags=["skip-execution"]
# %pip install -q induction-lab

# %%
import matplotlib.pyplot as plt
import torch

from induction_lab import load_model, repeated_tokens, score_heads

model = load_model()
prompts = repeated_tokens(model, n_prompts=16, period=25)
scores = score_heads(model, prompts)
(head, _), *_ = scores.top("prefix_matching", 1)
print("a head that copies:", head)

# %% [markdown]
# ## §1 Soft addressing
#
# > Attention computes the similarity of Q and K, which gives weights, and adds up V with them.
#
# Take the queries, keys and values of the head, do just that, and compare with what the head puts out.

# %%
from induction_lab import capture

acts = capture(model, prompts, ["rot_q", "rot_k", "v", "z", "pattern"], heads=head)
q, k, v, z = (acts[name][:, :, 0] for name in ("rot_q", "rot_k", "v", "z"))
future = torch.ones(q.shape[1], q.shape[1]).triu(1).bool()
weights = (q @ k.mT / model.d_head**0.5).masked_fill(future, -torch.inf).softmax(-1)
print("softmax(QKᵀ/√d) V against the head's own output, largest difference:", float((weights @ v - z).abs().max()))

# %% [markdown]
# > Very similar: the weight is close to 1. Not related: close to 0.
#
# In the second copy each query has one matching key. Here are the weights of matching keys and of all others.

# %%
queries = torch.arange(prompts.period + 1, q.shape[1])
is_match = torch.zeros_like(future)
is_match[queries, queries - prompts.period + 1] = True
match, others = weights[:, is_match].flatten(), weights[:, queries][:, ~(is_match | future)[queries]].flatten()
plt.hist([match, others], bins=20, density=True, label=["the matching key", "the others"])
plt.xlabel("weight")
plt.legend()
plt.show()

# %% [markdown]
# > *Soft*: a weighted sum, not one address.
#
# From how many places does each head read (`addresses`)? And does it have to be soft? Sharpen the softmax until only
# the best key is left: first for the head that copies, then for all heads.

# %%
from induction_lab import attention_spread

spread = attention_spread(model, prompts)
spread[spread["quantity"] == "addresses"][["label", "value", "uniform"]].round(1)

# %%
from induction_lab import temper

every = [(layer, one) for layer in range(model.n_layers) for one in range(model.n_heads)]
print(f"as it is: loss on the second copy {scores.loss_by_copy[1]:.3f}")
for name, heads in ((str(head), [head]), ("every head", every)):
    with temper(model, heads, 100.0):
        hard = score_heads(model, prompts, scores=["prefix_matching"])
    print(f"hard addressing for {name}: loss on the second copy {hard.loss_by_copy[1]:.3f}")

# %% [markdown]
# How much did it cost? A head that has found its match can do with one address. In this small model all heads nearly
# can; in a language model they cannot, see [the essay, measured](../essay.md).
#
# ## §2 Fusion of context
#
# > However far apart two words are, the path between them is O(1).
#
# Put more and more other tokens between the two copies. If distance does not matter, both lines stay flat.

# %%
gaps = [0, 10, 20, 40, 60, 76]
apart = [score_heads(model, repeated_tokens(model, n_prompts=8, period=25, gap=gap)) for gap in gaps]
plt.plot(gaps, [float(each["prefix_matching"][head]) for each in apart], "o-", label="attention to the match")
plt.plot(gaps, [each.loss_by_copy[1] for each in apart], "s-", label="loss on the second copy, nats")
plt.xlabel("tokens between the copies")
plt.ylim(0)
plt.legend()
plt.show()

# %% [markdown]
# > At "it", attention finds "animal", because *tired* goes with animals.
#
# But *tired* comes after *it*. A model that reads from left to right cannot know it yet. Two prompts that differ in the
# last token only: how far apart are the vectors before it?

# %%
pair = prompts.tokens[:1, :20].repeat(2, 1)
pair[1, -1] = (pair[1, -1] + 1) % model.d_vocab
streams = capture(model, pair, "resid_post", layers=1)["resid_post"]
difference = (streams[0] - streams[1]).norm(dim=-1)
print("before the last token:", float(difference[:-1].max()), " at the last token:", round(float(difference[-1]), 2))

# %% [markdown]
# Exactly zero. Whatever happens at "it", the word *tired* has no part in it. (After *tired*, it may.)
#
# ## §3 Geometry
#
# > By its context, a vector is pulled in different directions.
#
# Let token *x* be followed by *a* in one text and by *b* in another, and then come again. Does its vector lean towards
# *a* in the first and towards *b* in the second? Before the first layer the two are the same vector.

# %%
block = prompts.tokens[0, 1:21]
x, a, b = block[5], block[6], prompts.tokens[1, 7]
one, two = block.clone(), block.clone()
two[6] = b
texts = torch.stack([torch.cat([torch.tensor([model.bos_token_id]), each, each[:6]]) for each in (one, two)])
texts[:, -1].tolist(), int(x)

# %%
acts = capture(model, texts, ["resid_pre", "resid_post"])
levels = {"embedding": ("resid_pre", 0), "layer 0": ("resid_post", 0), "layer 1": ("resid_post", 1)}
to_a, to_b = model.unembedding[a], model.unembedding[b]
for name, key in levels.items():
    leans = [float(torch.cosine_similarity(acts[key][row, -1], to_a - to_b, dim=0)) for row in (0, 1)]
    print(f"{name:10} leans towards a rather than b: {leans[0]:+.2f} after a text with a, {leans[1]:+.2f} with b")

# %% [markdown]
# > Every head does this pulling, in its own subspace.
#
# Which heads did? What each wrote, along the same direction:

# %%
acts = capture(model, texts, "result")
pull = torch.stack([(acts["result", layer][:, -1] @ (to_a - to_b)) for layer in range(model.n_layers)])
pulled = (pull[:, 0] - pull[:, 1]).detach()

# %%
from induction_lab import plot_head_scores

ax = plot_head_scores(pulled, "pull towards a with a, less with b")

# %% [markdown]
# Not every head: one whole layer hardly pulls at all. It prepares.
#
# ## §4 From word forms to logic
#
# > Shallow blocks look for form, deep ones for meaning.
#
# The little model has two layers and no meaning, so half of this cannot be asked here. The other half can: which kinds
# of heads sit in which layer? And when is the right next token known, layer by layer?

# %%
from induction_lab import classify_heads, plot_head_kinds

ax = plot_head_kinds(classify_heads(model, kinds=["induction", "previous-token", "duplicate-token"]))

# %%
from induction_lab import logit_lens, plot_logit_lens

ax = plot_logit_lens(logit_lens(model, prompts))

# %% [markdown]
# The lower layer knows the form of things (who stands next to whom), the upper one uses it. But "shallow: grammar,
# deep: irony" is a much longer ladder, and on SmolLM2 most of it did *not* hold: see [what came out](../essay.md).
#
# ## §5 The residual stream
#
# > What enters layer N is the sum of all that was written before.
#
# Add it up.

# %%
acts = capture(model, prompts, ["embed", "attn_out", "resid_pre", "resid_post"])
summed = acts["embed"] + acts["attn_out", 0]
print("into layer 1, largest difference:", float((summed - acts["resid_pre", 1]).abs().max()))
summed = summed + acts["attn_out", 1]
print("out of layer 1, largest difference:", float((summed - acts["resid_post", 1]).abs().max()))

# %% [markdown]
# > Queries, keys and values come from it, and are highly abstract.
#
# Whose writing are they made of? The share of each writer in the head's keys, queries and values:

# %%
import pandas as pd

from induction_lab import input_shares

shares = {part: input_shares(model, prompts, head, part).set_index("sender")["share"] for part in "kqv"}
pd.DataFrame(shares).round(2)

# %% [markdown]
# All three come from the same stream, and yet they read different things off it. The raw token (`embed`) has a part in
# queries and values, and none in the keys. And who are the other writers? Where each of them looks:

# %%
lower = [f"L0H{number}" for number in range(model.n_heads)]
pd.DataFrame({each: scores.of(each) for each in lower}).loc[["current_token", "previous_token"]].round(2)

# %% [markdown]
# The head that looks at its own token writes into queries and values; the keys are made by heads that look back.
# "Highly abstract"? Here it is one step away from the raw token: *what stood before me*.
#
# ## §6 Induction heads
#
# > "Harry" was followed by "Potter". At the next "Harry" the head looks for it, and helps to say it.
#
# The little model reads words if we number them. It has never heard of Hogwarts.

# %%
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

story = "the train left and young Harry Potter saw an owl . when it came back the bird looked for young Harry"
numbered = {"<bos>": 0} | {word: i for i, word in enumerate(dict.fromkeys(story.split()), start=1)}
words = Tokenizer(models.WordLevel(numbered))
words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()

# %%
from induction_lab import HookedModel, compare_predictions, plot_pattern

reader = HookedModel(model.network, PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<bos>"), name="reader")
ax = plot_pattern(reader, story, head)

# %%
compare_predictions(reader, story, scores.above("prefix_matching"), k=3).round(3)

# %% [markdown]
# The last row of the figure is the second *Harry*, and the table says what comes next, with and without the induction
# heads. Nothing had to "know that this is a text about Harry Potter".
#
# Is the name by itself enough? The same story without *young*:

# %%
compare_predictions(reader, story.replace("young ", ""), scores.above("prefix_matching"), k=3).round(3)

# %% [markdown]
# So it is not the word alone that is looked up, but the word *with what stood before it*: these heads match a little
# more than the textbook says. (Put a second *Harry Potter* into the story, and see.)
#
# ## §7 In one sentence
#
# > Differentiable, content-based routing.
#
# *Differentiable*: then a gradient should foretell what happens when a head is taken out of the route. Does it?

# %%
from induction_lab import ablation_sweep, attribution_patching

real = ablation_sweep(model, prompts, metric="copy_logit")
foretold = attribution_patching(model, prompts, metric="copy_logit")
both = pd.DataFrame({"without the head": real.table.set_index("label")["effect"]})
both["foretold by the gradient"] = foretold.table.set_index("label")["effect"]
print(f"correlation over heads: {real.correlation(foretold):.2f}")
both.round(2)

# %% [markdown]
# Differentiable, yes; but a gradient knows the next small step, and taking a head away is a long way. Where do the two
# agree, and where do they not? One would not want to prove a circuit by gradients alone.
#
# *Content-based*: give other tokens, and the route must follow the tokens, not the places. That is what
# `prefix_matching` above chance on random tokens has said from the first cell on; and prompts in which nothing comes
# back must leave the head without a route.

# %%
from induction_lab import distinct_tokens

nothing = distinct_tokens(model, n_prompts=16, length=2 * prompts.period)
for name, read in (("repeated", prompts), ("nothing repeated", nothing)):
    rests = capture(model, read, "pattern", heads=head)["pattern"][:, 0, prompts.period + 1 :, 0].mean()
    print(f"{name}: {float(rests):.2f} of the head's attention rests on the first token")

# %% [markdown]
# ## §8 Sources
#
# Where to read on, and where to measure on:
#
# - Vaswani et al. (2017), [Attention Is All You Need](https://arxiv.org/abs/1706.03762): §1's formula.
# - Elhage et al. (2021), [A Mathematical Framework for Transformer
#   Circuits](https://transformer-circuits.pub/2021/framework/index.html): §5's stream,
#   [circuits from weights](04_circuits_from_weights.py).
# - Olsson et al. (2022), [In-context Learning and Induction Heads](https://arxiv.org/abs/2209.11895): §6,
#   [watch them form](05_watch_them_form.py).
