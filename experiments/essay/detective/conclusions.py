"""What the experiment detective concludes. The criteria were written before anything was run."""

from __future__ import annotations

from typing import Any

from experiments.judging import Effect, effect, judge, told
from experiments.verdicts import Verdict

SHALLOW, DEEP = 1 / 3, 2 / 3  # of the depth
LATER = 0.1  # of the depth
ESSAY = "essay §7"


def fingerprint(table: Any) -> Verdict:
    effects, numbers = depths(table, "fingerprint", "clue")
    return Verdict(
        claim="The first layer looks for fingerprints: raw information is passed on in shallow blocks",
        source=ESSAY,
        measured="stories that differ in one word, of what was found; the depth up to which the answer turns when the "
        "stream at that word is put in from the other story (the mean over the depth of the share that turns)",
        criterion=f"less than {SHALLOW:.2f} of the depth",
        numbers=numbers,
        control=_control(table),
        beforehand=True,
        **judge(effects, SHALLOW, at_most=True, unit="of the depth"),
    )


def motive(table: Any) -> Verdict:
    early, said = depths(table, "fingerprint", "clue")
    late, more = depths(table, "motive", "clue")
    effects = {
        model: Effect(late[model].value - early[model].value, _both(late[model], early[model]), late[model].items)
        for model in late
        if model in early
    }
    return Verdict(
        claim="The middle layers work out the motive: it is passed on in deeper blocks than raw information",
        source=ESSAY,
        measured="the same with stories whose word says why it was done, less those whose word says what was found",
        criterion=f"deeper by more than {LATER:g} of the depth",
        numbers={model: f"motive: {more[model]}; fingerprint: {said[model]}" for model in more},
        control=_control(table),
        beforehand=True,
        **judge(effects, LATER, unit="of the depth"),
    )


def culprit(table: Any) -> Verdict:
    effects, numbers = depths(table, "fingerprint", "end", arrives=True)
    _, also = depths(table, "motive", "end", arrives=True)
    return Verdict(
        claim="The last layers ask who looks most like the culprit: the answer is at the end only in deep blocks",
        source=ESSAY,
        measured="the same at the end of the story: the depth from which on the answer turns there",
        criterion=f"more than {DEEP:.2f} of the depth, where raw information decides; by motive: see the numbers",
        numbers=numbers | {f"{model}, by motive": said for model, said in also.items()},
        control=_control(table),
        beforehand=True,
        **judge(effects, DEEP, unit="of the depth"),
    )


def depths(table: Any, kind: str, place: str, *, arrives: bool = False) -> tuple[dict[str, Effect], dict[str, str]]:
    """By model that solves the stories, the depth up to which a place decides (or from which on); what to say of all.

    The share of the lead that turns, `(lead − left) / (2 · lead)` of a story's means over names, falls from 1 to 0 over
    the depth at the clue and rises at the end; its mean over the depth is where it does so. Items are stories; of all
    but each in turn (the jackknife), as a story alone may have a lead of 0.
    """
    effects, numbers = {}, {}
    own = table[(table["kind"] == kind) & (table["place"] == place)]
    for model in dict.fromkeys(map(str, own["model"])):
        rows = own[own["model"] == model]
        stories = list(rows["story"].unique())
        leads = effect(rows.groupby("story")["lead"].first().tolist())
        whole = _depth(rows, arrives)
        left_out = [_depth(rows[rows["story"] != story], arrives) for story in stories]
        n, mean = len(stories), sum(left_out) / len(left_out)
        error = ((n - 1) / n * sum((each - mean) ** 2 for each in left_out)) ** 0.5
        numbers[model] = f"lead of the right name {told(leads)} logits, {n} stories"
        if leads.value < 2 * (leads.error or 0.0):
            numbers[model] += "; does not find out who it was, and is not judged"
            continue
        effects[model] = Effect(whole, error, n)
        numbers[model] = f"{told(effects[model])} of the depth; {numbers[model]}"
    return effects, numbers


def turned(rows: Any) -> Any:
    """By depth, the share of the lead that turns."""
    means = rows.groupby("depth")[["lead", "left"]].mean()
    return (means["lead"] - means["left"]) / (2 * means["lead"])


def _depth(rows: Any, arrives: bool) -> float:
    shares = turned(rows)
    x, y = shares.index.to_numpy(float), shares.to_numpy(float)
    area = float(((y[1:] + y[:-1]) / 2 * (x[1:] - x[:-1])).sum())
    return 1 - area if arrives else area


def _both(one: Effect, other: Effect) -> float:
    return ((one.error or 0.0) ** 2 + (other.error or 0.0) ** 2) ** 0.5


def _control(table: Any) -> str:
    said = []
    for model in dict.fromkeys(map(str, table["model"])):
        rows = table[(table["model"] == model) & (table["place"] == "before the clue")]
        said.append(f"{model} {(rows['lead'] - rows['left']).abs().max():.1g}")
    return (
        "the token before the word put in from the other story, which cannot turn anything (a check of the code; "
        + (f"largest change in logits): {'; '.join(said)}")
    )
