"""Which kinds of heads do two real language models have, which heads are of several, and what does each kind carry?

    python -m experiments kinds_of_heads [--models smollm2-135m gemma3-270m]

Every head is scored by the definition of each kind (`classify_heads`). Then all heads of a kind are mean-ablated
together, on the second copy of random tokens (verbatim copying) and on examples of tasks (ten-shot prompts, the right
answer's first token), each beside five sets of as many heads of no kind, drawn layer by layer from the same layers
where there are enough of them, else from all. What papers predict of larger models:

    induction heads carry verbatim copying, more than as many heads of no kind          (Olsson et al. 2022)
    function-vector heads carry the tasks, more than induction heads do                 (Yin & Steinhardt 2025)
    few heads are both                                                                  (Yin & Steinhardt 2025)
    token heads carry verbatim copying more than concept heads do                       (Feucht et al. 2025)

Writes kinds_of_heads.csv, kinds_of_heads_ablated.csv, kinds_of_heads_overlaps.csv and a map a model to figures/, and
the page docs/kinds.md. About 15 minutes on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from experiments.benchmarks.results import as_markdown
from experiments.harness import FIGURES, ROOT, begin, common_arguments, show_files
from induction_lab import (
    HeadKinds,
    HookedModel,
    ablation_sweep,
    classify_heads,
    distinct_tokens,
    load_model,
    repeated_tokens,
)
from induction_lab.circuits.kinds import SHARE, find_kinds
from induction_lab.data.prompts import Prompts
from induction_lab.plots.kinds import plot_head_kinds
from induction_lab.results.heads import Head
from induction_lab.scores.kinds.function_vectors import FunctionVector
from induction_lab.scores.registry import words

BYSTANDERS = 5  # sets of heads of no kind
SHOWN = 5
PAGE = ROOT / "docs" / "kinds.md"


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    tables, ablated, shared, written = [], [], [], []
    for name in args.models:
        model = load_model(name)
        found = classify_heads(model, kinds=args.kinds, causal=not args.no_causal, progress=True)
        tables.append(found.table.assign(model=model.name))
        ablated.append(ablations(model, found, args))
        shared.append(found.overlaps().assign(model=model.name))
        picture = args.out / f"kinds_of_heads_{model.name}.png"
        plot_head_kinds(found).figure.savefig(picture, dpi=110)  # type: ignore[union-attr]
        written.append(picture)
    for end, parts in (("", tables), ("_ablated", ablated), ("_overlaps", shared)):
        place = args.out / f"kinds_of_heads{end}.csv"
        pd.concat(parts, ignore_index=True).to_csv(place, index=False)
        written.append(place)
    if args.out == FIGURES:
        PAGE.write_text(page(*(pd.concat(parts, ignore_index=True) for parts in (tables, ablated, shared))))
        written.append(PAGE)
    show_files(written)


def ablations(model: HookedModel, found: HeadKinds, args: argparse.Namespace) -> pd.DataFrame:
    """What is lost on each behaviour when all heads of a kind are ablated, and when as many others are."""
    groups: dict[str, list[Head]] = {}
    for kind in found.kinds:
        heads = found.of(kind)
        if heads:
            groups[kind] = heads
            drawn = {tuple(sorted(bystanders(found, heads, i))) for i in range(BYSTANDERS)} - {()}
            groups |= {f"{kind}: others {i}": list(others) for i, others in enumerate(sorted(drawn))}
    behaviours: dict[str, tuple[Prompts, Any]] = {
        "copying": (repeated_tokens(model, n_prompts=args.prompts, distinct=True), "copy_loss")
    }
    if model.tokenizer is not None:
        behaviours["tasks"] = task_prompts(model, args.prompts)
    rows = []
    for behaviour, (prompts, metric) in behaviours.items():
        length = prompts.tokens.shape[1] - prompts.first
        how = {"metric": metric, "reference": distinct_tokens(model, n_prompts=32, length=length)}
        effects: Any = ablation_sweep(model, prompts, heads=groups, progress=True, **how).to_dataframe()
        effects = effects.set_index("label")
        for kind in found.kinds:
            if kind in groups:
                others = effects.loc[[name for name in groups if name.startswith(f"{kind}: ")], "effect"]
                rows.append(
                    {"model": model.name, "behaviour": behaviour, "kind": kind, "n_heads": len(groups[kind])}
                    | {"clean": effects.loc[kind, "clean"], "effect": effects.loc[kind, "effect"]}
                    | {"standard_error": effects.loc[kind, "standard_error"]}
                    | {"others": others.mean(), "others_most": others.max(), "n_sets": len(others)}
                )
    return pd.DataFrame(rows)


def bystanders(found: HeadKinds, heads: Sequence[Head], seed: int) -> list[Head]:
    """As many heads of no kind as there are up to that number, of the same layers as far as there are enough."""
    generator = random.Random(seed)
    named = set(found.table.loc[found.table["is_kind"], "label"])
    every = [Head(*pair) for pair in found.table[["layer", "head"]].drop_duplicates().itertuples(index=False)]
    free = [head for head in every if str(head) not in named]
    chosen: list[Head] = []
    for head in heads:
        near = [other for other in free if other not in chosen]
        same = [other for other in near if other.layer == head.layer]
        if near:
            chosen.append(generator.choice(same or near))
    return chosen


def task_prompts(model: HookedModel, n_prompts: int) -> tuple[Prompts, Any]:
    """Ten-shot prompts of every task, and the loss at the right answer's first token."""
    tasks = FunctionVector(n_prompts=1).prompts(model, seed=1).values()
    each = max(1, n_prompts // len(tasks))
    known = [(task.right[i : i + 1], int(task.right.marks[i, 0])) for task in tasks for i in range(each)]
    rows = [prompt.tokens[0, : int(prompt.real_lengths[0])] for prompt, _ in known]
    answers = {tuple(row.tolist()): answer for row, (_, answer) in zip(rows, known, strict=True)}
    lengths = torch.tensor([len(row) for row in rows])

    def answer_loss(logits: Tensor, tokens: Tensor) -> float:
        return -float(logits[-1].log_softmax(-1)[answers[tuple(tokens.tolist())]])

    return Prompts(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), lengths, kind="examples"), answer_loss


