"""`AttentionOnlyConfig`: the shape of the small model."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

MODEL_TYPE = "attention-only"  # in the config.json of a saved model
Positions = Literal["learned", "rotary", "shortformer", "shortformer_after_norm", "none"]
Activation = Literal["relu", "gelu", "gelu_new", "silu", "solu", "solu_ln"]
NormKind = Literal["layer", "rms", "final_rms"]
_LEFT_OUT = ("biases", "activation", "norm_kind", "norm_eps")  # where they are the default: files stay as they were


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
            stream, Press 2020: `norm(x + position)`); `shortformer_after_norm` (the same as TransformerLens does it,
            `norm(x) + position`); or `none`.
        layer_norm: A normalisation before every read from the stream and before the unembedding.
        smeared_keys: Each head's key is mixed with the one before it, `s k_j + (1 - s) k_{j-1}`, `s` trained
            (Olsson 2022).
        d_mlp: Width of an MLP after each block's attention; none by default.
        bos_token_id: The token every prompt begins with.
        biases: Biases of queries, keys, values, heads' output and unembedding. The MLP has its own in any case.
        activation: Of the MLP: `gelu_new` is its approximation by tanh; `solu` is `x softmax(x)` (Elhage 2022), and
            `solu_ln` that with a normalisation behind it.
        norm_kind: `layer` (LayerNorm), `rms` (no mean is taken off, and there is no bias), or `final_rms` (LayerNorms,
            and an RMS norm before the unembedding).
        norm_eps: What norms add to the variance.
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
    biases: bool = False
    activation: Activation = "gelu"
    norm_kind: NormKind = "layer"
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        optional = () if self.d_mlp is None else ("d_mlp",)
        for name in ("n_layers", "n_heads", "d_model", "d_head", "d_vocab", "n_ctx", *optional):
            least = 0 if name == "n_layers" else 1
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= least):
                raise ValueError(f"`{name}` must be a whole number of at least {least}, got {getattr(self, name)!r}.")
        for name, kinds in (("positions", Positions), ("activation", Activation), ("norm_kind", NormKind)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"`{name}` must be one of {get_args(kinds)}, got {getattr(self, name)!r}.")
        for name in ("layer_norm", "smeared_keys", "biases"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` must be true or false, got {getattr(self, name)!r}.")
        if not (isinstance(self.norm_eps, float) and self.norm_eps > 0):
            raise ValueError(f"`norm_eps` must be a number above 0, got {self.norm_eps!r}.")
        if not self.layer_norm and (self.norm_kind != "layer" or self.positions == "shortformer_after_norm"):
            raise ValueError(
                f"Without norms (`layer_norm=False`) there is no kind of norm and no order of norm and positions, got "
                f"{self.norm_kind!r} and {self.positions!r}: leave `norm_kind` out, and say `shortformer`."
            )
        if self.d_mlp is None and self.activation != "gelu":
            raise ValueError(f"`activation` is the MLP's, and there is none: give `d_mlp`, got {self.activation!r}.")
        if self.positions == "rotary" and self.d_head % 2:
            raise ValueError(f"Rotary positions need an even `d_head`, got {self.d_head}.")
        if not 0 <= self.bos_token_id < self.d_vocab:
            raise ValueError(f"`bos_token_id` must lie in [0, {self.d_vocab}), got {self.bos_token_id}.")

    def to_dict(self) -> dict[str, Any]:
        """Every entry, those that came later only where they differ from their default."""
        defaults = {field.name: field.default for field in fields(self) if field.name in _LEFT_OUT}
        return {name: value for name, value in asdict(self).items() if defaults.get(name, ...) != value}

    @property
    def is_shortformer(self) -> bool:
        """Whether position vectors are added to what queries and keys read, not to the stream."""
        return self.positions.startswith("shortformer")

    # Names by which TransformerLens' tools ask for the same facts.
    @property
    def attn_only(self) -> bool:
        """No MLPs."""
        return self.d_mlp is None

    @property
    def positional_embedding_type(self) -> str:
        """`standard` (learned), `rotary`, `shortformer` or `none`."""
        return {"learned": "standard"}.get(self.positions, self.positions.removesuffix("_after_norm"))

    @property
    def d_vocab_out(self) -> int:
        """Tokens that are predicted."""
        return self.d_vocab

    @property
    def final_rms(self) -> bool:
        """Whether the norm before the unembedding is an RMS norm."""
        return self.layer_norm and self.norm_kind in ("rms", "final_rms")

    @property
    def default_prepend_bos(self) -> bool:
        """BOS stands in front of every prompt."""
        return True

    @property
    def normalization_type(self) -> str | None:
        """`LN`, `RMS` or None."""
        return ("RMS" if self.norm_kind == "rms" else "LN") if self.layer_norm else None

    @property
    def act_fn(self) -> str | None:
        """The MLP's activation, or None."""
        return None if self.d_mlp is None else self.activation
