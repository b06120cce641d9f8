"""The essay's map: its closing table, its detective and its sentences, each with the verdicts that measure it."""

from __future__ import annotations

from functools import cache
from typing import Any

from experiments.__main__ import experiments
from experiments.page_builder.found import Found, cell
from experiments.page_builder.overview import verdict_in
from experiments.page_builder.words import Words, read


def essay_map(found: Found, words: Words) -> str:
    """The page in one language; what the essay says is given in both."""
    told = read("essay")
    sentences = [measured(found, words, entry) for entry in told["sentence"]]
    tally = {
        "all": len(sentences),
        "measured": sum(bool(by) for by, _ in sentences),
        "part": sum(bool(by) and bool(missing) for by, missing in sentences),
        "missing": sum(not by for by, _ in sentences),
    }
    parts = [f"# {words['map_title']}", words["map_other"], words["map_intro"], words["counted"].format(**tally)]
    for title, key in (("map_table", "dimension"), ("map_detective", "detective"), ("map_sentences", "sentence")):
        rows = [_row(found, words, entry) for entry in told[key]]
        head = "§" if key == "sentence" else words["dimension_head"]
        parts += [f"## {words[title]}", "\n".join([f"| {head} | {words['says_head']} | {words['measured_head']} |"]
                                                  + ["|---|---|---|", *rows])]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def measured(found: Found, words: Words, entry: dict[str, Any]) -> tuple[list[str], str]:
    """The verdicts that measure what an entry says, one a line, and what is missing."""
    lines = list(dict.fromkeys(line for by in entry.get("by", []) for line in _verdicts(found, words, by)))
    waiting = scripts(entry) - set(found.verdicts)
    missing = entry.get("missing") or (entry.get("otherwise") if waiting else None)
    return lines, missing[words.at] if missing else ""


def gone(found: Found, entry: dict[str, Any]) -> list[str]:
    """References of an entry that lead to no claim, as claims are reworded."""
    return [by for by in entry.get("by", []) if not _matching(found, by)]


def scripts(entry: dict[str, Any]) -> set[str]:
    """Scripts that measure what an entry says."""
    return {by.partition(": ")[0] for by in entry.get("by", [])}


@cache
def known() -> frozenset[str]:
    """Names of the experiments that can be run."""
    return frozenset(experiments())


def _verdicts(found: Found, words: Words, by: str) -> list[str]:
    script, lines = by.partition(": ")[0], []
    for number, verdict in _matching(found, by):
        link = f"[{words.claim(verdict.claim)}]({script}.md#claim-{number})"
        lines.append(f"{link}{words['colon']}{verdict_in(found, words, script, verdict)}")
    return lines


def _matching(found: Found, by: str) -> list[tuple[int, Any]]:
    script, _, start = by.partition(": ")
    return [(i, each) for i, each in enumerate(found.verdicts.get(script, []), 1) if each.claim.startswith(start)]


def _row(found: Found, words: Words, entry: dict[str, Any]) -> str:
    lines, missing = measured(found, words, entry)
    if missing and lines:
        lines.append(f"*{words['part']}*{words['colon']}{missing}")
    elif not lines:
        lines = [f"{words['not_measured']}{words['colon']}{missing}"]
    coming = sorted(script for script in scripts(entry) - set(found.verdicts) if script in known())
    lines += [words["to_come"].format(script=each) for each in coming]
    english, chinese = entry["says"]
    says = f"{english}<br>{chinese}" if words.at == 0 else f"{chinese}<br>{english}"
    first = entry["section"] if "section" in entry else f"**{entry['name'][words.at]}**"
    return f"| {' | '.join(cell(each) for each in (first, says, '<br>'.join(lines)))} |"
