"""Where a network keeps its parts, and what kind of network it is.

Whatever depends on the architecture is asked of `HookedModel.anatomy`. There are two kinds: `OwnAnatomy` of our
`AttentionOnlyTransformer` (`models/attention_only/anatomy.py`), and `TransformersAnatomy` of causal language models.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.attention.scopes import alone
from induction_lab.models.on_disk.network import fit_copy
from induction_lab.models.wiring.latents import Latents

Component = Literal["q", "k", "v", "z"]


class Shape(NamedTuple):
    """How many of each there are, and how wide; `n_ctx` is None where nothing bounds the length of a prompt.

    `bos_is` says what `bos_token_id` is: `BOS`, `end-of-text` where there is no BOS, empty where there is neither.
    """

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_head: int
    d_vocab: int
    n_ctx: int | None
    bos_token_id: int
    bos_is: str = "BOS"
    pad_token_id: int | None = None


class HeadWeights(NamedTuple):
    """One layer's heads; in grouped-query models several query heads read one key-value head (`attention.grouped`)."""

    W_Q: Float[Tensor, "head d_model d_head"]
    W_K: Float[Tensor, "kv_head d_model d_head"]
    W_V: Float[Tensor, "kv_head d_model d_head"]
    W_O: Float[Tensor, "head d_head d_model"]


class HeadBiases(NamedTuple):
    """What is added to one layer's queries, keys, values, and to what its heads write together; None where nothing."""

    b_Q: Float[Tensor, "head d_head"] | None
    b_K: Float[Tensor, "kv_head d_head"] | None
    b_V: Float[Tensor, "kv_head d_head"] | None
    b_O: Float[Tensor, " d_model"] | None


