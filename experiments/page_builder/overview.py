"""The first page: what this is, the kinds of verdict, a row a claim, the glossary."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from experiments.judging import ENCODERS, LANGUAGE_MODELS, OUTCOMES, SMALL_MODELS
from experiments.page_builder.found import Found, cell, effects, paper_of, section_of
from experiments.page_builder.words import LANGUAGES, Words, read

if TYPE_CHECKING:
    from experiments.verdicts import Verdict

WIDTH = 88  # of a thumbnail, in pixels


def overview(found: Found, words: Words, subjects: bool) -> str:
    """The whole page in one language; `subjects` says whether there is a page of the models to link to."""
    more = words["more"].format(subjects=words["subjects" if subjects else "no_subjects"])
    every = [verdict for verdicts in found.verdicts.values() for verdict in verdicts]
    marks = words["beforehand" if any(verdict.beforehand for verdict in every) else "nobody"]
    parts = [
        f"# {words['title']}", words["other_language"], words["intro"].replace("\n", " "), more,
        f"## {words['count_title']}", counts(every, words),
        f"## {words['legend_title']}", listed(words.legend(), words), marks,
        f"## {words['table_title']}", words["effect_note"], table(found, words),
        f"## {words['glossary_title']}", glossary(words),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def counts(verdicts: list[Verdict], words: Words) -> str:
    """How many claims came out how, the essay's and the papers' apart; a class of models counts for itself."""
    rows = {"essay": Counter(), "papers": Counter()}
    for verdict in verdicts:
        rows["essay" if section_of(verdict) else "papers"].update(verdict.outcomes.values())
    head = [words["count_head"], *map(words.outcome, OUTCOMES)]
    lines = [_row(words[name], *(str(count[each] or "") for each in OUTCOMES)) for name, count in rows.items()]
    return "\n".join([_row(*head), "|---" * len(head) + "|", *lines])


def table(found: Found, words: Words) -> str:
    """One row a claim, under its section of the essay or its paper."""
    groups: dict[str, list[str]] = {words.section(number): [] for number in words.sections}
    for script, verdicts in found.verdicts.items():
        for i, verdict in enumerate(verdicts):
            section = section_of(verdict)
            group = words.section(section) if section else paper_of(verdict) or words["of_nobody"]
            groups.setdefault(group, []).append(_claim(found, words, script, i, verdict))
    groups[words["of_nobody"]] = groups.pop(words["of_nobody"], [])
    rows = []
    for group, own in groups.items():
        if not own and group == words["of_nobody"]:
            continue
        rows += [_row(f"**{group}**", "" if own else words["nothing"], "", ""), *own]
    head = [words[name] for name in ("claim_head", "verdict_head", "effect_head", "figure_head")]
    return "\n".join([_row(*head), "|---" * len(head) + "|", *rows])


def verdict_in(found: Found, words: Words, script: str, verdict: Verdict) -> str:
    """What came out, by class of models; where they were not told apart, which they are."""
    names = {
        SMALL_MODELS: words["small_models"],
        LANGUAGE_MODELS: words["language_models"],
        ENCODERS: words["encoders"],
    }
    if verdict.classes:
        told = [
            f"{names.get(kind, kind)}{words['colon']}{words.outcome(out)}" for kind, out in verdict.outcomes.items()
        ]
    else:
        kinds = " + ".join(names[kind] for kind in found.kinds(script, verdict))
        told = [words["in_class"].format(outcome=words.outcome(verdict.outcome), kinds=kinds) if kinds
                else words.outcome(verdict.outcome)]  # fmt: skip
    return "<br>".join(told) + " ◆" * verdict.beforehand


def glossary(words: Words) -> str:
    """Every term in this language, as the file gives them."""
    key = LANGUAGES[words.at]
    return listed([(term[key][0], term[key][1]) for term in read("glossary")["term"]], words)


def listed(terms: list[tuple[str, str]], words: Words) -> str:
    """Terms and what they mean, a line each."""
    return "\n".join(f"- **{term}**{words['colon']}{said}" for term, said in terms)


def _claim(found: Found, words: Words, script: str, i: int, verdict: Verdict) -> str:
    names = {SMALL_MODELS: words["small"], LANGUAGE_MODELS: words["language"], ENCODERS: words["encoders"]}
    sizes = [
        f"{names.get(kind, kind)}{words['colon']}{said}" if kind else said for kind, said in effects(verdict).items()
    ]
    link, pictures = f"pages/{script}.md#claim-{i + 1}", found.pictures(script)
    shown = (
        f'<br><img src="../figures/{pictures[0].name}" width="{WIDTH}" alt="{script}">' if pictures and not i else ""
    )
    claim = f"[{cell(words.claim(verdict.claim))}]({link})"
    size = cell("<br>".join(sizes))
    return _row(claim, verdict_in(found, words, script, verdict), size, f"[`{script}`](pages/{script}.md){shown}")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"
