"""`AttentionOnlyConfig`: the shape of the small model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

MODEL_TYPE = "attention-only"  # in the config.json of a saved model
Positions = Literal["learned", "rotary", "shortformer", "none"]


@dataclass(frozen=True)
class AttentionOnlyConfig:
    """The shape of an `AttentionOnlyTransformer`.

    Attributes:
        n_layers: Blocks; with none the model is a table of what follows each token.
        n_heads: Heads a block.
        d_model: Width of the residual stream.
        d_head: Width of a head's queries, keys and values.
        d_vocab: Tokens, `bos_token_id` among them.
        n_ctx: Longest prompt.
        positions: `learned` vectors added to the embedding; `rotary` (queries and keys are rotated by their
            position, Su 2021); `shortformer` (position vectors added to what queries and keys read, not to the
            stream, Press 2020); or `none`.
        layer_norm: A LayerNorm before every read from the stream and before the unembedding.
        smeared_keys: Each head's key is mixed with the one before it, `s k_j + (1 - s) k_{j-1}`, `s` trained
            (Olsson 2022).
        d_mlp: Width of an MLP after each block's attention; none by default.
        bos_token_id: The token every prompt begins with.
    """

    n_layers: int = 2
    n_heads: int = 4
    d_model: int = 64
    d_head: int = 16
    d_vocab: int = 64
    n_ctx: int = 64
    positions: Positions = "rotary"
    layer_norm: bool = True
    smeared_keys: bool = False
    d_mlp: int | None = None
    bos_token_id: int = 0

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        optional = () if self.d_mlp is None else ("d_mlp",)
        for name in ("n_layers", "n_heads", "d_model", "d_head", "d_vocab", "n_ctx", *optional):
            least = 0 if name == "n_layers" else 1
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= least):
                raise ValueError(f"`{name}` must be a whole number of at least {least}, got {getattr(self, name)!r}.")
        if self.positions not in get_args(Positions):
            raise ValueError(f"`positions` must be one of {get_args(Positions)}, got {self.positions!r}.")
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"Rotary positions need an even `d_head`, got {self.d_head}.")
        if not 0 <= self.bos_token_id < self.d_vocab:
            raise ValueError(f"`bos_token_id` must lie in [0, {self.d_vocab}), got {self.bos_token_id}.")

    # Names by which TransformerLens' tools ask for the same facts.
    @property
    def attn_only(self) -> bool:
        """No MLPs."""
        return self.d_mlp is None

    @property
    def normalization_type(self) -> str | None:
        """`LN` or None."""
        return "LN" if self.layer_norm else None