def page(table: Any, ablated: Any, shared: Any) -> str:
    """The page of the docs."""
    parts = [
        "# Kinds of heads\n",
        "Induction heads are one kind of head. `classify_heads(model)` and `induction-lab heads MODEL` score every "
        "head by the definitions of the others that the literature names, and say which heads are of which kinds: "
        "those whose score is as large as people ask and above chance, at a false-discovery rate of 5 % over heads. "
        f"Where nobody has published a value, it is the highest {SHARE:.0%} of all heads that are above chance, or, of "
        "copy suppression, half of the tokens "
        "([scores.md](scores.md) has the scores that are measured by default). Each is a score that "
        "`score_heads(model, scores=[...])` takes by name.\n",
        definitions(),
        "\nMany at once: the measurement `kinds` of a [sweep](sweeps.md), `induction-lab follow RUN --kinds all` for "
        "the order in which kinds appear in [training](training.md), and a panel of the [report](report.md).",
        "\nWhat follows was written by `python -m experiments kinds_of_heads`.\n",
    ]
    for model in table["model"].unique():
        parts += [f"## {model}\n", f"![Kinds of heads of {model}](../figures/kinds_of_heads_{model}.png)\n"]
        parts += [best_heads(table[table["model"] == model]), "", "Ablated together, change of the loss in nats:\n"]
        parts += [losses(ablated[ablated["model"] == model]), ""]
        both = shared[(shared["model"] == model) & (shared["n_shared"] > 0)]
        parts += ["Kinds that share heads:\n", overlaps(both) if len(both) else "None.", ""]
    parts += [
        "Each set of heads was replaced by its mean over random tokens; *as many others* are five sets of heads of no "
        "kind, from the same layers where there are enough. *copying*: the second copy of random tokens. *tasks*: the "
        "right answer's first token after ten examples. Effects of whole sets say what heads do together, and "
        "nothing of what one of them does.\n",
        predictions(ablated, shared),
    ]
    return "\n".join(parts)


def definitions() -> str:
    rows = []
    for kind in find_kinds():
        said = words(kind.score)
        least = f"highest {SHARE:.0%}" if kind.least is None else f"{kind.least:g}"
        rows.append((kind.name, f"`{kind.score}`", said.definition, said.source, least))
    return as_markdown(pd.DataFrame(rows, columns=["kind", "score", "what", "source", "from"]))


