"""Which kinds of heads do two real language models have, which heads are of several, and what does each kind carry?

    python -m experiments kinds_of_heads [--models smollm2-135m gemma3-270m] [--resume]

Every head is scored by the definition of each kind (`classify_heads`). Then all heads of a kind are mean-ablated
together and what is lost is measured on verbatim copying of random tokens and of words, on translation and on tasks
(`behaviours`), each beside ten sets of as many heads of no kind from the same layers. And it is measured how much of
each kind's score is left in later layers where the heads of another kind are ablated (`surviving_kinds`). What papers
predict of larger models:

    induction heads carry verbatim copying, more than as many heads of no kind          (Olsson et al. 2022)
    function-vector heads carry the tasks, more than induction heads do                 (Yin & Steinhardt 2025)
    few heads are both                                                                  (Yin & Steinhardt 2025)
    token heads carry verbatim copying, concept heads translation                       (Feucht et al. 2025)

Writes kinds_of_heads.csv, …_ablated.csv, …_overlaps.csv, …_surviving.csv and a map a model to figures/, and the page
docs/kinds.md (`kinds_page`). Models that are not asked for keep their rows. Each part is kept in runs/ as it is done;
`--resume` takes up what a run that was cut off left there. About 40 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from experiments.harness import FIGURES, RUNS_FOLDER, begin, common_arguments, show_files
from experiments.showcase.behaviours import LISTS, Behaviour, behaviours, word_lists
from experiments.showcase.kinds_page import write_page
from induction_lab import (
    HeadKinds,
    HookedModel,
    ablation_sweep,
    classify_heads,
    distinct_tokens,
    load_model,
    repeated_tokens,
    surviving_kinds,
)
from induction_lab.circuits.surviving import bystanders
from induction_lab.plots.kinds import plot_head_kinds
from induction_lab.results.heads import Head
from induction_lab.scores.kinds.context_matching import ContextMatching
from induction_lab.scores.kinds.dual_route import ConceptMatching, TokenMatching
from induction_lab.scores.score import Score

DRAWS = 10  # sets of bystanders
KEPT = RUNS_FOLDER / "kinds_of_heads"
# Few prompts of each score: the same ones are read again and again, and only what changes is asked.
CHEAPER: dict[str, Score] = {
    score.name: score
    for score in (TokenMatching(n_prompts=4), ConceptMatching(n_prompts=4), ContextMatching(n_prompts=1))
}
ATTENTION = ("prefix_matching", "previous_token", "duplicate_token")


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    tables: dict[str, list[pd.DataFrame]] = {"": [], "_ablated": [], "_overlaps": [], "_surviving": []}
    written = []
    for name in args.models:
        model = load_model(name)
        found = kinds_of(model, args)
        tables[""].append(found.table.assign(model=model.name))
        tables["_overlaps"].append(found.overlaps().assign(model=model.name))
        tables["_ablated"].append(kept(model, "ablated", args, partial(ablations, model, found, args.prompts)))
        tables["_surviving"].append(kept(model, "surviving", args, partial(survival, model, found)))
        picture = args.out / f"kinds_of_heads_{model.name}.png"
        plot_head_kinds(found).figure.savefig(picture, dpi=110)  # type: ignore[union-attr]
        written.append(picture)
    for end, parts in tables.items():
        written.append(replaced(args.out / f"kinds_of_heads{end}.csv", pd.concat(parts, ignore_index=True)))
    show_files([*written, *([write_page(args.out)] if args.out == FIGURES else [])])


def kinds_of(model: HookedModel, args: argparse.Namespace) -> HeadKinds:
    """The kinds of a model's heads, measured or as they were kept."""
    path = args.kept / f"{model.name}_kinds.csv"
    if args.resume and path.is_file():
        return HeadKinds.load(path)
    found = classify_heads(model, kinds=args.kinds, causal=not args.no_causal, progress=True)
    found.save(path)
    return found


