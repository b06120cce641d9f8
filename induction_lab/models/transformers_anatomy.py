"""Where a causal language model of transformers keeps its parts. What each name means is said in `Anatomy`.

Module names differ between architectures: the TransformerLens bridge knows them. It is built when first needed.
"""
# ruff: noqa: D102

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.models.anatomy import Anatomy, Component, Shape
from induction_lab.models.store import quiet_libraries


class TransformersAnatomy(Anatomy):
    """Of a causal language model of transformers.

    Raises:
        ValueError: If the network is none.
    """

    calls_engine, rotate, smeared_keys, positions_beside_stream = False, None, False, False

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
        self.tokenizer = tokenizer
        self.shape = _shape(self._config, tokenizer)

    @property
    def _config(self) -> Any:
        """The configuration of the language model, also where that is a part of a larger one."""
        return self.network.config.get_text_config(decoder=True)

    @cached_property
    def hooked(self) -> Any:
        """The TransformerLens bridge.

        Raises:
            ValueError: If TransformerLens has none for this architecture.
        """
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        # The bridge takes modules apart in place: give it a twin that shares every parameter and buffer.
        tensors = [*self.network.parameters(), *self.network.buffers()]
        twin = copy.deepcopy(self.network, memo={id(tensor): tensor for tensor in tensors}).eval()
        kind = type(self.network).__name__
        try:
            with quiet_libraries():
                return build_bridge_from_module(
                    twin, kind, hf_config=self.network.config, tokenizer=self.tokenizer, model_name=self.name
                )
        except Exception as error:  # whatever its adapter trips over, the user needs to know the same
            raise ValueError(
                f"TransformerLens cannot hook {kind}: {error}. "
                "What needs its hooks or weights by head cannot be had of this model."
            ) from error

    @property
    def blocks(self) -> list[nn.Module]:
        return [self.network.get_submodule(block.name) for block in self.hooked.blocks]

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
        return self.network.base_model

    @property
    def final_norm(self) -> nn.Module:
        return self.network.get_submodule(self.hooked.ln_final.name)

    @property
    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        return self.network.get_output_embeddings().weight.detach()

    @property
    def unembedding_bias(self) -> Float[Tensor, " d_vocab"] | None:
        return getattr(self.network.get_output_embeddings(), "bias", None)

    @property
    def logit_scale(self) -> float:
        return (getattr(self._config, "logit_scale", None) or 1.0) / (
            getattr(self._config, "logits_scaling", None) or 1.0
        )

    @property
    def logit_cap(self) -> float | None:
        return getattr(self._config, "final_logit_softcapping", None)

    @property
    def output_factor(self) -> float:
        return getattr(self._config, "residual_multiplier", None) or 1.0

    @property
    def goes_through_interface(self) -> bool:
        return bool(self.network._can_set_attn_implementation())

    @property
    def is_rotary(self) -> bool:
        return bool(getattr(self._config, "rope_parameters", None) or getattr(self._config, "rotary_dim", None))

    @property
    def has_mlps(self) -> bool:
        return "blocks.0.hook_mlp_out" in self.hooked.hook_dict

    @property
    def commit(self) -> str | None:
        return getattr(self.network.config, "_commit_hash", None)

    def hidden(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return self.body(tokens, use_cache=False).last_hidden_state

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        return self.network(tokens, use_cache=False).logits

    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        logits = self.network.get_output_embeddings()(hidden) * self.logit_scale
        return logits if (cap := self.logit_cap) is None else cap * torch.tanh(logits / cap)

    def norm_before(self, layer: int) -> nn.Module:
        return self._in_block(layer, "ln1") or nn.Identity()

    def norm_after(self, layer: int) -> nn.Module | None:
        return self._in_block(layer, "ln1_post")

    def head_norm(self, layer: int, component: Component) -> nn.Module | None:
        return getattr(self._in_block(layer, "attn"), f"{component}_norm", None)

    def output_projection(self, layer: int) -> nn.Module:
        attention = self.hooked.blocks[layer].attn
        return self._in_block(layer, "attn").get_submodule(attention.o.name)

    def _in_block(self, layer: int, part: str) -> Any:
        """The network's own module under the bridge's name for a part of a block; None where there is none."""
        block = self.hooked.blocks[layer]
        bridged = getattr(block, part, None)
        return None if bridged is None else self.network.get_submodule(f"{block.name}.{bridged.name}")


def _shape(config: Any, tokenizer: Any | None) -> Shape:
    n_heads, d_model = config.num_attention_heads, config.hidden_size
    n_ctx = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
    return Shape(
        n_layers=config.num_hidden_layers,
        n_heads=n_heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or n_heads,
        d_model=d_model,
        d_head=getattr(config, "head_dim", None) or d_model // n_heads,
        d_vocab=config.vocab_size,
        n_ctx=int(n_ctx) if n_ctx else None,
        **_special(config, tokenizer),
    )


def _special(config: Any, tokenizer: Any | None) -> dict[str, Any]:
    """What prompts begin with, the first of BOS and end-of-text that the vocabulary holds, else 0; and the padding."""

    def first_of(*names: str) -> int | None:
        candidates = [getattr(holder, name, None) for name in names for holder in (config, tokenizer)]
        candidates = [each[0] if isinstance(each, list) and each else each for each in candidates]
        return next((each for each in candidates if isinstance(each, int) and 0 <= each < config.vocab_size), None)

    bos, end, pad = first_of("bos_token_id"), first_of("eos_token_id"), getattr(tokenizer, "pad_token_id", None)
    kind = "BOS" if bos is not None else "end-of-text" if end is not None else ""
    front = bos if bos is not None else end if end is not None else 0
    return {"bos_token_id": front, "bos_is": kind, "pad_token_id": first_of("pad_token_id") if pad is None else pad}
