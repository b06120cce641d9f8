"""`HookedModel`: one handle for every model that can be measured.

`network` is the bare module at full speed; `hooked` is the TransformerLens surface (`run_with_hooks`, `W_Q`, …) of the
same parameters, built when first asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.data.prompts import Prompts
from induction_lab.models.anatomy import Anatomy
from induction_lab.models.attention_only.anatomy import OwnAnatomy
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.on_disk.offloading import offloading_of
from induction_lab.models.transformers_anatomy import TransformersAnatomy
from induction_lab.models.wiring.watching import evaluating
from induction_lab.results.cards import html_card
from induction_lab.results.token_labels import token_labels
from induction_lab.runtime.machine import check_default_device

if TYPE_CHECKING:
    import pandas as pd


class HookedModel:
    """A model that can be measured.

    Args:
        network: A causal language model of transformers, or an `AttentionOnlyTransformer`. It is not changed.
        tokenizer: Its tokenizer, if text is to be read.
        name: How to call it in tables; the network's own name by default.
        revision: Which snapshot it is, for the record.

    Attributes:
        anatomy: Where the network keeps its parts, and what kind of network it is.
        n_layers: Layers.
        n_heads: Query heads of each.
        n_kv_heads: Key-value heads of each.
        d_model: Width of the residual stream.
        d_head: Width of a head.
        d_vocab: Number of tokens.
        n_ctx: Longest prompt, or None where nothing bounds it.
        bos_token_id: What every prompt begins with: the model's BOS, else its end-of-text token, else token 0.
        bos_is: Which of them that is: `BOS`, `end-of-text` or empty.
        is_finite: Whether it gave finite numbers on a short prompt, when it was wrapped.
        pad_token_id: What stands for no token in batches, or None where there is none.

    Raises:
        ValueError: If the network is no causal language model, or its weights are not there.
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
        network = getattr(network, "_orig_mod", network)  # what torch.compile was given
        if all(parameter.is_meta for parameter in network.parameters()):
            raise ValueError(f"The weights of {type(network).__name__} are nowhere (meta tensors): load them first.")
        if hasattr(network, "get_base_model") and hasattr(network, "peft_config"):  # adapters lie in its layers
            network = _without_peft(network)
        self.network: Any = network
        self.tokenizer: Any = tokenizer
        self.revision = revision
        own = isinstance(network, AttentionOnlyTransformer)
        self.anatomy: Anatomy = OwnAnatomy(network, name) if own else TransformersAnatomy(network, name, tokenizer)
        self.name, shape = self.anatomy.name, self.anatomy.shape
        self.n_layers, self.n_heads, self.n_kv_heads = shape.n_layers, shape.n_heads, shape.n_kv_heads
        self.d_model, self.d_head, self.d_vocab, self.n_ctx = shape.d_model, shape.d_head, shape.d_vocab, shape.n_ctx
        self.bos_token_id, self.bos_is, self.pad_token_id = shape.bos_token_id, shape.bos_is, shape.pad_token_id
        self._offloading, self.is_finite = offloading_of(network), True
        if self._offloading is None:  # else with the first run through all weights
            try:
                hidden = self.hidden(_causal_prompts(self))
            except ImportError as error:  # of a kernel that it is configured to attend with
                raise ValueError(
                    f"{self.name} does not run here: {error} Load it with attn_implementation='sdpa' or 'eager', or "
                    "set network.set_attn_implementation('sdpa')."
                ) from error
            self.is_finite = _refuse_acausal(self, hidden)

    @property
    def device(self) -> torch.device:
        """Where the parameters are.

        Raises:
            ValueError: If torch makes new tensors elsewhere than on the CPU.
        """
        check_default_device()
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters."""
        return next(self.network.parameters()).dtype if self._offloading is None else self._offloading.dtype

    @property
    def wide(self) -> torch.dtype:
        """In what to add things up, float32 or the parameters' own type if that is wider."""
        return torch.promote_types(self.dtype, torch.float32)

    @property
    def extrapolates(self) -> bool:
        """Whether positions beyond the context mean something, as rotations do that are computed, not looked up."""
        return self.anatomy.is_rotary and self.anatomy.goes_through_interface

    @property
    def hooked(self) -> Any:
        """TransformerLens' surface of the same parameters, with `run_with_hooks`, `run_with_cache`, `W_Q`, ….

        Where an architecture fuses queries, keys and values (GPT-2, BLOOM), the bridge adds unfused copies of those.

        Raises:
            ValueError: If TransformerLens has no bridge for this architecture.
        """
        return self.anatomy.hooked

    @property
    def bridge(self) -> Any | None:
        """The surface where it is another network than `network`; None where it is the same, or there is none."""
        with suppress(ValueError):
            return None if isinstance(self.network, AttentionOnlyTransformer) else self.hooked

    @property
    def unembedding(self) -> Float[Tensor, "d_vocab d_model"]:
        """`W_U` as rows, one a token."""
        rows = self.anatomy.unembedding
        return rows if self._offloading is None else self._offloading.in_memory(rows)

    @property
    def final_norm(self) -> nn.Module:
        """The network's normalisation before the unembedding."""
        return self.anatomy.final_norm

    def hidden(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """Run up to the unembedding and not further: the normalised stream that it would read.

        Raises:
            ValueError: If the model is in float16 and its numbers grow too large for that.
        """
        with torch.inference_mode(), evaluating(self.network):
            return self._in_range(self.anatomy.hidden(tokens.to(self.device)), tokens)

    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """Run the whole network, without hooks.

        Raises:
            ValueError: As in `hidden`.
        """
        with torch.inference_mode(), evaluating(self.network):
            return self._in_range(self.anatomy.logits(tokens.to(self.device)), tokens)

    def _in_range(self, found: Tensor, tokens: Tensor) -> Tensor:
        if self.dtype == torch.float16 and not bool(found.isfinite().all()):
            raise ValueError(self.why_not_finite(tokens))
        return found

    def why_not_finite(self, tokens: Int[Tensor, "batch pos"]) -> str:
        """Which layer is the first to give numbers that are infinite or none on these prompts, and what helps."""
        seen: dict[int, bool] = {}

        def watch(layer: int) -> Any:
            def note(_: Any, __: Any, output: Any) -> None:
                stream = output[0] if isinstance(output, tuple) else output
                seen.setdefault(layer, bool(stream.isfinite().all()))

            return note

        with ExitStack() as stack, torch.inference_mode(), evaluating(self.network):
            lists = (module for module in self.network.modules() if isinstance(module, nn.ModuleList))
            blocks = next((each for each in lists if len(each) == self.n_layers), ())
            for layer, block in enumerate(blocks):
                stack.callback(block.register_forward_hook(watch(layer)).remove)
            self.anatomy.hidden(tokens.to(self.device))
        first = next((layer for layer, finite in seen.items() if not finite), None)
        where = "behind its last layer" if first is None else f"in layer {first}"
        if self.dtype == torch.float16:
            return (
                f"float16 overflows {where} of {self.name}: numbers beyond 65,504 are infinite there. Load it with "
                "dtype='bfloat16', whose range is that of float32, or dtype='float32'."
            )
        return f"{self.name} gives numbers {where} that are not finite: its weights are not finite, or far too large."

    def predict(
        self, text: Any, k: int = 5, *, without: Any = None, method: str = "mean", positions: Any = None
    ) -> pd.DataFrame:
        """The likeliest next tokens behind each token of a text, with and without some heads: `predict`.

        Args:
            text: One text, or one prompt.
            k: How many next tokens at each position.
            without: Heads to ablate, such as `["L18H6"]`.
            method: As in `ablate`.
            positions: Behind which tokens; by default each.
        """
        # The one way up: who has a model in hand asks it, and putting heads out of action is a matter of floors above.
        how = {"without": without, "method": method, "positions": positions}
        return import_module("induction_lab").predict(self, text, k, **how)

    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits from the normalised stream, with the scaling and capping that the architecture adds."""
        return self.anatomy.unembed(hidden)

    def token_labels(self, prompts: Prompts, row: int = 0) -> list[str]:
        """A prompt's tokens as people read them, one line each, `BOS` for that; numbers where there is no tokenizer.

        Args:
            prompts: Tokens with what is known of them.
            row: Which of the prompts.
        """
        ids = prompts.tokens[row, : prompts.real_lengths[row]].tolist()
        labels = token_labels(self.tokenizer, ids)
        return ["BOS", *labels[1:]] if prompts.has_bos and self.bos_is else labels

    @cached_property
    def tokenizer_sha256(self) -> str | None:
        """A fingerprint of the vocabulary; None where there is no tokenizer, or one that does not list its tokens."""
        if not hasattr(self.tokenizer, "get_vocab"):
            return None
        return hashlib.sha256(repr(sorted(self.tokenizer.get_vocab().items())).encode()).hexdigest()

    @property
    def logit_scale(self) -> float:
        """What the architecture multiplies its logits by (Cohere, Granite); usually 1."""
        return self.anatomy.logit_scale

    def release(self) -> None:
        """Let go of the attention matrices that some TransformerLens bridges keep after a run."""
        for module in self.hooked.modules():
            if getattr(module, "_pattern", None) is not None:
                module._pattern = None

    @cached_property
    def unembeds_by_parts(self) -> bool:
        """Whether `unembed(hidden(tokens))` is the network's own logits, tried once on two tokens."""
        return self._unembeds(self._whole(), self._parts())

    def probes(self) -> list[Callable[[], Tensor]]:
        """Short runs that a model on disk has still to make; what they give is what `learn` wants."""
        known = "unembeds_by_parts" in vars(self)
        return [] if known else [lambda: self.hidden(_causal_prompts(self)), self._whole, self._parts]

    def learn(self, found: Sequence[Tensor]) -> None:
        """Learn from `probes` whether the model is causal, and unembeds by parts.

        Raises:
            ValueError: If it is not causal.
        """
        if found:
            _refuse_acausal(self, found[0])
            vars(self)["unembeds_by_parts"] = self._unembeds(*found[1:])

    def _whole(self) -> Tensor:
        return self.logits(torch.full((1, 2), self.bos_token_id)).float()

    def _parts(self) -> Tensor:
        with torch.inference_mode(), suppress(ValueError):
            return self.unembed(self.hidden(torch.full((1, 2), self.bos_token_id))).float()
        return torch.empty(0)

    def _unembeds(self, whole: Tensor, parts: Tensor) -> bool:
        return whole.shape == parts.shape and bool(torch.allclose(whole, parts, atol=1e-3, rtol=1e-3))

    def __repr__(self) -> str:
        """Name and shape."""
        return (
            f"HookedModel({self.name!r}, n_layers={self.n_layers}, n_heads={self.n_heads}, "
            f"n_kv_heads={self.n_kv_heads}, d_model={self.d_model}, d_head={self.d_head}, "
            f"d_vocab={self.d_vocab}, n_ctx={self.n_ctx}, {self.device}, {str(self.dtype)[6:]})"
        )

    def _repr_html_(self) -> str:
        """Its shape, what it reads and what can be asked of it, for notebooks."""
        shared = "" if self.n_kv_heads == self.n_heads else f", which share {self.n_kv_heads} of keys and values"
        longest = "of any length" if self.n_ctx is None else f"up to {self.n_ctx:,} tokens"
        begins = f"begin with {self.bos_is} (token {self.bos_token_id})" if self.bos_is else "begin with any token"
        reads = "token numbers: it has no tokenizer" if self.tokenizer is None else "text and token numbers"
        rows = [
            ("layers", f"{self.n_layers} of {self.n_heads} heads each{shared}"),
            ("heads", f"L0H0 to L{self.n_layers - 1}H{self.n_heads - 1}" if self.n_layers else "none"),
            ("widths", f"residual stream {self.d_model:,}, heads {self.d_head:,}"),
            ("vocabulary", f"{self.d_vocab:,} tokens"),
            ("positions", f"{'rotary' if self.anatomy.is_rotary else 'not rotary'}; prompts {longest}"),
            ("reads", f"{reads}; prompts {begins}"),
            ("inside", "capture(model, prompts): q, k, v, pattern, resid_pre, …; by TransformerLens: model.hooked"),
            ("network", f"{type(self.network).__name__}, on {self.device}, {str(self.dtype)[6:]}: model.network"),
        ]
        n_parameters = sum(parameter.numel() for parameter in self.network.parameters())
        facts = f"{n_parameters:,} parameters" + (f", revision {self.revision}" if self.revision else "")
        return html_card(str(self.name), facts, (), rows)


def _without_peft(network: Any) -> nn.Module:
    """The model inside a `PeftModel`, in whose layers the adapter's weights are."""
    if any(getattr(each, "is_prompt_learning", False) for each in network.peft_config.values()):
        raise ValueError("This adapter writes into prompts (prompt or prefix tuning), which no head score knows of.")
    return network.get_base_model()


def _causal_prompts(model: HookedModel) -> Int[Tensor, "2 pos"]:
    """Two short prompts that differ in their last token."""
    tokens = torch.full((2, 4), model.bos_token_id)
    tokens[1, -1] = (model.bos_token_id + 1) % model.d_vocab
    return tokens


def _refuse_acausal(model: HookedModel, hidden: Float[Tensor, "2 pos d_model"]) -> bool:
    """Before the last token of `_causal_prompts` nothing moves in a causal model. Whether all is finite."""
    before, after = hidden[:, :-1]
    # A model that diverged in training is NaN throughout, which is for those to say who measure it.
    if not torch.allclose(before, after, atol=1e-4, rtol=1e-3, equal_nan=True):
        raise ValueError(
            f"{type(model.network).__name__} is not causal: a later token changes what comes before it. "
            "Induction scores are defined for causal attention only."
        )
    return bool(before.isfinite().all())
