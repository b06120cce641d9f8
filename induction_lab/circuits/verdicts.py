"""What a head is to in-context copying, from where it looks, what it writes and what is lost without it.

Evidence counts where it is large enough (`LEAST_EFFECT`, `LEAST_WRITTEN`) and `ERRORS` standard errors from 0. Of the
verdicts that a head could have it gets the first of: suppressor, induction, previous-token, copy, carrier, bystander.
"""

from __future__ import annotations

from typing import Any

from induction_lab.results.heads import LOOKS

LEAST_EFFECT = 0.01  # of the fall of the loss: less is no evidence
LEAST_WRITTEN = 0.05  # of all that heads write for the right token
ERRORS = 2.0  # standard errors that evidence must be away from 0
VERDICTS = {
    "previous-token": "attends to the token before; the loss rises without it, or without its path to the keys",
    "induction": "attends to what followed its token before; the loss rises without it, or it writes the right token",
    "copy": "writes the right token and the loss rises without it, though it does not match prefixes",
    "carrier": "the loss rises without it, or without its path to the keys, for another reason",
    "suppressor": "the loss falls without it, or it writes against the right token and the loss does not rise without",
    "bystander": "none of this",
}
CIRCUIT = ("previous-token", "induction", "copy", "carrier")


def verdicts(heads: Any, fall: float) -> list[str]:
    """The verdict on each head.

    Args:
        heads: A row a head with the columns of `Explanation.heads` and `logit_error`; what is not known is NaN.
        fall: By how many nats the loss falls on the second copy.
    """
    written = float(heads["logit_attribution"].clip(lower=0).sum())
    found = []
    rows: Any = heads.to_dict("records")
    for row in rows:
        carries, hurts = (_clear(sign * row["effect"], row["effect_error"], LEAST_EFFECT * fall) for sign in (1, -1))
        feeds = _clear(row["to_keys"], row["to_keys_error"], LEAST_EFFECT * fall)
        writes, opposes = (
            _clear(sign * row["logit_attribution"], row["logit_error"], LEAST_WRITTEN * written) for sign in (1, -1)
        )
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


def _clear(value: float, error: float, least: float) -> bool:
    """Large enough and far enough from 0; NaN is not."""
    return value >= least > 0 and value >= ERRORS * error
