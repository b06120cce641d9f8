"""A model without MLPs as a sum of paths: token to logits directly, through each head, through each virtual head.

With attention patterns and norm scales held at what they are on given tokens, such a model is linear. Its logits are
the sum over paths: a path passes some heads, one a layer at most, and the rest of the way along the residual stream. A
path through two heads is a virtual head: it attends with `A2 A1` and writes with `W_V1 W_O1 W_V2 W_O2`.
Source: Elhage et al. (2021), "Path expansion" and "Virtual attention heads".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.data.occurrences import Recurrences
from induction_lab.data.prompts import Prompts, PromptsLike, as_prompts
from induction_lab.internals.activations import capture
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.frozen_norms import FrozenNorm, attention_norm, final_norm
from induction_lab.models.head_weights import head_weights
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import takes_names
from induction_lab.results.cards import html_card
from induction_lab.results.heads import Head, HeadLike, parse_head
from induction_lab.results.statistics import number_and_error
from induction_lab.weights.stream_sources import stream_rows

HeadPath = tuple[Head, ...]  # the heads that information passes, first to last; none: the direct way
MOST_PATHS = 4096
_SHOWN = 10  # paths in a notebook
_AT_ONCE = 256  # up to how many paths a notebook is worth adding up all


class PathTerms(Mapping[HeadPath, Tensor]):
    """Each path's share of the logits: `terms[()]` is direct, `terms[Head(0, 3), Head(1, 2)]` a virtual head.

    Attributes:
        prompts: What the model read.
        constant: What biases add, those of norms too, `[d_vocab]` or `[batch, pos, d_vocab]`; it passes no token on.
    """

    def __init__(
        self,
        prompts: Prompts,
        streams: dict[HeadPath, Tensor],
        constant: Tensor,
        norm: FrozenNorm,
        scale: Tensor,
        W_U: Tensor,
        b_U: Tensor,
    ) -> None:
        """Hold each path's share of the residual stream."""
        self.prompts, self._streams = prompts, streams
        self._norm, self._scale, self._W_U = norm, scale[..., None], W_U
        self.constant = (norm.apply(constant) / self._scale + norm.bias) @ W_U + b_U

    def __getitem__(self, path: HeadPath) -> Float[Tensor, "batch pos d_vocab"]:
        """Logits that one path adds."""
        return self._norm.apply(self._streams[path]) / self._scale @ self._W_U

    def __iter__(self) -> Any:
        """Paths, shorter ones first."""
        return iter(sorted(self._streams, key=lambda path: (len(path), path)))

    def __len__(self) -> int:
        """Number of paths."""
        return len(self._streams)

    def __repr__(self) -> str:
        """How many paths, by how many heads they pass."""
        return f"PathTerms({self._facts()})"

    def _facts(self) -> str:
        counts = Counter(map(len, self._streams))
        said = ", ".join(f"{n} through {heads} head{'s' * (heads > 1)}" for heads, n in sorted(counts.items()) if heads)
        n_prompts, n_pos = self.prompts.tokens.shape
        return f"{len(self)} paths on {n_prompts} x {n_pos} tokens: direct{', ' * bool(said)}{said}"

    def _repr_html_(self) -> str:
        """The paths that add most to the right next token where copying is right, for notebooks."""
        rows, note = [], "Read one with terms[()] or terms[Head(0, 3), Head(1, 3)]."
        if len(self) <= _AT_ONCE and bool(Recurrences(self.prompts).copyable.any()):
            table = self.attribution().head(_SHOWN)
            rows = [(row["path"], row["logits"], row["standard_error"]) for row in table.to_dict("records")]
            note = f"The {len(rows)} that add most where copying is right, in logits minus their mean. {note}"
        return html_card("Paths", self._facts(), ("path", "logits", "standard error"), rows, note=note)

    def total(self) -> Float[Tensor, "batch pos d_vocab"]:
        """The sum of everything: the model's logits."""
        return sum((self[path] for path in self), self.constant)

    def attribution(self) -> pd.DataFrame:
        """What each path adds to the right next token where copying is right, in logits minus their mean; best first.

        Columns: path, heads (how many it passes), logits, standard_error (over prompts).

        Raises:
            ValueError: If nothing is copied in these prompts.
        """
        mask = Recurrences(self.prompts).copyable
        prompt, query = mask.nonzero(as_tuple=True)
        if not len(prompt):
            raise ValueError("Nothing is copied in these prompts, no pair recurs: use repeated_tokens(model).")
        answer = self.prompts.tokens[prompt, query + 1]
        count = torch.bincount(prompt, minlength=len(mask))
        rows = []
        for path in self:
            logits = self[path][prompt.to(self._W_U.device), query.to(self._W_U.device)].cpu()
            own = logits.gather(1, answer[:, None])[:, 0] - logits.mean(1)
            means = (
                torch.zeros(len(mask), dtype=torch.float32).index_add_(0, prompt, own.float())[count > 0]
                / count[count > 0]
            )
            rows.append((name_of(path), len(path), *number_and_error(means)))
        table = pd.DataFrame(rows, columns=["path", "heads", "logits", "standard_error"])
        return table.sort_values("logits", ascending=False, ignore_index=True)


