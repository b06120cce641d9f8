# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Exercises: induction heads, from patterns to circuits
#
# The exercises on induction heads that courses such as [ARENA](https://arena.education) (chapter 1.2, on a two-layer
# attention-only model) have made well known, solved here on the bundled model, which is one as well. The wording and
# the solutions are ours. Each part has a task: stop there, try it, then run the cell. Where you write something by
# hand, the library's own answer stands beside it as a check.
#
# In Colab, run this line first. Where the library is installed already, leave it out.

# %% tags=["skip-execution"]
# %pip install -q induction-lab

# %%
import matplotlib.pyplot as plt
import torch

from induction_lab import load_model, repeated_tokens, score_heads

model = load_model()
network = model.network  # answers as a TransformerLens model does
prompts = repeated_tokens(model, n_prompts=8, period=30)
model

# %% [markdown]
# ## 1. Look inside a run
#
# **Task.** Run the model and keep everything. Which shape has the attention pattern of layer 0, and why? Then make the
# pattern yourself, from the rotated queries and keys, and check it.

# %%
with torch.no_grad():
    logits, cache = network.run_with_cache(prompts.tokens)
pattern = cache["pattern", 0]
print(tuple(pattern.shape), "= prompt, head, query, key; each row sums to", round(float(pattern[0, 0, 5].sum()), 4))

# %%
from induction_lab import capture

acts = capture(model, prompts, ["rot_q", "rot_k"], layers=0)
q, k = acts["rot_q", 0].transpose(1, 2), acts["rot_k", 0].transpose(1, 2)
above = torch.ones(q.shape[2], q.shape[2]).triu(1).bool()
made = (q @ k.mT / model.d_head**0.5).masked_fill(above, -torch.inf).softmax(-1)
print("largest difference:", float((made - pattern).abs().max()))

# %% [markdown]
# ## 2. See all heads
#
# **Task.** Show where every head looks on one short prompt. Find one that looks at the token before, one that looks at
# itself, one that rests on the first token. Which of them sit in layer 0, which in layer 1?

# %%
from induction_lab import show_attention

short = repeated_tokens(model, n_prompts=1, period=10)
show_attention(model, short, [(layer, head) for layer in range(model.n_layers) for head in range(model.n_heads)])

# %% [markdown]
# ## 3. Detectors
#
# **Task.** Write three numbers for each head: mean attention to the previous token, to the current one, and to the
# first. All three are averages over a diagonal or a column. The query at position 0 can look nowhere else: leave it out
# (for the previous token, leave out the next one too: its previous token *is* the first). For the first position the
# library's `resting` asks only tokens that have not occurred before, that is, those of the first copy: so do the same.

# %%
patterns = torch.stack([cache["pattern", layer] for layer in range(model.n_layers)])
current = patterns.diagonal(dim1=-2, dim2=-1)[..., 1:].mean((1, 3))
before = patterns.diagonal(offset=-1, dim1=-2, dim2=-1)[..., 1:].mean((1, 3))
first = patterns[..., 1 : prompts.period + 1, 0].mean((1, 3))

# %%
scores = score_heads(model, prompts)
for name, mine in (("current_token", current), ("previous_token", before), ("resting", first)):
    print(f"{name:15} largest difference from the library: {float((mine - scores[name]).abs().max()):.1e}")
scores

# %% [markdown]
# ## 4. Repeat, and watch the loss
#
# **Task.** Work out each token's loss on prompts that say everything twice, and draw it. Where does it fall, and after
# how many tokens of the second copy?

# %%
log_p = logits[:, :-1].log_softmax(-1)
loss = -log_p.gather(-1, prompts.tokens[:, 1:, None])[..., 0].mean(0)
plt.figure(figsize=(7, 2.5))
plt.plot(range(1, len(loss) + 1), loss)
plt.axvline(prompts.period + 1, ls="--")
plt.xlabel("position of the predicted token")
plt.ylabel("loss, nats")
plt.show()

# %% [markdown]
# ## 5. The induction stripe
#
# **Task.** With a period of `p`, an induction head looks from position `t` to `t - p + 1`: a diagonal. Write the
# detector. Which heads are above 0.4?

# %%
stripe = patterns.diagonal(offset=1 - prompts.period, dim1=-2, dim2=-1)[..., 2:].mean((1, 3))
print("largest difference from the library:", float((stripe - scores["induction_stripe"]).abs().max()))
found = scores.above("induction_stripe")
found

# %% [markdown]
# ## 6. Hooks
#
# **Task.** A cache of everything is large. Compute the same stripe with a hook that keeps one number a head while the
# model runs, and nothing else.

# %%
kept = {}


def keep_stripe(pattern, hook):
    diagonal = pattern.diagonal(offset=1 - prompts.period, dim1=-2, dim2=-1)
    kept[hook.name] = diagonal[..., 2:].mean((0, 2))


network.run_with_hooks(prompts.tokens, fwd_hooks=[(lambda name: name.endswith("pattern"), keep_stripe)])
print("the same as before:", torch.allclose(torch.stack(list(kept.values())), stripe))

# %% [markdown]
# ## 7. Who adds what to the right logit?
#
# **Task.** The stream before the unembedding is a sum: the embedding, and one term for each head. Split the logit of
# the right next token into those terms. The final LayerNorm divides by a scale: hold it at what it was, and the terms
# add up exactly.

