# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Prove it: ablate and patch
#
# A head that looks at the right place might do nothing with what it sees. To know what a head *does*, interfere: take
# something away and measure what is lost. Four experiments, each sharper than the one before.
#
# In Colab, run this line first. Where the library is installed already, leave it out.

# %% tags=["skip-execution"]
# %pip install -q induction-lab

# %%
from induction_lab import load_model, repeated_tokens, score_heads

model = load_model()
prompts = repeated_tokens(model, n_prompts=16, period=25)
others = repeated_tokens(model, n_prompts=32, period=25, seed=1)
scores = score_heads(model, prompts, scores=["prefix_matching", "previous_token", "current_token"])
suspects = scores.above("prefix_matching")
suspects

# %% [markdown]
# ## 1. Take all suspects away, and then some innocents
#
# An ablated head puts out what it puts out *on average over other prompts*: it is still there, but it knows nothing
# about this one. The control matters most. Taking away heads that nobody suspects should not hurt in the same way. Does
# it?

# %%
import pandas as pd

from induction_lab import ablate

innocents = [head for head, _ in scores.top("prefix_matching", 8) if head not in suspects]
losses = {"with all heads": scores.loss_by_copy}
for name, heads in (("without the suspects", suspects), ("without the innocents", innocents)):
    with ablate(model, heads, reference=others):
        losses[name] = score_heads(model, prompts, scores=["prefix_matching"]).loss_by_copy
pd.DataFrame(losses, index=["first copy", "second copy"]).T.round(2)

# %% [markdown]
# Oh. The innocents are needed as well! Either everything matters, or the lower layer does a job that the suspects
# depend on. Do not explain it away: look closer.
#
# ## 2. One at a time
#
# Each head by itself. The effect is how much the loss on the second copy rises without it, with its standard error over
# prompts.

# %%
from induction_lab import ablation_sweep, plot_effects

effects = ablation_sweep(model, prompts, reference=others)
effects

# %%
ax = plot_effects(effects, n_layers=model.n_layers, n_heads=model.n_heads)

# %% [markdown]
# One suspect alone is hardly missed: the others do the same job, and step in. So a small effect of one head does *not*
# mean that it does nothing. Some heads of the lower layer cannot be replaced. What do they do? Their scores say where
# they look:

# %%
for label, effect in effects.top(3):
    looks = {name: round(scores.of(label)[name], 2) for name in ("previous_token", "current_token")}
    print(f"{label}: effect {effect:+.2f} nats, looks {looks}")

# %% [markdown]
# ## 3. Cut one wire
#
# The theory: a previous-token head writes "the token before me was x" at every position, and the induction heads find
# their target by *that*, in their **keys**. Then cutting the wire from the lower heads into the keys must hurt, and
# cutting the wire into the queries or the values much less. Path patching cuts one wire and leaves everything else as
# it was.

# %%
from induction_lab import patch_paths

wires = {part: patch_paths(model, prompts, suspects, part, reference=others) for part in ("k", "q", "v")}
table = pd.DataFrame({part: found.table.set_index("label")["effect"] for part, found in wires.items()})
table.sort_values("k", ascending=False).round(3)

# %% [markdown]
# Read it by columns. The keys (`k`) depend on heads that look back, and on nothing else: they say what came before. The
# values (`v`) depend on the token itself, brought along by the head that looks at its own token: that is what gets
# copied. And the queries (`q`)? The theory says: the own token. Look at which senders matter there. This model asks for
# *more* than the theory: a head that looks back writes into the queries, too, so it looks for two tokens in a row. (In
# [the essay](06_the_essay.py), §6, you can see that one matching word is not enough for it.) A theory is a good place
# to start an experiment, and a bad place to end one.
#
# ## 4. Patch instead of ablating
#
# Averages are one choice of "without". Another is to give the head what it put out on one *other* prompt: everything
# typical stays, only the content is wrong. If the conclusions hold, both must agree.

# %%
patched = ablation_sweep(model, prompts, method="resample", reference=others)
print(f"agreement of the two: {effects.correlation(patched):.2f} (correlation over heads)")
patched

# %% [markdown]
# ## All of it at once
#
# `explain` does these steps on any model, draws what it found, and tests whether the circuit alone can carry the job.

# %%
from induction_lab import explain, plot_explanation

explained = explain(model, prompts, reference=others)
explained

# %%
plot_explanation(explained)

# %% [markdown]
# On the right: how much the circuit does *alone*, with all other heads ablated. That is the difference between "it is
# involved" and "it is enough". But count the heads in the table. If the circuit is *all* heads of the model, nothing is
# left to ablate, and the test says nothing: an honest reader notices. In a larger model most heads stay outside, and
# the circuit is compared with random sets of as many heads.
#
# Where to go on: [the same circuit, from the weights alone](04_circuits_from_weights.py).
