"""What TransformerLens' models answer: stacked weights, texts as tokens; and hooks, with which that library is loaded.

`AttentionOnlyTransformer` answers as they do, so exercises and tools written for them run on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from induction_lab.results.token_labels import token_labels

if TYPE_CHECKING:
    from transformer_lens import FactoredMatrix

OF_HOOKS = frozenset(
    """add_caching_hooks add_hook add_perma_hook cache_all cache_some check_and_add_hook check_hooks_to_add
    clear_contexts context_level get_caching_hooks hook_dict hook_points hooks is_caching list_hooks mod_dict
    remove_all_hook_fns reset_hooks run_with_cache run_with_hooks setup""".split()
)  # what TransformerLens' `HookedRootModule` has


class AsTransformerLens(nn.Module):
    """Names of TransformerLens' models, for a network with `cfg`, `embed`, `unembed`, `blocks`, perhaps a tokenizer."""

    cfg: Any
    embed: Any
    unembed: Any
    blocks: Any
    tokenizer: Any

    def __getattr__(self, name: str) -> Any:
        """What `HookedRootModule` has of that name: the network becomes one when its hooks are first used."""
        if name not in OF_HOOKS:
            return super().__getattr__(name)
        from induction_lab.models.attention_only.hooked import become_hooked

        become_hooked(self)
        return getattr(self, name)

    @property
    def W_E(self) -> Float[Tensor, "d_vocab d_model"]:
        """Embedding."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Float[Tensor, "n_ctx d_model"]:
        """Position vectors; a ValueError where there are none."""
        if not hasattr(self, "pos_embed"):
            raise ValueError(f"Positions are {self.cfg.positions} here, so there is no W_pos.")
        return self.get_submodule("pos_embed").W_pos  # type: ignore[return-value]

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """Unembedding."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Float[Tensor, " d_vocab"]:
        """Bias of the unembedding; zeros where there is none."""
        return torch.zeros_like(self.W_U[0]) if self.unembed.b_U is None else self.unembed.b_U

    @property
    def W_Q(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Query weights of all layers."""
        return self._stacked("W_Q")

    @property
    def W_K(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Key weights of all layers."""
        return self._stacked("W_K")

    @property
    def W_V(self) -> Float[Tensor, "layer head d_model d_head"]:
        """Value weights of all layers."""
        return self._stacked("W_V")

    @property
    def W_O(self) -> Float[Tensor, "layer head d_head d_model"]:
        """Output weights of all layers."""
        return self._stacked("W_O")

    @property
    def OV(self) -> FactoredMatrix:
        """`W_V W_O` of all heads."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """`W_Q W_K^T` of all heads, positions left out."""
        from transformer_lens import FactoredMatrix

        return FactoredMatrix(self.W_Q, self.W_K.mT)

    def _stacked(self, name: str) -> Tensor:
        return torch.stack([getattr(block.attn, name) for block in self.blocks])

    def to_tokens(self, text: str | Sequence[str], prepend_bos: bool = True) -> Int[Tensor, "batch pos"]:
        """Texts as token ids, BOS in front, padded on the right with BOS.

        Raises:
            ValueError: If the model has no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError("This model has no tokenizer, so it reads tokens only: give a tensor [batch, pos].")
        begin = [self.cfg.bos_token_id] if prepend_bos else []
        texts = [text] if isinstance(text, str) else text
        rows = [begin + self.tokenizer(one, add_special_tokens=False)["input_ids"] for one in texts]
        padded = [row + [self.cfg.bos_token_id] * (max(map(len, rows)) - len(row)) for row in rows]
        return torch.tensor(padded, dtype=torch.long, device=self.W_E.device)

    def to_single_token(self, text: str) -> int:
        """The one token that a text is.

        Raises:
            ValueError: If it is several, or the model has no tokenizer.
        """
        ids = self.to_tokens(text, prepend_bos=False)[0].tolist()
        if len(ids) != 1:
            raise ValueError(f"{text!r} is {len(ids)} tokens: {token_labels(self.tokenizer, ids)}.")
        return ids[0]

    def to_string(self, tokens: Int[Tensor, "*batch"] | Sequence[int]) -> str | list[str]:
        """The text of a row of tokens, or of each of several rows; numbers where there is no tokenizer."""
        ids = torch.as_tensor(tokens).tolist()
        if ids and isinstance(ids[0], list):
            return [str(self.to_string(row)) for row in ids]
        ids = ids if isinstance(ids, list) else [ids]
        return " ".join(map(str, ids)) if self.tokenizer is None else self.tokenizer.decode(ids)

    def to_str_tokens(self, tokens: str | Int[Tensor, "*batch"] | Sequence[int], prepend_bos: bool = True) -> list[str]:
        """Each token of one text or row as text; its number where there is no tokenizer.

        Raises:
            ValueError: If there are several rows.
        """
        ids = self.to_tokens(tokens, prepend_bos) if isinstance(tokens, str) else torch.as_tensor(tokens)
        if ids.ndim > 1 and len(ids) != 1:
            raise ValueError(f"One row of tokens is wanted, got shape {tuple(ids.shape)}.")
        return [str(self.to_string([token])) for token in ids.flatten().tolist()]

    def tokens_to_residual_directions(
        self, tokens: str | int | Int[Tensor, "*batch"]
    ) -> Float[Tensor, "*batch d_model"]:
        """The direction of the stream that raises each token's logit: its column of `W_U`."""
        ids = self.to_single_token(tokens) if isinstance(tokens, str) else tokens
        return self.W_U.T[ids]