def kept(model: HookedModel, part: str, args: argparse.Namespace, measure: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """A table, measured or as it was kept."""
    path: Path = args.kept / f"{model.name}_{part}.csv"
    if not (args.resume and path.is_file()):
        path.parent.mkdir(parents=True, exist_ok=True)
        measure().to_csv(path, index=False)
    return pd.read_csv(path)


def replaced(path: Path, table: pd.DataFrame) -> Path:
    """Write a table of some models; those of others that are there already stay."""
    if path.is_file():
        before: Any = pd.read_csv(path)
        table = pd.concat([before[~before["model"].isin(set(table["model"]))], table], ignore_index=True)
    table.to_csv(path, index=False)
    return path


def ablations(model: HookedModel, found: HeadKinds, n_prompts: int) -> pd.DataFrame:
    """What is lost on each behaviour when all heads of a kind are ablated, and when as many others are."""
    groups: dict[str, list[Head]] = {}
    drawn = {kind: bystanders(found, found.of(kind), n=DRAWS) for kind in found.kinds if found.of(kind)}
    for kind, (sets, _) in drawn.items():
        groups[kind] = found.of(kind)
        groups |= {f"{kind}: others {i}": others for i, others in enumerate(sets)}
    rows = []
    for name, behaviour in behaviours(model, n_prompts).items():
        length = behaviour.prompts.tokens.shape[1] - behaviour.prompts.first
        reference = distinct_tokens(model, n_prompts=32, length=length)
        swept: Any = ablation_sweep(
            model, behaviour.prompts, heads=groups, metric=behaviour.metric, reference=reference, progress=True
        )
        effects = swept.to_dataframe().set_index("label")
        nothing_to_copy = unrelated(model, name, n_prompts)
        for kind, (sets, farthest) in drawn.items():
            others = effects.loc[[f"{kind}: others {i}" for i in range(len(sets))], "effect"]
            rows.append(
                {"model": model.name, "behaviour": name, "kind": kind, "n_heads": len(groups[kind])}
                | {"clean": effects.loc[kind, "clean"], "nothing_to_copy": nothing_to_copy}
                | {"effect": effects.loc[kind, "effect"], "standard_error": effects.loc[kind, "standard_error"]}
                | {"others": others.mean(), "others_sd": others.std(), "others_most": others.max()}
                | {"n_sets": len(others), "farthest": farthest}
            )
    return pd.DataFrame(rows)


def unrelated(model: HookedModel, name: str, n_prompts: int) -> float:
    """The loss on lists of words where the first list says nothing of the second; NaN of other behaviours."""
    if name not in LISTS:
        return float("nan")
    lists: Behaviour = word_lists(model, name, n_prompts, related=False)
    rows = zip(lists.prompts.tokens, lists.prompts.real_lengths.tolist(), strict=True)
    with torch.no_grad():
        losses = [lists.metric(model.logits(row[None, :n].to(model.device))[0].cpu(), row[:n]) for row, n in rows]
    return sum(losses) / len(losses)


def survival(model: HookedModel, found: HeadKinds) -> pd.DataFrame:
    """How much of each kind's score is left where the heads of another kind are ablated."""
    here = set(found.table["score"])
    scores = [CHEAPER.get(name, name) for name in (*ATTENTION, *CHEAPER) if name in here]
    prompts = repeated_tokens(model, n_prompts=4)
    return surviving_kinds(model, found, prompts, scores=scores, n_draws=DRAWS, progress=True)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m"], help="names, ids or folders")
    parser.add_argument("--kinds", nargs="+", help="which kinds; all by default")
    parser.add_argument("--prompts", type=int, default=8, help="of each behaviour")
    parser.add_argument("--no-causal", action="store_true", help="leave out kinds known by changing heads")
    parser.add_argument("--resume", action="store_true", help="take up what a run that was cut off left in runs/")
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder that parts are kept in")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