def name_of(path: HeadPath) -> str:
    """`direct`, `L1H2`, or `L0H3 > L1H2`."""
    return " > ".join(map(str, path)) or "direct"


@takes_names
def expand_paths(model: HookedModel, tokens: PromptsLike) -> PathTerms:
    """All paths of a model without MLPs on given tokens; with `constant` they add up to its logits exactly.

    >>> model = load_model()                                                     # doctest: +SKIP
    >>> terms = expand_paths(model, repeated_tokens(model, n_prompts=2))         # doctest: +SKIP
    >>> len(terms)  # direct, 4 + 4 heads, 16 virtual heads                      # doctest: +SKIP
    25

    Args:
        model: An `AttentionOnlyTransformer` without MLPs, of any depth that keeps paths below `MOST_PATHS`.
        tokens: `Prompts`, or tokens `[batch, pos]`.

    Raises:
        ValueError: If the model has MLPs, which are not linear, or too many paths.
    """
    network = _linear_network(model)
    prompts = as_prompts(model, tokens)
    start = stream_rows(model)[prompts.tokens.to(model.device)] + _position_rows(network, prompts)
    acts = capture(model, prompts, ["pattern", "resid_pre", "resid_post"]) if model.n_layers else {}
    streams: dict[HeadPath, Tensor] = {(): start}
    constant = torch.zeros_like(start)
    for layer in range(model.n_layers):
        norm = attention_norm(model, layer)
        x, patterns = acts["resid_pre", layer], acts["pattern", layer].to(model.wide)
        scale = norm.scale(x.to(model.wide), model.hooked.blocks[layer].ln1(x).to(model.wide))[..., None].detach()
        W_V, W_O = (weights.to(model.wide) for weights in head_weights(model, layer)[2:])
        added: dict[HeadPath, Tensor] = {}
        for head in range(model.n_heads):
            pattern, OV = patterns[:, head], W_V[head] @ W_O[head]
            for path, stream in streams.items():
                added[*path, Head(layer, head)] = pattern @ (norm.apply(stream) / scale @ OV)
        read = norm.apply(constant) / scale + norm.bias
        b_V, b_O = (getattr(network.blocks[layer].attn, name, None) for name in ("b_V", "b_O"))
        v = read[:, None] @ W_V if b_V is None else read[:, None] @ W_V + b_V.detach().to(model.wide)[:, None]
        each = ((patterns @ v) @ W_O).sum(1)
        streams, constant = streams | added, constant + (each if b_O is None else each + b_O.detach().to(model.wide))
    end = acts["resid_post", model.n_layers - 1] if model.n_layers else start.to(model.dtype)
    norm = final_norm(model)
    scale = norm.scale(end.to(model.wide), network.ln_final(end).to(model.wide)).detach()
    W_U, b_U = (weights.detach().to(model.wide) for weights in (network.W_U, network.b_U))
    return PathTerms(prompts, streams, constant, norm, scale, W_U, b_U)


@takes_names
def virtual_pattern(
    model: HookedModel, tokens: PromptsLike, first: HeadLike, second: HeadLike
) -> Float[Tensor, "batch query key"]:
    """Where the virtual head of two heads looks: `A2 A1`; rows sum to 1.

    Its output circuit is `ov_circuit(model, second, source=first)`.

    Raises:
        ValueError: If the second head is in no later layer.
    """
    early, late = (parse_head(head, n_layers=model.n_layers, n_heads=model.n_heads) for head in (first, second))
    if early.layer >= late.layer:
        raise ValueError(f"The second head must be in a later layer than the first, got {early} and {late}.")
    acts = capture(model, tokens, "pattern", heads=[early, late])
    return acts["pattern", late.layer][:, 0] @ acts["pattern", early.layer][:, 0]


def _linear_network(model: HookedModel) -> AttentionOnlyTransformer:
    network = model.network
    if not isinstance(network, AttentionOnlyTransformer) or network.cfg.d_mlp is not None:
        raise ValueError(f"{model.name} has MLPs, which are not linear: it is no sum of paths through heads.")
    n_paths = (1 + model.n_heads) ** model.n_layers
    if n_paths > MOST_PATHS:
        raise ValueError(f"{model.name} has {n_paths} paths; at most {MOST_PATHS} are listed.")
    return network


def _position_rows(network: AttentionOnlyTransformer, prompts: Prompts) -> Tensor | float:
    return network.pos_embed.W_pos[: prompts.tokens.shape[1]].detach() if network.cfg.positions == "learned" else 0.0
