"""Where a causal language model of transformers keeps its parts. What each name means is said in `Anatomy`.

Module names differ between architectures: parts are found by what flows through them (`models.wiring`).
"""
# ruff: noqa: D102

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.attention.scopes import alone, outside
from induction_lab.models.anatomy import Anatomy, Component
from induction_lab.models.on_disk.offloading import compute_dtype, in_memory
from induction_lab.models.wiring.block_by_block import BlockByBlock, block_by_block
from induction_lab.models.wiring.latents import Latents
from induction_lab.models.wiring.linear_maps import LinearMap, linear_map
from induction_lab.models.wiring.network import Wiring
from induction_lab.models.wiring.positions import behind_positions, position_module
from induction_lab.models.wiring.projections import RENORMALISED, LayerParts
from induction_lab.models.wiring.sizes import shape_of, without_padding_rows
from induction_lab.models.wiring.watching import evaluating, watch

_DRAWN, _PROBES = 64, 4  # tokens by which parts are found: drawn, and run


class TransformersAnatomy(Anatomy):
    """Of a causal language model of transformers.

    Raises:
        ValueError: If the network is none.
    """

    calls_engine, rotate, smeared_keys = False, None, False
    positions_beside_stream, positions_after_norm = False, False

    def __init__(self, network: nn.Module, name: str | None, tokenizer: Any | None) -> None:
        """Check what the network is."""
        config: Any = getattr(network, "config", None)
        if config is None or not hasattr(network, "get_output_embeddings"):
            raise ValueError(
                f"A causal language model of transformers or an AttentionOnlyTransformer is wanted, "
                f"got {type(network).__name__}."
            )
        super().__init__(network, name or getattr(config, "_name_or_path", "") or type(network).__name__)
        if getattr(config, "is_encoder_decoder", False) or self.network.get_output_embeddings() is None:
            raise ValueError(
                f"{type(network).__name__} is no causal language model (encoder-decoder, or no unembedding)."
            )
        self.tokenizer, self._found = tokenizer, None
        self.shape = without_padding_rows(shape_of(self._config, tokenizer), network)
        with suppress(Exception):  # now, while nobody edits it; what is in the way is told where parts are asked for
            _ = self._wiring if compute_dtype(network) is None else None

    @property
    def _config(self) -> Any:
        """The configuration of the language model, also where that is a part of a larger one."""
        return self.network.config.get_text_config(decoder=True)

    @cached_property
    def hooked(self) -> Any:
        """The TransformerLens bridge, built, and that library loaded, when it is first asked for.

        Raises:
            ValueError: If TransformerLens has none for this architecture.
        """
        from induction_lab.models.wiring.bridge import bridge_of

        return bridge_of(self.network, self.name, self.tokenizer, self._two_tokens)

    @property
    def _wiring(self) -> Wiring | BlockByBlock:
        """Its parts, found when first asked for, and anew once modules were put in their places (adapters)."""
        if self._found is None or not self._found.stands():
            with alone(self.network):
                found = block_by_block(self.network, self._wired, n_layers=self.shape.n_layers, name=self.name)
                self._found = found or self._wired(self.network)
        return self._found

    def _wired(self, network: nn.Module) -> Wiring:
        """Of the network, or of a copy of it with fewer blocks."""
        of = copy.copy(self)
        of.network = network
        configs = of.attention_configs if of.goes_through_interface else []
        choices = {"n_kv_heads": self.shape.n_kv_heads, "factor": self.output_factor}
        return Wiring(network, of._run_probe, configs, **choices)

    def _run_probe(self) -> Float[Tensor, "prompt pos d_model"]:
        """A few prompts of one token each, of those whose embedding is not zero."""
        generator = torch.Generator().manual_seed(0)
        tokens = torch.randint(self.shape.d_vocab, (_DRAWN, 1), generator=generator).to(self.like.device)
        embedded = self.embedding(tokens).flatten(1).any(-1)
        return self.hidden(tokens[embedded][:_PROBES])

    def _layer(self, layer: int) -> LayerParts:
        if layer not in (layers := self._wiring.layers):
            raise ValueError(f"Layer {layer} of {self.name} has no heads of its own.")
        return layers[layer]

    @property
    def like(self) -> Float[Tensor, " 0"]:
        """A tensor of the type and on the device of the parameters."""
        first = next(self.network.parameters())
        return torch.empty(0, dtype=compute_dtype(self.network) or first.dtype, device=first.device)

    @property
    def blocks(self) -> list[nn.Module]:
        blocks = self._wiring.blocks
        if len(blocks) != self.shape.n_layers:
            raise ValueError(
                f"{self.name} keeps its {self.shape.n_layers} layers in {len(blocks)} blocks, so its stream cannot "
                "be read layer by layer."
            )
        return blocks

    @property
    def attention_modules(self) -> list[nn.Module]:
        return [module for module in self.network.modules() if hasattr(module, "layer_idx")]

    @property
    def attention_configs(self) -> list[Any]:
        found = {id(config): config for part in self.network.modules() if (config := getattr(part, "config", None))}
        return [config for config in found.values() if hasattr(config, "_attn_implementation")]

    @property
    def embedding(self) -> nn.Module:
        return self.network.get_input_embeddings()

    @property
    def body(self) -> nn.Module:
        body = self.network.base_model
        if body is not self.network:
            return body
        parts = [part for part in body.children() if hasattr(part, "get_input_embeddings")]  # misnamed (Llama 4)
        if not parts:
            raise ValueError(f"{type(body).__name__} has no part below its unembedding that could be run alone.")
        return parts[0]

    @property
    def final_norm(self) -> nn.Module:
        return self._wiring.final_norm

    @property
    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        return self._unembed.W

    @property
    def unembedding_bias(self) -> Float[Tensor, " d_vocab"] | None:
        return self._unembed.b

    @property
    def _unembed(self) -> LinearMap:
        head, width = self.network.get_output_embeddings(), self._wiring.width
        return linear_map(head, f"{self.name}: the unembedding", width=width, like=self.like)

    @property
    def projects_stream(self) -> bool:
        return self._wiring.width != self.shape.d_model or self._transforms_stream

    @cached_property
    def _transforms_stream(self) -> bool:
        """Whether matrices beside the body and the unembedding change logits: heads of masked language models."""
        inside = {*self.network.base_model.parameters(), *self.network.get_output_embeddings().parameters()}
        if all(weight.ndim < 2 or weight in inside for weight in self.network.parameters()):
            return False
        try:
            with outside(), torch.inference_mode(), evaluating(self.network):
                own, direct = self.logits(self._two_tokens), self.unembed(self.hidden(self._two_tokens))
        except ValueError:  # the stream has another width where it is unembedded
            return True
        return not torch.allclose(own, direct, rtol=1e-3, atol=1e-3 * float(own.abs().max()), equal_nan=True)

    @property
    def logit_scale(self) -> float:
        times, by = (getattr(self._config, name, None) or 1.0 for name in ("logit_scale", "logits_scaling"))
        return times / by

    @property
    def logit_cap(self) -> float | None:
        return getattr(self._config, "final_logit_softcapping", None)

    @property
    def output_factor(self) -> float:
        if depth := getattr(self._config, "scale_depth", None):  # MiniCPM
            return depth / self.shape.n_layers**0.5
        return getattr(self._config, "residual_multiplier", None) or 1.0

    @property
    def goes_through_interface(self) -> bool:
        return bool(self.network._can_set_attn_implementation())

    @property
    def is_rotary(self) -> bool:
        names = ("rope_parameters", "rotary_dim")
        return hasattr(self._config, "rotary_value") or any(getattr(self._config, name, None) for name in names)

    @property
    def has_mlps(self) -> bool:
        return self._layer(self.attending[0]).has_mlp

    @property
    def commit(self) -> str | None:
        return getattr(self.network.config, "_commit_hash", None)

    def hidden(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self.body(tokens, use_cache=False).last_hidden_state

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        return self.network(tokens, use_cache=False).logits

    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        head = self.network.get_output_embeddings()
        if getattr(head, "in_features", hidden.shape[-1]) != hidden.shape[-1]:
            raise ValueError(f"{self.name} makes something else of its stream before it unembeds it.")
        logits, scale = head(hidden), self.logit_scale
        logits = logits if scale == 1 else logits * scale  # a copy of all logits costs as much as their softmax
        return logits if (cap := self.logit_cap) is None else cap * torch.tanh(logits / cap)

    def norm_before(self, layer: int) -> nn.Module:
        return self._had(layer, self._layer(layer).norm_before)

    def norm_after(self, layer: int) -> nn.Module | None:
        return self._layer(layer).norm_after

    def head_norm(self, layer: int, component: Component) -> nn.Module | None:
        return self._layer(layer).head_norms.get(component)

    def output_projection(self, layer: int) -> nn.Module:
        return self._had(layer, self._layer(layer).projections["o"]).module

    def attention_output(self, layer: int) -> nn.Module:
        return self.output_projection(layer)

    def position_module(self) -> nn.Module | None:
        return position_module(self.network, self.embedding, self.blocks[0], self._run_twice)

    def behind_positions(self) -> list[nn.Module]:
        return behind_positions(self.network, self.position_module(), self.blocks[0], self._run_twice)

    def _run_twice(self) -> Tensor:
        return self.hidden(torch.full((1, 2), self.shape.bos_token_id, device=self.like.device))

    def maker(self, layer: int, component: Literal["q", "k"]) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        module, layout = self._had(layer, self._layer(layer).projections[component])
        return module, lambda x: layout.cut(x.movedim(-1, 0)).movedim((0, 1), (-2, -1))

    def queries_and_keys(
        self, tokens: Int[Tensor, "token 1"], positions: Int[Tensor, "token 1"]
    ) -> dict[int, Float[Tensor, "token head d_head"]]:
        configs = self.attention_configs if self.goes_through_interface else []

        def run() -> Tensor:
            return self.body(tokens, position_ids=positions, use_cache=False).last_hidden_state

        try:
            calls = watch(self.network, run, configs).calls
        except TypeError as error:
            raise ValueError(f"{self.name} cannot be told where a token stands: {error}") from error
        return {layer: torch.cat(calls[module][0][:2], 1) for layer, module in self._wiring.attending.items()}

    @property
    def attending(self) -> list[int]:
        if not (layers := self._wiring.layers):
            raise ValueError(f"No layer of {self.name} runs its heads once, so their projections cannot be found.")
        return sorted(layers)

    @property
    def representatives(self) -> Sequence[int]:
        return getattr(self._wiring, "kinds", range(self.shape.n_layers))

    def is_gated(self, layer: int) -> bool:
        return self._layer(layer).gated

    def stream_norms(self, layer: int) -> tuple[nn.Module, ...]:
        return () if layer not in self._wiring.layers and not self.renormalises else self._layer(layer).stream_norms

    def projection(self, layer: int, component: Literal["q", "k", "v", "o"]) -> tuple[Tensor, Tensor | None]:
        if component == "o" and self._layer(layer).stream_norms:
            self._had(layer, RENORMALISED)
        return self._map(layer, component)

    def output_map(self, layer: int) -> tuple[Tensor, Tensor | None]:
        return self._map(layer, "o")

    def _map(self, layer: int, component: Literal["q", "k", "v", "o"]) -> tuple[Tensor, Tensor | None]:
        parts = self._layer(layer)
        for needed in (parts.norm_before, parts.apart):
            self._had(layer, needed)
        in_memory(self.network, self.blocks[layer])
        module, layout = self._had(layer, parts.projections[component])
        name = f"{self.name}: the projection of {component} in layer {layer}"
        W, b = linear_map(module, name, width=self.shape.d_model if layout else parts.width, like=self.like)
        if layout is None:
            return W.mT.unflatten(0, (self.shape.n_heads, -1)), b
        return layout.cut(W).mT, None if b is None else layout.cut(b)

    def latents(self, layer: int) -> Latents | None:
        parts = self._layer(layer)
        missing = any(isinstance(parts.projections[component], ValueError) for component in "qkv")
        if not (missing and self.goes_through_interface):
            return None
        for needed in (parts.norm_before, RENORMALISED if parts.stream_norms else parts.apart, parts.projections["o"]):
            self._had(layer, needed)
        in_memory(self.network, self.blocks[layer])
        attention, configs = self._wiring.attending[layer], list(self.attention_configs)
        name = f"Layer {layer} of {self.name}"
        return Latents(self.network, self.hidden, attention, configs, self._two_tokens, name)

    def head_widths(self, layer: int) -> tuple[int, int]:
        return self._layer(layer).widths

    @property
    def _two_tokens(self) -> Int[Tensor, "1 2"]:
        first = self.shape.bos_token_id
        return torch.tensor([[first, (first + 1) % self.shape.d_vocab]], device=self.like.device)

    def _had(self, layer: int, part: Any) -> Any:
        if isinstance(part, ValueError):
            raise ValueError(
                f"Layer {layer} of {self.name} {part}, so weights by head cannot be had of it. "
                "Scores that read where heads look can."
            )
        return part
