"""`HookedModel`: one handle for every model that can be measured.

`network` is the bare module at full speed; `hooked` is the TransformerLens surface (`run_with_hooks`, `W_Q`, …) of the
same parameters, built when first asked for.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.models.attention_only.network import MODEL_TYPE, AttentionOnlyTransformer
from induction_lab.models.store import quiet_libraries


class HookedModel:
    """A model that can be measured.

    Args:
        network: A causal language model of transformers, or an `AttentionOnlyTransformer`. It is not changed.
        tokenizer: Its tokenizer, if text is to be read.
        name: How to call it in tables; the network's own name by default.
        revision: Which snapshot it is, for the record.

    Attributes:
        n_layers, n_heads, n_kv_heads: Layers; query heads and key-value heads of each.
        d_model, d_head, d_vocab: Widths of the residual stream and of a head; number of tokens.
        n_ctx: Longest prompt, or None where nothing bounds it.
        bos_token_id: What every prompt begins with: the model's BOS, else its end-of-text token.

    Raises:
        ValueError: If the network is no causal language model.
    """

    def __init__(
        self,
        network: nn.Module,
        tokenizer: Any | None = None,
        *,
        name: str | None = None,
        revision: str | None = None,
    ) -> None:
        """Wrap a network."""
        self.network: Any = network
        self.tokenizer: Any = tokenizer
        self.revision = revision
        if isinstance(network, AttentionOnlyTransformer):
            self._read_own_config(network)
            self.name = name or MODEL_TYPE
        else:
            self._read_transformers_config(network)
            self.name = name or getattr(network.config, "_name_or_path", "") or type(network).__name__
        _check_causal(self)

    def _read_own_config(self, network: AttentionOnlyTransformer) -> None:
        config = network.cfg
        self.n_layers, self.n_heads, self.n_kv_heads = config.n_layers, config.n_heads, config.n_heads
        self.d_model, self.d_head, self.d_vocab = config.d_model, config.d_head, config.d_vocab
        self.n_ctx: int | None = config.n_ctx
        self.bos_token_id = config.bos_token_id

    def _read_transformers_config(self, network: nn.Module) -> None:
        config = getattr(network, "config", None)
        if config is None or not hasattr(network, "get_output_embeddings"):
            raise ValueError(
                f"A causal language model of transformers or an AttentionOnlyTransformer is wanted, "
                f"got {type(network).__name__}."
            )
        if getattr(config, "is_encoder_decoder", False) or self.network.get_output_embeddings() is None:
            raise ValueError(
                f"{type(network).__name__} is no causal language model (encoder-decoder, or no unembedding)."
            )
        text = config.get_text_config(decoder=True)
        self.n_layers, self.n_heads = text.num_hidden_layers, text.num_attention_heads
        self.n_kv_heads = getattr(text, "num_key_value_heads", None) or self.n_heads
        self.d_model = text.hidden_size
        self.d_head = getattr(text, "head_dim", None) or self.d_model // self.n_heads
        self.d_vocab = text.vocab_size
        n_ctx = getattr(text, "max_position_embeddings", None) or getattr(text, "max_seq_len", None)
        self.n_ctx = int(n_ctx) if n_ctx else None
        self.bos_token_id = _bos(text, self.tokenizer)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.network.parameters()).dtype

    @property
    def wide(self) -> torch.dtype:
        """In what to add things up: float32, or the parameters' own type if that is wider."""
        return torch.promote_types(self.dtype, torch.float32)

    @cached_property
    def hooked(self) -> Any:
        """TransformerLens' surface of the same parameters: `run_with_hooks`, `run_with_cache`, `W_Q`, ….

        Where an architecture fuses queries, keys and values (GPT-2, BLOOM), the bridge adds unfused copies of those.

        Raises:
            ValueError: If TransformerLens has no bridge for this architecture.
        """
        if isinstance(self.network, AttentionOnlyTransformer):
            return self.network
        from transformer_lens.model_bridge.sources import build_bridge_from_module

        # The bridge takes modules apart in place: give it a twin that shares every parameter and buffer.
        tensors = [*self.network.parameters(), *self.network.buffers()]
        twin = copy.deepcopy(self.network, memo={id(tensor): tensor for tensor in tensors}).eval()
        try:
            with quiet_libraries():
                bridge = build_bridge_from_module(
                    twin,
                    type(self.network).__name__,
                    hf_config=self.network.config,
                    tokenizer=self.tokenizer,
                    model_name=self.name,
                )
        except Exception as error:  # whatever its adapter trips over, the user needs to know the same
            raise ValueError(
                f"TransformerLens cannot hook {type(self.network).__name__}: {error}. "
                "What needs its hooks or weights by head cannot be had of this model."
            ) from error
        return bridge

    @cached_property
    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """`W_U` as rows, one a token."""
        if isinstance(self.network, AttentionOnlyTransformer):
            return self.network.W_U.detach().T
        return self.network.get_output_embeddings().weight.detach()

    @property
    def final_norm(self) -> nn.Module:
        """The network's normalisation before the unembedding."""
        if isinstance(self.network, AttentionOnlyTransformer):
            return self.network.ln_final
        return self.network.get_submodule(self.hooked.ln_final.name)

    def hidden(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Run up to the unembedding and not further: the normalised stream that it would read."""
        tokens = tokens.to(self.device)
        with torch.inference_mode(), evaluating(self.network):
            if isinstance(self.network, AttentionOnlyTransformer):
                return self.network(tokens, return_type="hidden")
            return self.network.base_model(tokens, use_cache=False).last_hidden_state

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Run the whole network, without hooks."""
        tokens = tokens.to(self.device)
        with torch.inference_mode(), evaluating(self.network):
            if isinstance(self.network, AttentionOnlyTransformer):
                return self.network(tokens)
            return self.network(tokens, use_cache=False).logits

    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits from the normalised stream, with the scaling and capping that the architecture adds."""
        if isinstance(self.network, AttentionOnlyTransformer):
            return hidden @ self.network.W_U
        config = self.network.config.get_text_config(decoder=True)
        logits = self.network.get_output_embeddings()(hidden) * self.logit_scale
        cap = getattr(config, "final_logit_softcapping", None)
        return logits if cap is None else cap * torch.tanh(logits / cap)

    @cached_property
    def tokenizer_sha256(self) -> str | None:
        """A fingerprint of the vocabulary."""
        if self.tokenizer is None:
            return None
        return hashlib.sha256(repr(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()

    @property
    def logit_scale(self) -> float:
        """What the architecture multiplies its logits by (Cohere, Granite); usually 1."""
        config = getattr(self.network, "config", None)
        return (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)

    def release(self) -> None:
        """Let go of the attention matrices that some TransformerLens bridges keep after a run."""
        for module in self.hooked.modules():
            if getattr(module, "_pattern", None) is not None:
                module._pattern = None

    @cached_property
    def unembeds_by_parts(self) -> bool:
        """Whether `unembed(hidden(tokens))` is the network's own logits, tried once on two tokens."""
        tokens = torch.full((1, 2), self.bos_token_id)
        whole = self.logits(tokens).float()
        with torch.inference_mode():
            parts = self.unembed(self.hidden(tokens)).float()
        return whole.shape == parts.shape and bool(torch.allclose(whole, parts, atol=1e-3, rtol=1e-3))

    def __repr__(self) -> str:
        """Name and shape."""
        return (
            f"HookedModel({self.name!r}, n_layers={self.n_layers}, n_heads={self.n_heads}, "
            f"n_kv_heads={self.n_kv_heads}, d_model={self.d_model}, d_head={self.d_head}, "
            f"d_vocab={self.d_vocab}, n_ctx={self.n_ctx}, {self.device}, {str(self.dtype)[6:]})"
        )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Dropout off inside the context, as it was afterwards."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _bos(config: Any, tokenizer: Any) -> int:
    candidates = [getattr(config, "bos_token_id", None), getattr(tokenizer, "bos_token_id", None)]
    candidates += [getattr(config, "eos_token_id", None), getattr(tokenizer, "eos_token_id", None)]
    for candidate in candidates:
        candidate = candidate[0] if isinstance(candidate, list) and candidate else candidate
        if isinstance(candidate, int) and 0 <= candidate < config.vocab_size:
            return candidate
    return 0


def _check_causal(model: HookedModel) -> None:
    """Change the last token of a short prompt: in a causal model nothing before it moves."""
    tokens = torch.full((2, 4), model.bos_token_id)
    tokens[1, -1] = (model.bos_token_id + 1) % model.d_vocab
    before, after = model.hidden(tokens)[:, :-1]
    # A model that diverged in training is NaN throughout, which is for those to say who measure it.
    if not torch.allclose(before, after, atol=1e-4, rtol=1e-3, equal_nan=True):
        raise ValueError(
            f"{type(model.network).__name__} is not causal: a later token changes what comes before it. "
            "Induction scores are defined for causal attention only."
        )
