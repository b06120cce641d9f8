# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Watch them form
#
# Induction heads are not built in. They appear during training, and often all at once. You are going to train a small
# model from nothing and look into it at every checkpoint.
#
# In Colab, run this line first. Where the library is installed already, leave it out.

# %% tags=["skip-execution"]
# %pip install -q induction-lab

# %% [markdown]
# ## Train
#
# Two layers of attention, blocks of random tokens that repeat, a block length that is never shown kept for the test.
# It takes moments, and is kept in a folder: run the cell again and it is only read.

# %%
from tempfile import mkdtemp

from induction_lab import load_recipe, train_run

run = train_run(load_recipe("minute", steps=300, every=25), f"{mkdtemp()}/minute")
run

# %% [markdown]
# ## Look into every checkpoint
#
# The heads are scored on the block length that was held out, the losses on data that was not trained on.

# %%
import torch

from induction_lab import follow_training

unseen = run.stream().draw(torch.Generator().manual_seed(1), n_prompts=32, n_ctx=64)
followed = follow_training(run, texts=unseen, probes=(), scores=["prefix_matching", "previous_token", "ov_copying"])
followed

# %% [markdown]
# ## The moment
#
# First the best head of all, then every head by itself. The grey band is where the best one rises.

# %%
from induction_lab import plot_over_training

ax = plot_over_training(followed, "prefix_matching")

# %%
from induction_lab import plot_heads_over_training

ax = plot_heads_over_training(followed, "prefix_matching")

# %% [markdown]
# Nothing, nothing, nothing, and then several heads of one layer within a few checkpoints. When was it? And what about
# the other half of the circuit, a head of the lower layer that looks at the token before?

# %%
from induction_lab import onset_between, rise

for metric in ("prefix_matching", "previous_token"):
    best = followed.best(metric)
    print(f"{metric}: first at 0.4 or above between steps {onset_between(best, 0.4)}; {rise(best)}")

# %% [markdown]
# They come together: neither is of much use without the other.
#
# ## What the model gains by it
#
# On the second copy of a block the loss falls at the same time, and the model begins to make use of its context: its
# loss late in a prompt drops below that early on. Is the fall in *your* figure inside the grey band?

# %%
from induction_lab import plot_model_analysis

plot_model_analysis(followed)

# %% [markdown]
# The last panel: the losses on many single tokens, taken together as one point, and the path of that point through
# training. A sharp turn means that the model began to get *other* tokens right than before.
#
# ## As a film

# %%
from induction_lab import animate_heads

animate_heads(followed)

# %% [markdown]
# ## A model that cannot
#
# One layer has no layer below it, so no head can be told which token came before. Is it slow, or can it not at all?

# %%
from dataclasses import replace

recipe = load_recipe("minute", steps=300, every=50)
shallow = train_run(replace(recipe, model=replace(recipe.model, n_layers=1)), f"{mkdtemp()}/one layer")
one_layer = follow_training(shallow, probes=(), scores=["prefix_matching"])
print("the best head of one layer:", one_layer.best("prefix_matching").round(2).tolist())

# %% [markdown]
# To watch your own model while it trains, give `InductionCallback()` to its `Trainer`; to look at checkpoints that
# others published: `follow_training(Revisions("EleutherAI/pythia-70m", …))`.
