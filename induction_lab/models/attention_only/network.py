"""`AttentionOnlyTransformer`: the small model of *A Mathematical Framework for Transformer Circuits*, hooked.

It follows the paper's equations: a residual stream `x` that starts as the embedding, heads that read from it and add
to it, and an unembedding that turns it into logits. In the row convention of TransformerLens (`x @ W`):

    x_0     = W_E[token]                      (+ W_pos[position], if learned)
    A^h     = softmax(x W_Q^h (x W_K^h)^T / sqrt(d_head))      over keys up to the query
    x_{l+1} = x_l + sum_h A^h x_l W_V^h W_O^h                  (+ MLP, if asked for)
    logits  = x_L W_U

with a LayerNorm before each read and biases, if asked for. Hook points and weights carry TransformerLens' names and
shapes, so what works on its models works here. Source: Elhage et al. (2021),
https://transformer-circuits.pub/2021/framework.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from induction_lab.attention.exact import MaterialisedAttention
from induction_lab.attention.hooks import attend, edited, pass_on
from induction_lab.models.attention_only.as_transformer_lens import AsTransformerLens
from induction_lab.models.attention_only.config import MODEL_TYPE, AttentionOnlyConfig
from induction_lab.models.attention_only.hook_points import HookPoint
from induction_lab.models.attention_only.layers import MLP, Embed, PosEmbed, Unembed, make_norm, rotate
from induction_lab.models.names_in_files import misfits, plain_names
from induction_lab.results.tables import writing

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"


class AttentionLayer(nn.Module):
    """The heads of one layer: `sum_h A^h x W_V^h W_O^h`."""

    b_Q: nn.Parameter
    b_K: nn.Parameter
    b_V: nn.Parameter
    hook_q: HookPoint
    hook_k: HookPoint
    hook_v: HookPoint
    hook_rot_q: HookPoint
    hook_rot_k: HookPoint
    hook_attn_scores: HookPoint
    hook_pattern: HookPoint
    hook_z: HookPoint
    hook_result: HookPoint

    def __init__(self, config: AttentionOnlyConfig, layer: int, scale: float = 1.0) -> None:
        """Gaussian weights that keep the scale of what they read, times `scale`."""
        super().__init__()
        self.config, self.layer = config, layer
        shape = (config.n_heads, config.d_model, config.d_head)
        self.W_Q = nn.Parameter(torch.randn(shape, dtype=torch.float32) * config.d_model**-0.5 * scale)
        self.W_K = nn.Parameter(torch.randn(shape, dtype=torch.float32) * config.d_model**-0.5 * scale)
        self.W_V = nn.Parameter(torch.randn(shape, dtype=torch.float32) * config.d_model**-0.5 * scale)
        self.W_O = nn.Parameter(
            torch.randn(shape, dtype=torch.float32).mT.contiguous() * (config.n_heads * config.d_head) ** -0.5 * scale
        )
        if config.biases:
            for name in ("b_Q", "b_K", "b_V"):
                zeros = torch.zeros(config.n_heads, config.d_head, dtype=torch.float32)
                self.register_parameter(name, nn.Parameter(zeros))
            self.b_O = nn.Parameter(torch.zeros(config.d_model, dtype=torch.float32))
        if config.smeared_keys:
            self.smear = nn.Parameter(torch.zeros(config.n_heads, dtype=torch.float32))
        for name in ("q", "k", "v", "rot_q", "rot_k", "attn_scores", "pattern", "z", "result"):
            if config.positions == "rotary" or not name.startswith("rot_"):
                self.add_module(f"hook_{name}", HookPoint())

    def forward(
        self, query_input: Float[Tensor, "batch pos d_model"], value_input: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the heads add to the stream. Queries and keys read `query_input`, values `value_input`."""
        if query_input is value_input:
            q, k, v = _project(value_input, self.W_Q, self.W_K, self.W_V)
        else:
            (q, k), (v,) = _project(query_input, self.W_Q, self.W_K), _project(value_input, self.W_V)
        if self.config.biases:
            q, k, v = q + self.b_Q, k + self.b_K, v + self.b_V
        q, k, v = self.hook_q(q), self.hook_k(self._smear(k)), self.hook_v(v)
        if self.config.positions == "rotary":
            q, k = self.hook_rot_q(rotate(q)), self.hook_rot_k(rotate(k))
        z = self.hook_z(self._mix(q, k, v))
        if self.hook_result.has_hooks(including_permanent=True):
            written = self.hook_result(torch.einsum("bpnh,nhd->bpnd", z, self.W_O)).sum(2)
        else:
            written = z.flatten(2) @ self.W_O.flatten(0, 1)
        return written + self.b_O if self.config.biases else written

    def _mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """`A v` for each head; `A` itself is built only for those who hook it."""
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        scale = self.config.d_head**-0.5
        if not (self.hook_pattern.has_hooks() or self.hook_attn_scores.has_hooks()):
            return attend(q, k, v, layer=self.layer, scale=scale, owner=self).transpose(1, 2)
        future = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
        scores = self.hook_attn_scores((q @ k.mT * scale).masked_fill(future, -torch.inf))
        pattern = scores.softmax(-1)
        own = edited(MaterialisedAttention(self.layer, pattern, v, pattern @ v), self)
        pattern = self.hook_pattern(own.matrix)  # forced patterns are what a hook sees
        return pass_on(MaterialisedAttention(self.layer, pattern, v, pattern @ v), self).transpose(1, 2)

    def _smear(self, k: Float[Tensor, "batch pos head d_head"]) -> Float[Tensor, "batch pos head d_head"]:
        if not self.config.smeared_keys:
            return k
        own = torch.sigmoid(self.smear)[:, None].to(k.dtype)  # keys may be narrower than weights
        mixed = own * k[:, 1:] + (1 - own) * k[:, :-1]
        return torch.cat([k[:, :1], mixed], 1)


