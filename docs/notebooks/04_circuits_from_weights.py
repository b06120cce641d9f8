# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Circuits from weights
#
# So far we watched the model run. Now we let it sleep and read its weights. For an attention head two products say it
# all: **OV**, what it writes about a token that it attends to; and **QK**, which tokens it wants to attend to.
#
# In Colab, run this line first. Where the library is installed already, leave it out.

# %% tags=["skip-execution"]
# %pip install -q induction-lab

# %%
from induction_lab import load_model, repeated_tokens, score_heads

model = load_model()
scores = score_heads(model, repeated_tokens(model, n_prompts=8), scores=["prefix_matching", "previous_token"])
(induction, _), (previous, _) = scores.top("prefix_matching", 1)[0], scores.top("previous_token", 1)[0]
print("an induction head:", induction, " a previous-token head:", previous)

# %% [markdown]
# ## OV: does it copy?
#
# `ov_circuit` gives a matrix: row *a*, column *b* is how much attending to token *a* raises the logit of token *b*. A
# head that copies raises what it sees: the diagonal is bright.

# %%
import matplotlib.pyplot as plt

from induction_lab import ov_circuit

written = ov_circuit(model, induction).AB
plt.imshow(written[:60, :60], cmap="RdBu", vmin=-written.abs().max(), vmax=written.abs().max())
plt.xlabel("token that is raised")
plt.ylabel("token that is attended to")
plt.colorbar(label="logits")
plt.show()

# %% [markdown]
# Strict count: for which share of tokens is the token itself the *one* that is raised most?

# %%
from induction_lab import ov_self_copying, plot_head_scores

ax = plot_head_scores(ov_self_copying(model), "raises its own token most")

# %% [markdown]
# The whole matrix at a glance: its eigenvalues. A matrix that copies has positive ones, to the right. The number above
# each plane sums them up: 1 if all are positive, −1 if all are negative, near 0 if they balance.

# %%
from induction_lab import ov_eigenvalues, plot_eigenvalues

figure, axes = plt.subplots(1, 2, figsize=(6, 3), subplot_kw={"projection": "polar"}, layout="constrained")
eigenvalues = ov_eigenvalues(model)
for head, ax in zip((induction, previous), axes, strict=True):
    plot_eigenvalues(eigenvalues[head], title=str(head), ax=ax)

# %% [markdown]
# ## QK: what does it look for?
#
# Ask the induction head alone: does a query on a token prefer keys of the *same* token? It had better not: it wants the
# token after. Then let the previous-token head write into the keys first. Now a key tells which token came *before*
# it. Watch the diagonal appear.

# %%
from induction_lab import qk_circuit

figure, axes = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
for ax, key in zip(axes, ("embedding", previous), strict=True):
    wanted = qk_circuit(model, induction, key=key).AB[:60, :60]
    ax.imshow(wanted, cmap="RdBu", vmin=-wanted.abs().max(), vmax=wanted.abs().max())
    ax.set(title=f"keys from {key}", xlabel="token that the key tells of", ylabel="token of the query")

# %% [markdown]
# ## Who talks to whom?
#
# Composition: how much of what one head writes another head reads, in its keys (K), queries (Q) or values (V). What
# random matrices of this size would give is subtracted.

# %%
from induction_lab import composition_scores, plot_composition

ax = plot_composition(composition_scores(model, "K"))

# %%
for kind in "KQV":
    found = composition_scores(model, kind)[previous][induction.layer, induction.head]
    print(f"{previous} > {induction}: {kind}-composition {found:+.3f} above random")

# %% [markdown]
# ## The likely circuit
#
# Where heads look, times who reads whom: the strongest pairs.

# %%
from induction_lab import find_circuit, plot_circuit

circuit = find_circuit(model)
circuit

# %%
ax = plot_circuit(circuit)

# %% [markdown]
# ## Can we trust the measures?
#
# Here is a model whose weights were written by hand, with a perfect induction circuit in it. A measure that is right
# must find it, and nothing else.

# %%
from induction_lab import HookedModel, induction_circuit

by_hand = HookedModel(induction_circuit(), name="by hand")
find_circuit(by_hand)

# %% [markdown]
# "Likely" is the word: weights show what *could* happen. That it does happen takes
# [interventions](03_prove_it.py).