# %%
from induction_lab import attribute_logits, plot_logit_attribution

split = attribute_logits(model, prompts)
right = logits[:, :-1].gather(-1, prompts.tokens[:, 1:, None])[..., 0] - logits[:, :-1].mean(-1)
gap = (split.values.sum(0)[:, :-1] - right).abs().max()
print("the terms add up to the logit (minus the mean of all logits), up to", float(gap))

# %%
ax = plot_logit_attribution(split)

# %% [markdown]
# ## 8. Ablate
#
# **Task.** Set one head's output `z` to zero with a hook, and see how much the loss on the second copy rises. For every
# head. Why do heads that add nothing to the logit matter most?

# %%
second = slice(prompts.period + 1, None)  # predictions of the second copy, its first token left out


def loss_without(layer, head):
    def silence(z, hook):
        z[:, :, head] = 0.0
        return z

    with torch.no_grad():
        out = network.run_with_hooks(prompts.tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)])
    p = out[:, :-1].log_softmax(-1).gather(-1, prompts.tokens[:, 1:, None])[..., 0]
    return -p[:, second].mean()


# %%
from induction_lab import ablation_sweep, plot_effects

by_hand = torch.tensor([[loss_without(layer, head) for head in range(4)] for layer in range(2)]) - loss[second].mean()
effects = ablation_sweep(model, prompts, method="zero")
print("largest difference from the library:", float((by_hand - effects.matrix(2, 4)).abs().max()))
ax = plot_effects(effects, n_layers=2, n_heads=4)

# %% [markdown]
# ## 9. The OV circuit
#
# **Task.** For one induction head, make the matrix that says how attending to token *a* changes the logit of token *b*.
# For which share of tokens is the token itself raised most? And for all induction heads together? (Norms are folded
# into the weights first.)

# %%
from induction_lab import ov_circuit, ov_self_copying

circuits = {head: ov_circuit(model, head).AB for head in found}
together = sum(circuits.values())
for name, matrix in [*circuits.items(), ("all together", together)]:
    print(name, f"top-1 accuracy {float((matrix.argmax(-1) == torch.arange(len(matrix))).float().mean()):.3f}")

# %%
some = torch.randperm(model.d_vocab, generator=torch.Generator().manual_seed(0))[:80].sort().values
plt.imshow(together[some][:, some], cmap="RdBu", vmin=-together.abs().max(), vmax=together.abs().max())
plt.xlabel("token that is raised")
plt.ylabel("token that is attended to")
plt.colorbar(label="logits")
plt.show()

# %% [markdown]
# The library counts the same over all heads: `ov_self_copying(model)`.

# %%
ov_self_copying(model)

# %% [markdown]
# ## 10. The QK circuit of the previous-token head
#
# **Task.** In models with learned positions one multiplies position vectors with `W_QK` and sees a bright diagonal, one
# off the middle. This model has *rotary* positions: queries and keys are turned by where they stand. So ask instead:
# averaged over all tokens, how much does each head of layer 0 like a key that stands so many tokens back?

# %%
from induction_lab import positional_preference

offsets = range(12)
liking = positional_preference(model, offsets)[:, 0]
for head in range(model.n_heads):
    plt.plot(offsets, liking[:, head] - liking[:, head].mean(), "o-", label=f"L0H{head}")
plt.xlabel("tokens back")
plt.ylabel("score, minus its mean")
plt.legend()
plt.show()

# %% [markdown]
# One of them has its peak one token back, whatever the tokens are. Is it the one with the highest `previous_token`
# score?

# %%
(previous, value), *_ = scores.top("previous_token", 1)
previous, int(liking[:, previous.head].argmax())

# %% [markdown]
# ## 11. K-composition
#
# **Task.** Put the two together. Let the previous-token head write into the keys, and let an induction head ask with
# its own token. For which share of tokens is the best key the one that tells "my previous token was the one you ask
# for"? As a control, take keys that the head writes nothing into.

# %%
from induction_lab import qk_circuit

asking = {"keys from the previous-token head": previous, "keys from the embedding": "embedding"}
for name, key in asking.items():
    match = qk_circuit(model, found[0], key=key, offset=prompts.period - 1).AB
    print(f"{name}: top-1 accuracy {float((match.argmax(-1) == torch.arange(len(match))).float().mean()):.3f}")

# %% [markdown]
# ## 12. Composition scores
#
# **Task.** Between every head of layer 0 and every head of layer 1: how much of what the first writes does the second
# read, in its queries, keys and values? Compare with random matrices of the same shapes: without that, no number means
# anything.

# %%
from induction_lab import composition_scores

figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained")
for ax, kind in zip(axes, "QKV", strict=True):
    image = ax.imshow(composition_scores(model, kind)[0, :, 1], cmap="RdBu_r", vmin=-0.1, vmax=0.1)
    ax.set(title=f"{kind}-composition", xlabel="head of layer 1", ylabel="head of layer 0")
figure.colorbar(image, ax=axes, label="above random")
plt.show()

# %% [markdown]
# The row of the previous-token head is the one to look at. Now say in one sentence how this model copies: which head
# writes what, who reads it, and who speaks. Then check it against [the proof by intervention](03_prove_it.py).