class Block(nn.Module):
    """One layer: heads, then the MLP if there is one, each adding to the residual stream."""

    hook_out_is_single_residual_stream = True  # TransformerLens' logit lens asks

    def __init__(self, config: AttentionOnlyConfig, layer: int, scale: float = 1.0) -> None:
        """Build the layer's parts."""
        super().__init__()
        self.adds_after_norm = config.positions == "shortformer_after_norm"
        self.ln1 = make_norm(config)
        self.attn = AttentionLayer(config, layer, scale)
        self.hook_resid_pre = HookPoint()
        self.hook_attn_out = HookPoint()
        self.hook_resid_post = HookPoint()
        self.mlp = None
        if config.d_mlp is not None:
            self.ln2 = make_norm(config)
            self.mlp = MLP(config)
            self.hook_resid_mid = HookPoint()
            self.hook_mlp_out = HookPoint()

    def forward(
        self, x: Float[Tensor, "batch pos d_model"], positions: Float[Tensor, "*every pos d_model"] | None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The stream after this layer."""
        x = self.hook_resid_pre(x)
        queried = read = self.ln1(x)
        if positions is not None:
            queried = read + positions if self.adds_after_norm else self.ln1(x + positions)
        x = x + self.hook_attn_out(self.attn(queried, read))
        if self.mlp is not None:
            x = self.hook_resid_mid(x)
            x = x + self.hook_mlp_out(self.mlp(self.ln2(x)))
        return self.hook_resid_post(x)


class AttentionOnlyTransformer(AsTransformerLens):
    """A decoder of attention layers, hooked like a TransformerLens model.

    When its hooks are first used (`hook_dict`, `run_with_cache`, …, `model.hooked`), that library is loaded and the
    network becomes one of its `HookedRootModule`s, in its place: `isinstance` says so from then on.

    Args:
        config: Its shape.
        seed: Of the initial weights; the global random state is left alone.
        scale: Of the heads' initial weights; 1 keeps the scale of what they read. Small ones (0.1 to 0.6) leave it to
            training what a head becomes: two layers on blocks that repeat then form induction heads in every seed.
    """

    any_length = False  # set while somebody reads prompts whose length has been looked at (`OwnAnatomy.reading_on`)
    trusts_tokens = False  # set by who has looked at them: looking makes a GPU wait

    def __init__(self, config: AttentionOnlyConfig, *, seed: int = 0, scale: float = 1.0) -> None:
        """Build with random weights."""
        super().__init__()
        self.cfg = config
        self.tokenizer = None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.embed = Embed(config.d_vocab, config.d_model)
            self.hook_embed = HookPoint()
            if config.positions == "learned" or config.is_shortformer:
                self.pos_embed = PosEmbed(config.n_ctx, config.d_model)
                self.hook_pos_embed = HookPoint()
            self.blocks = nn.ModuleList(Block(config, layer, scale) for layer in range(config.n_layers))
            self.ln_final = make_norm(config, final=True)
            self.unembed = Unembed(config.d_model, config.d_vocab, bias=config.biases)
        for name, module in self.named_modules():
            if name:
                vars(module)["name"] = name  # as TransformerLens calls it

    def forward(
        self,
        tokens: Int[Tensor, "*batch pos"] | str | Sequence[str],
        *,
        return_type: Literal["logits", "loss", "both", "hidden"] | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool = True,
    ) -> Any:
        """Logits of every next token, `[batch, pos, d_vocab]`.

        Args:
            tokens: Token ids, one row or several; texts where the model has a tokenizer.
            return_type: `loss`: the mean cross-entropy of the next tokens in nats; `both`; None: nothing, where hooks
                are what is wanted; `hidden`: the normalised stream before the unembedding, `[batch, pos, d_model]`.
            loss_per_token: The loss of every predicted token, `[batch, pos - 1]`.
            prepend_bos: BOS in front of texts.

        Raises:
            ValueError: If a prompt is longer than the context or a token lies outside the vocabulary.
        """
        if not isinstance(tokens, Tensor):
            tokens = self.to_tokens(tokens, prepend_bos)
        tokens = tokens[None] if tokens.ndim == 1 else tokens
        if not self.trusts_tokens:
            self._check(tokens)
        hidden = self._hidden(tokens)
        if return_type in ("hidden", None):
            return hidden if return_type else None
        logits = self.unembed(hidden)
        if return_type == "logits":
            return logits
        each = nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none")
        loss = each if loss_per_token else each.mean()
        if return_type not in ("loss", "both"):
            raise ValueError(f"`return_type` must be logits, loss, both, hidden or None, got {return_type!r}.")
        return loss if return_type == "loss" else (logits, loss)

    def _hidden(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        x, positions = self.hook_embed(self.embed(tokens)), None
        if self.cfg.positions == "learned" or self.cfg.is_shortformer:
            positions = self.pos_embed(tokens.shape[1])
            if self.hook_pos_embed.has_hooks(including_permanent=True):  # a row a prompt, as TransformerLens has
                positions = self.hook_pos_embed(positions.expand(len(tokens), -1, -1))
        if self.cfg.positions == "learned":
            x, positions = x + positions, None
        for block in self.blocks:
            x = block(x, positions)
        return self.ln_final(x)

    def _check(self, tokens: Tensor) -> None:
        reads_on = self.any_length and self.cfg.positions == "rotary"
        if tokens.shape[1] > self.cfg.n_ctx and not reads_on:
            raise ValueError(f"The prompt has {tokens.shape[1]} tokens, the model's context only {self.cfg.n_ctx}.")
        if tokens.numel() and not (0 <= int(tokens.min()) and int(tokens.max()) < self.cfg.d_vocab):
            raise ValueError(
                f"Tokens must lie in [0, {self.cfg.d_vocab}), got {int(tokens.min())} … {int(tokens.max())}."
            )

    def save(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors` into a folder that is made if need be."""
        folder = Path(folder)
        config = {"model_type": MODEL_TYPE, **self.cfg.to_dict()}
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        with writing(folder / CONFIG_FILE) as facts, writing(folder / WEIGHTS_FILE) as part:  # both whole or neither
            save_file(weights, part)
            facts.write_text(json.dumps(config, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> AttentionOnlyTransformer:
        """Read a model that `save` wrote.

        Raises:
            ValueError: If the folder holds no such model, or a damaged one.
        """
        folder = Path(folder)
        try:
            config = json.loads((folder / CONFIG_FILE).read_text())
            if config.pop("model_type", None) != MODEL_TYPE:
                raise ValueError(f"its {CONFIG_FILE} is not of model_type {MODEL_TYPE!r}")
            unknown = set(config) - {field.name for field in fields(AttentionOnlyConfig)}
            if unknown:
                raise ValueError(f"its {CONFIG_FILE} has unknown entries {sorted(unknown)}")
            model = cls(AttentionOnlyConfig(**config))
            weights = plain_names(load_file(folder / WEIGHTS_FILE))
            own = model.state_dict()
            if reason := misfits(own.keys() - weights, weights.keys() - own):
                raise ValueError(reason)
            model.load_state_dict(weights)
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise ValueError(
                f"{folder} holds no readable AttentionOnlyTransformer: {error}. "
                f"It needs {CONFIG_FILE} and {WEIGHTS_FILE} as `model.save(folder)` writes them."
            ) from error
        return model.eval()


def _project(
    x: Float[Tensor, "batch pos d_model"], *several: Float[Tensor, "head d_model d_head"]
) -> tuple[Float[Tensor, "batch pos head d_head"], ...]:
    """`x @ W` of every head, for each of several weights, in one product."""
    n_heads, d_model, d_head = several[0].shape
    columns = torch.cat(several).transpose(0, 1).reshape(d_model, -1)
    return (x @ columns).unflatten(-1, (-1, d_head)).split(n_heads, 2)