def best_heads(table: Any) -> str:
    rows = []
    for kind, some in table.groupby("kind", sort=False):
        best: Any = some.sort_values("value", ascending=False).head(SHOWN)
        digits = 3 if best["value"].max() > 0.05 else 4
        named = ", ".join(
            f"{'**' if row.is_kind else ''}{row.label}{'**' if row.is_kind else ''} {row.value:.{digits}f}"
            + (f" ± {row.standard_error:.{digits}f}" if row.standard_error > 0 else "")
            for row in best.itertuples()
        )
        chance = "–" if some["chance"].isna().all() else f"{some['chance'].mean():.3f}"
        rows.append((kind, chance, int(some["is_kind"].sum()), named))
    return as_markdown(pd.DataFrame(rows, columns=["kind", "chance", "heads", "highest (bold: of the kind)"]))


def losses(ablated: Any) -> str:
    rows = []
    for kind, some in ablated.groupby("kind", sort=False):
        row: dict[str, Any] = {"kind": kind, "heads": int(some["n_heads"].iloc[0])}
        for found in some.itertuples():
            row[str(found.behaviour)] = f"{found.effect:+.2f} ± {found.standard_error:.2f}"
            most = f"{found.others:+.2f} (at most {found.others_most:+.2f})" if found.n_sets else "–"
            row[f"{found.behaviour}: as many others"] = most
        rows.append(row)
    return as_markdown(pd.DataFrame(rows))


def overlaps(shared: Any) -> str:
    rows = [
        (f"{row.kind}, {row.other_kind}", f"{row.n_heads}, {row.n_other_heads}", row.n_shared)
        + (f"{row.expected:.2f}", f"{row.p_value:.1g}")
        for row in shared.sort_values("p_value").itertuples()
    ]
    return as_markdown(pd.DataFrame(rows, columns=["kinds", "heads", "shared", "by chance", "p"]))


def predictions(ablated: Any, shared: Any) -> str:
    """What papers predict, and what came out of each model."""
    effects = ablated.set_index(["model", "behaviour", "kind"])

    def lost(model: str, behaviour: str, kind: str, column: str = "effect") -> str:
        key = (model, behaviour, kind)
        return f"{effects.loc[key, column]:+.2f}" if key in effects.index else "not decided (no such head)"

    rows = []
    for model in ablated["model"].unique():
        pairs = shared[(shared["model"] == model)].set_index(["kind", "other_kind"])
        both = pairs.loc[("induction", "function-vector")] if ("induction", "function-vector") in pairs.index else None
        most = lost(model, "copying", "induction", "others_most")
        said = f"{lost(model, 'copying', 'induction')}, others at most {most}"
        rows.append((model, "induction heads carry verbatim copying", said))
        tasks = [lost(model, "tasks", kind) for kind in ("function-vector", "induction")]
        said = f"without function-vector heads {tasks[0]}, without induction heads {tasks[1]}"
        rows.append((model, "function-vector heads carry the tasks more than induction heads", said))
        if both is not None:
            n = f"{int(both['n_shared'])} of {int(both['n_heads'])} and {int(both['n_other_heads'])}"
            rows.append((model, "few heads are both induction and function-vector heads", n))
        routes = [lost(model, "copying", f"{kind}-copying") for kind in ("token", "concept")]
        said = f"without token-copying heads {routes[0]}, without concept-copying heads {routes[1]}"
        rows.append((model, "verbatim copying goes with token heads more than with concept heads", said))
    table = as_markdown(pd.DataFrame(rows, columns=["model", "predicted", "came out (nats)"]))
    return f"## What papers predict of larger models\n\n{table}\n"


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = common_arguments(__doc__)
    parser.add_argument("--models", nargs="+", default=["smollm2-135m", "gemma3-270m"], help="names, ids or folders")
    parser.add_argument("--kinds", nargs="+", help="which kinds; all by default")
    parser.add_argument("--prompts", type=int, default=16, help="of each behaviour")
    parser.add_argument("--no-causal", action="store_true", help="leave out kinds known by changing heads")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
