# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Find induction heads in five minutes
#
# Some attention heads copy: they look back to where the current token stood before, and say what came after it. They
# are called induction heads. You are about to find them, watch one at work, and switch it off.
#
# In Colab, run this line first. Where the library is installed already, leave it out.

# %% tags=["skip-execution"]
# %pip install -q induction-lab

# %% [markdown]
# ## A model that fits in your pocket
#
# It comes with the library and runs in moments. Everything below works the same way on GPT-2 or on a Llama:
# `load_model("gpt2")`.

# %%
from induction_lab import load_model, repeated_tokens, score_heads

model = load_model()
model

# %% [markdown]
# ## A test that only copying can pass
#
# Draw a block of random tokens, and write it twice. In the first copy nobody can know what comes next. In the second,
# whoever remembers the first can know it all. Nothing else helps: there is no grammar here, and no meaning.

# %%
prompts = repeated_tokens(model, n_prompts=16, period=50)
prompts

# %% [markdown]
# Does the model pass? Its loss says how surprised it is at each token. Look at what happens where the second copy
# begins.

# %%
from induction_lab import plot_loss

scores = score_heads(model, prompts, chance_test=True)
ax = plot_loss(scores)

# %% [markdown]
# ## Who did that?
#
# Each head gets one number for each thing that heads are known to do. `prefix_matching` is how much of its attention a
# head puts on the token *after* the earlier occurrence of the current token: 1 is a perfect induction head, and
# `chance` is what a head that spreads its attention evenly would score.

# %%
scores

# %%
from induction_lab import plot_head_scores

ax = plot_head_scores(scores, "prefix_matching")

# %% [markdown]
# One layer is full of them, the other has none. That is no accident: a head can only look for "what came after my
# token" once some head *below* it has noted, at every position, which token came before. Have a look at
# `previous_token` in the table: its best head is in the lower layer.
#
# Are they above chance, or did we search until we found something? The same heads were scored on prompts that repeat
# nothing; these stand out from that.

# %%
found = scores.significant("prefix_matching")
best = found[0]
found

# %% [markdown]
# ## Watch one at work
#
# A picture says more. Each row is a token that looks, each column a token that is looked at. In the second half there
# is a stripe: parallel to the diagonal, one block back, and one token *further*.

# %%
from induction_lab import plot_pattern

short = repeated_tokens(model, n_prompts=1, period=12)
ax = plot_pattern(model, short, best)

# %% [markdown]
# The same as a toy: point at a token (or use the arrow keys), and arcs lead to what each head looks at from there.

# %%
from induction_lab import show_attention

show_attention(model, short, found[:2])

# %% [markdown]
# ## Does looking help?
#
# Looking is not saying. How much does each part of the model add to the score of the right next token?

# %%
from induction_lab import attribute_logits, plot_logit_attribution

ax = plot_logit_attribution(attribute_logits(model, prompts))

# %% [markdown]
# ## Switch them off
#
# The last test is the strict one: take the heads away (each puts out its average over other prompts instead), and see
# whether the model can still copy.

# %%
from induction_lab import ablate

with ablate(model, found):
    without = score_heads(model, prompts, scores=["prefix_matching"])
print("loss on each copy, with them:   ", [round(loss, 2) for loss in scores.loss_by_copy])
print("loss on each copy, without them:", [round(loss, 2) for loss in without.loss_by_copy])

# %% [markdown]
# The first copy is as it was; on the second the model is lost. (It may do even worse than on the first: heads that
# always say something, whatever they see, are no neutral thing to add.) So these heads are where copying happens.
#
# Where to go on: [your own texts](02_your_own_texts.py), [the proof, step by step](03_prove_it.py),
# [the circuit in the weights](04_circuits_from_weights.py), [how they form](05_watch_them_form.py).
