"""Keys and values in the context as a table to look things up in: prompts, and whether the values come back.

`[BOS, k_1 v_1 … k_n v_n, k_a v_a k_b v_b …, k_0]`, all of them distinct random tokens: n pairs, up to eight keys asked
for once more (each followed by its value, which is not read), and last a key that is not there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from induction_lab import Head, HookedModel, Prompts
from induction_lab.data.prompts import ordinary_tokens
from induction_lab.internals.reading import read_attention

ASKED = 8  # keys of a prompt that are asked for


class Lookups(NamedTuple):
    """Prompts with one table each.

    Attributes:
        prompts: The tokens.
        query: Where keys are asked for.
        address: For each of them the position of its value in the table.
        n_pairs: Pairs in the table.
    """

    prompts: Prompts
    query: Int[Tensor, " asked"]
    address: Int[Tensor, "prompt asked"]
    n_pairs: int


def lookups(model: HookedModel, n_pairs: int, *, n_prompts: int, seed: int) -> Lookups:
    """Draw tables of `n_pairs` pairs."""
    generator, ids = torch.Generator().manual_seed(seed + n_pairs), ordinary_tokens(model)
    asked = min(ASKED, n_pairs)
    rows, addresses = [], []
    for _ in range(n_prompts):
        drawn = ids[torch.randperm(len(ids), generator=generator)[: 2 * n_pairs + 1]]
        pairs, absent = drawn[:-1].view(n_pairs, 2), drawn[-1:]
        which = torch.randperm(n_pairs, generator=generator)[:asked]
        rows.append(torch.cat([torch.tensor([model.bos_token_id]), pairs.flatten(), pairs[which].flatten(), absent]))
        addresses.append(2 + 2 * which)
    query = 1 + 2 * n_pairs + 2 * torch.arange(asked)
    return Lookups(Prompts(torch.stack(rows), seed=seed), query, torch.stack(addresses), n_pairs)


def fits(model: HookedModel, n_pairs: int) -> bool:
    """Whether a table of that size finds room in the context and the vocabulary."""
    length = 2 + 2 * n_pairs + 2 * min(ASKED, n_pairs)
    return length <= (model.n_ctx or length) and 2 * n_pairs + 1 <= len(ordinary_tokens(model))


def looked_up(model: HookedModel, table: Lookups, head: Head) -> dict[str, Any]:
    """What comes back, `[prompt, asked]` each, and where one head looks.

    Returns:
        `value` whether the value is the likeliest token; `among` whether it is the likeliest of the table's values;
        `first` the same as `value` for the first key asked for, before any was answered; `attention` the head's
        probability on the address; `address` whether it is the largest of all but BOS's; `rest` and `rest_absent` its
        probability on BOS for keys that are and that are not there, `stray` the largest of another address for the
        key that is not there.
    """
    tokens, seen = table.prompts.tokens, []
    queries = torch.cat([table.query, torch.tensor([tokens.shape[1] - 1])])

    def read(attention: Any) -> None:
        if attention.layer == head.layer:
            index = torch.tensor([head.head], device=attention.z.device)
            seen.append(attention.pattern(heads=index, queries=queries.to(attention.z.device))[:, 0].float().cpu())

    hidden = read_attention(model, tokens.to(model.device), read).normalised
    assert hidden is not None
    with torch.inference_mode():
        logits = model.unembed(hidden[:, table.query]).float().cpu()
    right = tokens.gather(1, table.address)
    values = tokens[:, 2 : 1 + 2 * table.n_pairs + 1 : 2]
    of_values = logits.gather(2, values[:, None].expand(-1, len(table.query), -1))
    at_address = logits.gather(2, right[..., None])
    pattern, absent = seen[0][:, :-1], seen[0][:, -1]
    attention = pattern.gather(2, table.address[..., None])[..., 0]
    hit = (logits.argmax(-1) == right).float()
    return {
        "value": hit,
        "first": hit[:, :1],
        "among": (at_address >= of_values.amax(-1, keepdim=True))[..., 0].float(),
        "attention": attention,
        "address": (attention >= pattern[..., 1:].amax(-1)).float(),
        "rest": pattern[..., 0],
        "rest_absent": absent[:, :1],
        "stray": absent[:, 1:].amax(-1, keepdim=True),
    }
