# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A first look
#
# The bundled model has two layers of four heads. On a block of random tokens that is written twice, whoever knows what
# comes next has copied it: nothing else tells.

# %%
from induction_lab import load_model, plot_head_scores, repeated_tokens, score_heads

model = load_model()
scores = score_heads(model, repeated_tokens(model, n_prompts=16, period=50))
scores

# %% [markdown]
# The heads of layer 1 look at what followed the token before; see [the definition](../scores.md).

# %%
plot_head_scores(scores, "prefix_matching")
