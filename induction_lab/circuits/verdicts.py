"""What a head is to in-context copying, from where it looks, what it writes and what is lost without it.

Evidence counts where it is large enough (`LEAST_EFFECT`, `LEAST_WRITTEN`) and beyond its error: over all heads and
kinds of evidence at most a share `RATE` of what counts is expected to be chance (Benjamini and Hochberg's procedure on
moderated t-tests over prompts). Of the verdicts that a head could have it gets the first of: suppressor, induction,
previous-token, copy, carrier, bystander.
"""

from __future__ import annotations

from typing import Any

import torch

from induction_lab.results.heads import LOOKS
from induction_lab.results.statistics import false_discovery_rates, far_from_zero

LEAST_EFFECT = 0.01  # of the fall of the loss: less is no evidence
LEAST_WRITTEN = 0.05  # of all that heads write for the right token
RATE = 0.05  # of false discoveries
VERDICTS = {
    "previous-token": "attends to the token before; the loss rises without it, or without its path to the keys",
    "induction": "attends to what followed its token before; the loss rises without it, or it writes the right token",
    "copy": "writes the right token and the loss rises without it, though it does not match prefixes",
    "carrier": "the loss rises without it, or without its path to the keys, for another reason",
    "suppressor": "the loss falls without it, or it writes against the right token and the loss does not rise without",
    "bystander": "none of this",
}
CIRCUIT = ("previous-token", "induction", "copy", "carrier")


def verdicts(heads: Any, fall: float, n_prompts: int) -> list[str]:
    """The verdict on each head.

    Args:
        heads: A row a head with the columns of `Explanation.heads` and `logit_error`; what is not known is NaN.
        fall: By how many nats the loss falls on the second copy; 0 where that is not certain.
        n_prompts: How many prompts errors are over.
    """
    written = float(heads["logit_attribution"].clip(lower=0).sum())
    least, least_written = LEAST_EFFECT * fall, LEAST_WRITTEN * written
    kinds = {
        "carries": (heads["effect"], heads["effect_error"], least),
        "hurts": (-heads["effect"], heads["effect_error"], least),
        "feeds": (heads["to_keys"], heads["to_keys_error"], least),
        "writes": (heads["logit_attribution"], heads["logit_error"], least_written),
        "opposes": (-heads["logit_attribution"], heads["logit_error"], least_written),
    }
    if fall <= 0:
        return ["bystander"] * len(heads)
    there = _beyond_chance(kinds, n_prompts)
    found = []
    rows: Any = heads.to_dict("records")
    for i, row in enumerate(rows):
        carries, hurts, feeds, writes, opposes = (bool(there[name][i]) for name in kinds)
        if hurts or (opposes and not carries and not feeds):
            found.append("suppressor")
        elif row["prefix_matching"] >= LOOKS and (carries or writes):
            found.append("induction")
        elif row["previous_token"] >= LOOKS and (carries or feeds):
            found.append("previous-token")
        elif carries and writes:
            found.append("copy")
        else:
            found.append("carrier" if carries or feeds else "bystander")
    return found


def _beyond_chance(kinds: dict[str, tuple[Any, Any, float]], n_prompts: int) -> dict[str, Any]:
    """Of each kind of evidence, of which heads it counts. What is too small to count has no chance to: its p is 1."""
    p_values = {}
    for name, (values, errors, least) in kinds.items():
        values, errors = (torch.tensor(x.tolist(), dtype=torch.float64) for x in (values, errors))
        p = far_from_zero(values, errors, n_prompts)
        p_values[name] = torch.where(values.isnan() | p.isnan(), torch.nan, torch.where(values < least, 1.0, p))
    every = torch.cat(list(p_values.values()))
    known = ~every.isnan()
    q_values = torch.ones_like(every)
    q_values[known] = torch.from_numpy(false_discovery_rates(every[known].numpy()))
    return {name: q <= RATE for name, q in zip(kinds, q_values.chunk(len(kinds)), strict=True)}
