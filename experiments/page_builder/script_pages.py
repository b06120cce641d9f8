"""A page a script: its claims with criterion, numbers and control, and its figures with what they find."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.__main__ import experiments
from experiments.page_builder.found import Found, bounds, cell, effects
from experiments.page_builder.overview import verdict_in
from experiments.page_builder.words import Words, read

if TYPE_CHECKING:
    from experiments.verdicts import Verdict


def script_pages(found: Found, words: Words) -> dict[str, str]:
    """Every page by the name of its script."""
    every = experiments()
    drawn = read("figures")
    return {script: _page(found, words, script, every, drawn) for script in found.verdicts}


def caption(verdicts: list[Verdict], picture: Path, drawn: dict[str, Any], words: Words) -> str:
    """What a figure finds: as its script says; else what is drawn, and how the claims that it shows came out."""
    said = next((verdict.captions[picture.stem] for verdict in verdicts if picture.stem in verdict.captions), "")
    if said:
        return said
    entry = drawn.get(max((name for name in drawn if picture.stem.startswith(name)), key=len, default=""), {})
    starts = tuple(entry.get("claims", ()))
    shown = [verdict for verdict in verdicts if starts and verdict.claim.startswith(starts)] or verdicts
    found = "; ".join(f"{each.claim}: **{_outcome(each, words)}** ({_size(each)})" for each in shown)
    return f"{entry['shows']}. {found}." if "shows" in entry else f"{found}."


def told(verdict: Verdict, number: int, summary: str) -> list[str]:
    """One claim: what came out first, then how that was decided."""
    rows = "\n".join(f"| {cell(name)} | {cell(text)} |" for name, text in verdict.numbers.items())
    when = "fixed beforehand" if verdict.beforehand else "not fixed beforehand: it and the numbers came together"
    parts = [
        f'<a id="claim-{number}"></a>',
        f"## {number}. {verdict.claim}",
        f"From: {verdict.source}. Verdict: **{summary.replace('<br>', '**; **')}**",
        *(_of_class(kind, each) for kind, each in verdict.classes.items()),
        f"Caveat: {verdict.caveat}" if verdict.caveat else "",
        f"Measured: {verdict.measured}" if verdict.measured else "",
        f"Criterion ({when}): {verdict.criterion}",
        f"| measured | what came out |\n|---|---|\n{rows}",
        f"Control: {verdict.control}",
        f"What would have changed it: {verdict.would_change}" if verdict.would_change else "",
    ]
    return [part for part in parts if part]


def _page(found: Found, words: Words, script: str, every: dict[str, Any], drawn: dict[str, Any]) -> str:
    verdicts = found.verdicts[script]
    parts = [f"# `{script}`"]
    if script in every:
        cost = f" About {every[script].cost}." if every[script].cost else ""
        parts += [f"{every[script].question} Run: `python -m experiments {script}`.{cost}"]
    parts += ["[All claims, kinds of verdict, glossary](../README.md) · [the essay's map](essay.md)"]
    if len(verdicts) > 1:
        rows = [f"{i}. [{each.claim}](#claim-{i}): {_outcome(each, words)}" for i, each in enumerate(verdicts, 1)]
        parts += ["\n".join(rows)]
    for i, verdict in enumerate(verdicts, 1):
        parts += told(verdict, i, verdict_in(found, words, script, verdict))
    pictures = found.pictures(script)
    parts += ["## Figures"] if pictures else []
    for picture in pictures:
        parts += [f"![{picture.stem}](../../figures/{picture.name})", f"*{caption(verdicts, picture, drawn, words)}*"]
    return "\n\n".join(parts) + "\n"


def _outcome(verdict: Verdict, words: Words) -> str:
    told = [f"{kind}: {words.outcome(out)}" if kind else words.outcome(out) for kind, out in verdict.outcomes.items()]
    return ", ".join(told)


def _size(verdict: Verdict) -> str:
    return ", ".join(f"{kind}: {said}" if kind else said for kind, said in effects(verdict).items())


def _of_class(kind: str, found: dict[str, Any]) -> str:
    """The outcome in one class of models, and the interval that it comes from."""
    unit, models = f" {found['unit']}" if found["unit"] else "", _counted(found["models"], found.get("recipes"))
    interval = f"90 % interval {bounds(found)}" if bounds(found) else "nothing bounds it"
    needed = f"{'below' if found['at_most'] else 'above'} {found['needed']:.3g} is wanted"
    said = f"**{kind.capitalize()}: {found['outcome']}.** {found['caveat']}".strip()
    return f"{said} ({found['value']:.3g}{unit}, {interval}, {models}; {needed})"


def _counted(models: int, recipes: int | None) -> str:
    """How many models an interval is over; where some of them are seeds of one recipe, how many recipes."""
    if recipes == 1 and models > 1:
        return f"{models} seeds of one recipe"
    of = f" of {recipes} recipes" if recipes and recipes < models else ""
    return f"{models} model{'s' * (models > 1)}{of}"
