"""Where an `AttentionOnlyTransformer` keeps its parts. What each name means is said in `Anatomy`."""
# ruff: noqa: D102

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.models.anatomy import Anatomy, Component, Shape
from induction_lab.models.attention_only.clamping import clamp_for_good
from induction_lab.models.attention_only.config import MODEL_TYPE
from induction_lab.models.attention_only.layers import rotate
from induction_lab.models.attention_only.network import AttentionOnlyTransformer


class OwnAnatomy(Anatomy):
    """Of an `AttentionOnlyTransformer`."""

    attention_configs, goes_through_interface, calls_engine = (), True, True
    logit_scale, logit_cap, output_factor, commit = 1.0, None, 1.0, None

    def __init__(self, network: AttentionOnlyTransformer, name: str | None) -> None:
        """Read the network's configuration."""
        super().__init__(network, name or MODEL_TYPE)
        config = self.config = network.cfg
        heads = (config.n_layers, config.n_heads, config.n_heads)
        widths = (config.d_model, config.d_head, config.d_vocab, config.n_ctx)
        self.shape = Shape(*heads, *widths, config.bos_token_id)
        self.body = network
        self.blocks, self.embedding, self.final_norm = list(network.blocks), network.embed, network.ln_final
        self.attention_modules = [block.get_submodule("attn") for block in network.blocks]
        self.is_rotary = config.positions == "rotary"
        self.rotate = rotate if self.is_rotary else None
        self.has_mlps = config.d_mlp is not None and config.n_layers > 0
        self.smeared_keys, self.positions_beside_stream = config.smeared_keys, config.is_shortformer
        self.positions_after_norm = config.positions == "shortformer_after_norm"

    @property
    def hooked(self) -> AttentionOnlyTransformer:
        from induction_lab.models.attention_only.hooked import become_hooked

        become_hooked(self.network)
        return self.network

    @property
    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.network.W_U.detach().T

    @contextmanager
    def reading_on(self) -> Iterator[None]:
        before, self.network.any_length = self.network.any_length, True
        try:
            yield
        finally:
            self.network.any_length = before

    @property
    def unembedding_bias(self) -> Float[Tensor, " d_vocab"] | None:
        return self.network.unembed.b_U

    def hidden(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        with self.reading_on():
            return self.network(tokens, return_type="hidden")

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        with self.reading_on():
            return self.network(tokens)

    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        logits = hidden @ self.network.W_U
        return logits if self.unembedding_bias is None else logits + self.unembedding_bias

    def norm_before(self, layer: int) -> nn.Module:
        return self.network.blocks[layer].ln1

    def norm_after(self, layer: int) -> None:
        return None

    def head_norm(self, layer: int, component: Component) -> None:
        return None

    def attention_output(self, layer: int) -> nn.Module:
        return self.attention_modules[layer]

    def position_module(self) -> nn.Module | None:
        return getattr(self.network, "pos_embed", None)

    def projection(self, layer: int, component: Literal["q", "k", "v", "o"]) -> tuple[Tensor, Tensor | None]:
        attention, which = self.network.blocks[layer].attn, component.upper()
        bias = getattr(attention, f"b_{which}", None)
        return getattr(attention, f"W_{which}").detach(), None if bias is None else bias.detach()

    def maker(self, layer: int, component: Literal["q", "k"]) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        return self.network.blocks[layer].attn.get_submodule(f"hook_{component}"), lambda x: x

    def queries_and_keys(self, tokens: Int[Tensor, "token 1"], positions: Int[Tensor, "token 1"]) -> dict[int, Tensor]:
        raise ValueError(f"{self.name} reads positions off the prompt: no token can be said to stand elsewhere.")

    @property
    def attending(self) -> list[int]:
        return list(range(self.shape.n_layers))

    def is_gated(self, layer: int) -> bool:
        return False

    def output_projection(self, layer: int) -> nn.Module:
        raise ValueError(f"{self.name} projects each head's output by itself: edit its attention_modules instead.")

    def copy_without_hooks(self) -> nn.Module:
        network: Any = super().copy_without_hooks()
        for module in network.modules():
            if "fwd_hooks" in vars(module):
                module.remove_hooks("both", including_permanent=True)
                module.clear_context()
        clamp_for_good(network, getattr(network, "clamps", {}))  # what it was trained with is part of it
        return network
