"""Where tokens of a prompt occurred before.

With `x` a prompt and position 0 its BOS, the earlier occurrences of a query `t` are the `s` with `1 <= s < t` and
`x_s = x_t`. Of prompts without BOS (`Prompts.has_bos`) position 0 is an occurrence like the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from induction_lab.data.prompts import Prompts

LAGS = tuple(range(-6, 7))  # distances from an earlier occurrence that profiles look at
Pairs = tuple[Int[Tensor, " _"], Int[Tensor, " _"], Int[Tensor, " _"]]  # prompt, query and key of each
IDEAL_PATTERNS = ("previous_token", "induction")


def occurrences(
    prompts: Prompts,
) -> tuple[Int[Tensor, " match"], Int[Tensor, " match"], Int[Tensor, " match"], Bool[Tensor, " match"]]:
    """All (prompt, query t, earlier occurrence s), BOS and padding left out, and whether `s` is the latest."""
    tokens, real = prompts.tokens.cpu(), prompts.real
    real[:, : prompts.first] = False
    prompt, position = real.nonzero(as_tuple=True)
    _, kind = torch.unique(tokens[real], return_inverse=True)
    group = prompt * (int(kind.max()) + 1 if len(kind) else 1) + kind
    order = torch.sort(group, stable=True).indices  # equal tokens of a prompt side by side, in order of position
    group, prompt, position = group[order], prompt[order], position[order]
    found: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for lag in range(1, tokens.shape[1]):
        same = (group[lag:] == group[:-lag]).nonzero()[:, 0]
        if not len(same):
            break
        latest = torch.full((len(same),), lag == 1)
        found.append((prompt[same], position[same + lag], position[same], latest))
    if not found:
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing, nothing, nothing.bool()
    return tuple(torch.cat(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def ideal_pattern(prompts: Prompts | Int[Tensor, "prompt pos"], kind: str) -> Float[Tensor, "prompt query key"]:
    """Where a perfect previous-token or induction head attends; rows sum to 1.

    Args:
        prompts: Prompts, or tokens with BOS first.
        kind: `previous_token` or `induction`.

    Raises:
        ValueError: If `kind` is another.
    """
    if kind not in IDEAL_PATTERNS:
        raise ValueError(f"An ideal pattern is one of {', '.join(IDEAL_PATTERNS)}, got {kind!r}.")
    prompts = Prompts(prompts) if isinstance(prompts, Tensor) else replace(prompts, lengths=None)
    n_prompts, n_pos = prompts.tokens.shape
    pattern = torch.zeros(n_prompts, n_pos, n_pos, dtype=torch.float32)
    if kind == "previous_token":
        pattern.diagonal(-1, dim1=1, dim2=2)[:, 1:] = 1.0
    else:
        prompt, query, earlier, _ = occurrences(prompts)
        pattern[prompt, query, earlier + 1] = 1.0
    pattern[:, :, 0] += pattern.sum(-1) == 0  # rest on BOS, or on what stands in its place
    return pattern / pattern.sum(-1, keepdim=True)


def copyable(
    tokens: Int[Tensor, "prompt pos"], lengths: Int[Tensor, " prompt"] | None = None
) -> Bool[Tensor, "prompt pos"]:
    """Queries whose next token is the one that followed the latest earlier occurrence: where copying is right.

    On tokens repeated back to back these are all positions from the second copy on, but for the last.
    """
    return Recurrences(Prompts(tokens.cpu(), lengths)).copyable


@dataclass(frozen=True)
class Recurrences:
    """What recurs in some prompts, on the CPU; each property is found when first asked for, and then kept.

    Attributes:
        prompts: The prompts.
    """

    prompts: Prompts

    @cached_property
    def matches(self) -> Pairs:
        """(prompt, query, earlier occurrence of the query's token), as `occurrences` orders them."""
        return self._occurrences[:3]

    @cached_property
    def latest(self) -> Pairs:
        """(prompt, query, latest earlier occurrence), one a query whose token occurred before."""
        prompt, query, earlier, latest = self._occurrences
        return prompt[latest], query[latest], earlier[latest]

    @cached_property
    def queries(self) -> tuple[Int[Tensor, " query"], Int[Tensor, " query"]]:
        """(prompt, position) of every token but the first, which can look at itself alone; no padding."""
        real = self.prompts.real
        real[:, 0] = False
        prompt, query = real.nonzero(as_tuple=True)
        return prompt, query

    @cached_property
    def unseen(self) -> tuple[Int[Tensor, " query"], Int[Tensor, " query"]]:
        """(prompt, position) of every token but the first that did not occur before."""
        real = self.prompts.real
        real[:, 0] = False
        real[self.matches[:2]] = False
        prompt, query = real.nonzero(as_tuple=True)
        return prompt, query

    @cached_property
    def copyable(self) -> Bool[Tensor, "prompt pos"]:
        """See the function of that name."""
        tokens, (prompt, query, earlier) = self.prompts.tokens.cpu(), self.latest
        keep = query + 1 < self.prompts.real_lengths[prompt]
        prompt, query, earlier = prompt[keep], query[keep], earlier[keep]
        right = tokens[prompt, query + 1] == tokens[prompt, earlier + 1]
        result = torch.zeros_like(tokens, dtype=torch.bool)
        result[prompt[right], query[right]] = True
        return result

    @cached_property
    def _occurrences(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return occurrences(self.prompts)
