# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own score
#
# You have an idea of what some head might do. Write it down in three lines, and it is measured like all the others: for
# every head, with its standard error, what chance gives, tables, figures, and over training.
#
# In Colab, run this line first. Where the library is installed already, leave it out.

# %% tags=["skip-execution"]
# %pip install -q induction-lab

# %% [markdown]
# ## The idea
#
# An induction head looks at the token right behind the earlier occurrence. Is there a head that looks one *further*, as
# if it planned ahead? Say which key each query should look at, and that is the score. Position 0 holds BOS.

# %%
from induction_lab import AttentionScore, load_model, plot_head_scores, repeated_tokens, score_heads


class OneFurther(AttentionScore):
    name = "one_further"
    meaning = "Attention to the second token behind the latest earlier occurrence of the current token."
    source = "this notebook"

    def pairs(self, tokens):
        last, found = {}, []
        for query, token in enumerate(map(int, tokens)):
            if last.get(token, query) + 2 < query:
                found.append((query, last[token] + 2))
            last[token] = query
        return found


# %% [markdown]
# ## Measure
#
# It costs next to nothing beside the others: all attention scores come out of one forward pass.

# %%
model = load_model()
prompts = repeated_tokens(model, n_prompts=16, period=25)
scores = score_heads(model, prompts, scores=["prefix_matching", OneFurther()])
scores

# %%
ax = plot_head_scores(scores, "one_further")

# %% [markdown]
# Compare with `chance`: what a head would score that spreads its attention evenly. Is any head far above it? Most ideas
# about heads are wrong, and it is good to know so within a minute.
#
# ## Is the score itself right?
#
# A score that says next to nothing everywhere may just be broken. Check it the slow way: take a head's attention
# matrix, and look up the pairs one by one.

# %%
from induction_lab import capture

(head, value), *_ = scores.top("one_further", 1)
patterns = capture(model, prompts, "pattern", heads=head)["pattern"]
by_prompt = [
    sum(patterns[row, 0, query, key] for query, key in pairs) / len(pairs)
    for row, pairs in enumerate(map(OneFurther().pairs, prompts.tokens.tolist()))
]
print(f"{head}: the score says {value:.6f}, the slow way {sum(by_prompt) / len(by_prompt):.6f}")

# %% [markdown]
# And make a model that *does* it. `clamp_heads` forces a head to attend as an ideal says. A clamped previous-token head
# must score 1 in the score that is about it; a head that does your new thing you would check in the same way.

# %%
from induction_lab import clamp_heads

with clamp_heads(model.network, {"L0H0": "previous_token"}):
    clamped = score_heads(model, prompts, scores=["previous_token", OneFurther()])
print(clamped.of("L0H0"))

# %% [markdown]
# ## Not attention to places? Two more kinds
#
# A `LayerScore` sees what heads put out as the model runs: here, how long a head's output is. A `WeightScore` sees the
# weights alone.

# %%
from induction_lab import LayerScore, WeightScore


class OutputSize(LayerScore):
    name, low = "output_size", 0.0
    meaning = "Norm of what the head puts out, mean over positions from 1 on."
    source = "this notebook"

    def read(self, model, prompts, attention):
        return attention.z[:, :, 1:].norm(dim=-1).mean(-1)  # z is [prompt, head, pos, d_head]


class WritingWeights(WeightScore):
    name, low = "writing_weights", 0.0
    meaning = "Frobenius norm of W_O."
    source = "this notebook"

    def measure(self, model):
        return model.hooked.W_O.norm(dim=(-2, -1))  # [layer, head]


# %%
mine = [OneFurther(), OutputSize(), WritingWeights()]
scores = score_heads(model, prompts, scores=["prefix_matching", *mine])
scores

# %% [markdown]
# ## Everywhere else
#
# Whatever takes a score's name takes yours. Over training, for example: does it come and go?

# %%
from tempfile import mkdtemp

from induction_lab import follow_training, load_recipe, plot_over_training, train_run

run = train_run(load_recipe("minute", steps=250, every=50), f"{mkdtemp()}/minute")
followed = follow_training(run, scores=["prefix_matching", OneFurther()], probes=())
ax = plot_over_training(followed, "one_further")

# %% [markdown]
# Do you see a small hump before the line goes down again? Perhaps heads that learn to look back look a little too far
# at first; perhaps it is nothing. Ask other seeds (`load_recipe("minute", seed=1)`) before you believe it.