class Anatomy(ABC):
    """One network's parts and kind.

    Attributes:
        network: The network itself.
        name: What it calls itself.
        shape: Its numbers of layers and heads, its widths.
        hooked: Its TransformerLens surface, the network itself or a bridge that is built when first asked for.
        blocks: Its blocks, one a layer.
        attention_modules: The modules that attend, by which edits of attention find them.
        attention_configs: Every configuration object in which one of its modules looks up how to attend.
        embedding: The module that embeds tokens.
        body: The module that runs everything before the unembedding.
        final_norm: The normalisation before the unembedding; `nn.Identity` where there is none.
        unembedding: `W_U` as rows, one a token.
        unembedding_bias: What is added to each token's logit, or None.
        logit_scale: What logits are multiplied by (Cohere, Granite); usually 1.
        logit_cap: The soft cap of logits (Gemma 2), or None.
        output_factor: What a layer's output is multiplied by before it enters the stream (Granite); usually 1.
        goes_through_interface: Whether the engine computes its attention, by transformers' attention interface or
            because the network calls the engine itself; if not, layers' matrices are read through hooks.
        calls_engine: Whether the network calls the engine itself, so that its own hooks show all there is.
        is_rotary: Whether queries and keys are rotated by their position.
        rotate: Rotates vectors `[batch, pos, head, d_head]` as the network does; None where only a run can tell.
        has_mlps: Whether MLPs write into the residual stream beside the heads.
        smeared_keys: Whether each key is mixed with the key of the position before.
        positions_beside_stream: Whether position vectors are added to what queries and keys read, not to the stream.
        positions_after_norm: Whether they are added behind the norm, `norm(x) + position`, so that no norm reads them.
        commit: The commit of the Hugging Face hub that it was loaded from, or None.
    """

    hooked: Any
    shape: Shape
    blocks: list[nn.Module]
    attention_modules: list[nn.Module]
    attention_configs: Sequence[Any]
    embedding: nn.Module
    body: nn.Module
    final_norm: nn.Module
    unembedding: Float[Tensor, "d_vocab d_model"]
    unembedding_bias: Float[Tensor, " d_vocab"] | None
    logit_scale: float
    logit_cap: float | None
    output_factor: float
    goes_through_interface: bool
    calls_engine: bool
    is_rotary: bool
    rotate: Callable[[Tensor], Tensor] | None
    has_mlps: bool
    smeared_keys: bool
    positions_beside_stream: bool
    positions_after_norm: bool
    commit: str | None

    def __init__(self, network: nn.Module, name: str) -> None:
        """Hold a network."""
        self.network: Any = network
        self.name = name

    def reading_on(self) -> AbstractContextManager[None]:
        """Let the network read prompts longer than its context, inside; that they may be was seen to (`Prompts`)."""
        return nullcontext()

    @abstractmethod
    def hidden(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The normalised stream before the unembedding, which is not run."""

    @abstractmethod
    def logits(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_vocab"]:
        """What the whole network gives."""

    @abstractmethod
    def unembed(self, hidden: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Logits from the normalised stream, scaled and capped as the architecture does it."""

    @abstractmethod
    def norm_before(self, layer: int) -> nn.Module:
        """The normalisation before a layer's queries, keys and values; `nn.Identity` where there is none."""

    @abstractmethod
    def norm_after(self, layer: int) -> nn.Module | None:
        """The normalisation of what a layer's heads write together, before it enters the stream, if there is one."""

    @abstractmethod
    def head_norm(self, layer: int, component: Component) -> nn.Module | None:
        """The normalisation of a layer's queries or keys (Qwen 3, Gemma 3, OLMo-2), if there is one.

        Of values, and of what the heads put out (`z`), before the output projection reads it (BitNet), likewise.
        """

    @abstractmethod
    def output_projection(self, layer: int) -> nn.Module:
        """The module that reads a layer's heads, side by side.

        Raises:
            ValueError: If the network has no such module.
        """

    @abstractmethod
    def attention_output(self, layer: int) -> nn.Module:
        """The module whose output is what a layer's heads write together, before any norm of that.

        Raises:
            ValueError: If the network has no such module.
        """

    @abstractmethod
    def position_module(self) -> nn.Module | None:
        """The module that makes the position vectors that are added to embeddings, or to queries and keys; or None.

        Raises:
            ValueError: If positions are added by no module.
        """

    def behind_positions(self) -> list[nn.Module]:
        """The norms and projections that position vectors go through, added to the embedding, to enter the stream.

        Raises:
            ValueError: If they are not added to the embedding as they are.
        """
        return []

    @abstractmethod
    def projection(self, layer: int, component: Literal["q", "k", "v", "o"]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of a layer's projection by head, as the forward pass uses them, adapters and all.

        `x @ W + b`, of the shapes that `HeadWeights` and `HeadBiases` say. Where a gate multiplies what heads put out
        (Qwen 3.5), the output projection is given as it acts with the gate open.

        Raises:
            ValueError: If it is no linear map of the normalised stream, or what it writes is added to no stream that
                goes on as it is.
        """

    def stream_norms(self, layer: int) -> tuple[nn.Module, ...]:
        """The norms that the whole stream goes through once a layer's heads have been added to it, in order.

        Post-norm networks (GPT-1, BERT) have them: `x -> norm(x + heads(x))`. Elsewhere the stream goes on as it is.

        Raises:
            ValueError: If a layer without heads stands in such a network, whose norms nobody has found.
        """
        return ()

    @property
    def renormalises(self) -> bool:
        """Whether norms stand in the stream itself (`stream_norms`), so that each layer has a basis of its own."""
        return any(self.stream_norms(layer) for layer in set(self.representatives) & set(self.attending))

    def output_map(self, layer: int) -> tuple[Tensor, Tensor | None]:
        """`projection` of `o`, also where the sum that it is added to goes through `stream_norms`."""
        return self.projection(layer, "o")

    def head_weights(self, layer: int) -> HeadWeights:
        """A layer's weights by head, see `projection`."""
        W_Q, W_K, W_V, W_O = (self.projection(layer, component)[0] for component in ("q", "k", "v", "o"))
        return HeadWeights(W_Q, W_K, W_V, W_O)

    def head_biases(self, layer: int) -> HeadBiases:
        """What is added beside `head_weights`, see `projection`."""
        b_Q, b_K, b_V, b_O = (self.projection(layer, component)[1] for component in ("q", "k", "v", "o"))
        return HeadBiases(b_Q, b_K, b_V, b_O)

    def latents(self, layer: int) -> Latents | None:
        """What makes a layer's queries, keys and values where a `projection` does not; None where it does.

        Such are latents with a norm of their own (DeepSeek's multi-head latent attention).

        Raises:
            ValueError: If what the layer reads or writes cannot be followed.
        """
        return None

    def head_widths(self, layer: int) -> tuple[int, int]:
        """How wide a layer's queries and keys are, and its values."""
        return self.shape.d_head, self.shape.d_head

    @property
    def head_width(self) -> int:
        """The widest that heads of any layer are: weights of heads are compared at that width, zeros filling it."""
        layers = set(self.attending) & set(self.representatives)
        return max(max(self.head_widths(layer)) for layer in layers)

    @abstractmethod
    def maker(self, layer: int, component: Literal["q", "k"]) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
        """The module that makes a layer's queries or keys, and what cuts its output into `[batch, pos, head, d_head]`.

        Raises:
            ValueError: If there is no such module.
        """

    @abstractmethod
    def queries_and_keys(
        self, tokens: Int[Tensor, "token 1"], positions: Int[Tensor, "token 1"]
    ) -> dict[int, Float[Tensor, "token head d_head"]]:
        """What each layer multiplies for single tokens that are said to stand at these positions: queries, then keys.

        Raises:
            ValueError: If the network cannot be told where a token stands.
        """

    @property
    @abstractmethod
    def attending(self) -> list[int]:
        """The layers that have heads: all, but for hybrids."""

    @property
    def representatives(self) -> Sequence[int]:
        """Layers that tell what can be had of all: every one, or one of each kind where weights are on disk."""
        return range(self.shape.n_layers)

    @abstractmethod
    def is_gated(self, layer: int) -> bool:
        """Whether what a layer's heads put out is multiplied by a gate before the output projection reads it."""

    @property
    def like(self) -> Float[Tensor, " 0"]:
        """A tensor of the type and on the device of the parameters."""
        first = next(self.network.parameters())
        return torch.empty(0, dtype=first.dtype, device=first.device)

    @property
    def norms(self) -> list[nn.Module]:
        """All normalisations that heads read or write through, and the final one, those that do nothing left out."""
        layers = range(self.shape.n_layers)
        each = ((self.norm_before(layer), self.norm_after(layer), *self.stream_norms(layer)) for layer in layers)
        found = [norm for norms in each for norm in norms]
        return [norm for norm in (*found, self.final_norm) if norm is not None and not isinstance(norm, nn.Identity)]

    @property
    def keys_read_stream_only(self) -> bool:
        """Whether queries and keys are made of the stream where they stand, and of nothing else."""
        return not (self.smeared_keys or self.positions_beside_stream)

    @property
    def writes_unchanged(self) -> bool:
        """Whether what heads put out, `z W_O`, is added to the stream as it is: neither normalised nor rescaled."""
        return self.output_factor == 1 and self.norm_after(self.attending[0]) is None

    @property
    def projects_stream(self) -> bool:
        """Whether the stream is projected to another width before the unembedding."""
        return self.unembedding.shape[1] != self.shape.d_model

    def copy_without_hooks(self) -> nn.Module:
        """A network of the same parameters which nobody has hooked or edited, in evaluation mode."""
        memo: dict[int, Any] = {id(tensor): tensor for tensor in (*self.network.parameters(), *self.network.buffers())}
        for module in self.network.modules():  # hooks may hold on to much: they are not even copied
            for hooks in (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks):
                memo[id(hooks)] = type(hooks)()
        with alone(self.network):
            copied = copy.deepcopy(self.network, memo=memo).eval()
        fit_copy(self.network, copied)
        return copied
