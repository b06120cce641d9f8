"""What are the models that claims are tested on, which heads are their circuit, and how well do they copy?

    python -m experiments table_of_subjects

Every small model and the language models: what it is, its induction heads, the heads whose direct path to them matters
(path patching), prefix matching and displaced induction with its lag, and how the loss falls from the first to the
second copy. Writes figures/subjects.csv and experiments/subjects/README.md. About 10 minutes on one CPU core once the
small models are there, most of it SmolLM2-135M.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.harness import ROOT, begin, show_files
from experiments.subjects.induction_models import LOOKS, Subject, arguments, subject
from experiments.subjects.small_models import small_models
from induction_lab import Head, HookedModel, load_model, score_heads

WHAT = {
    "repeats": "two attention layers of 8 heads, 32 wide each, trained to go on with blocks of 4 to 60 random tokens "
    "(256 of them) repeated to the end",
    "scattered": "two attention layers of 8 heads, 16 wide, trained on blocks of 3 to 12 random tokens (64 of them) "
    "that come again after gaps",
    "tiled": "two attention layers of 8 heads, 16 wide, trained to go on with blocks of 4 to 31 random tokens (64 of "
    "them) repeated to the end",
    "induction-2l": "the model that comes with the package: two attention layers of 4 heads, 32 wide, trained on "
    "repeats as above, for longer",
    "smollm2-135m": "a language model, SmolLM2-135M-Instruct: 30 layers of 9 heads, 3 key heads a layer",
    "gemma3-270m": "a language model, Gemma 3 270M: 18 layers of 4 heads, 1 key head a layer",
}


def main(argv: list[str] | None = None) -> None:
    parser = arguments(__doc__)
    parser.add_argument("--page", type=Path, default=ROOT / "experiments" / "subjects" / "README.md")
    args = parser.parse_args(argv)
    begin(args.out)
    models = [*small_models(args.seeds), *(load_model(name) for name in args.models)]
    table = pd.DataFrame([row(model) for model in models])
    table.round(4).to_csv(args.out / "subjects.csv", index=False)
    args.page.write_text(page(table))
    show_files([args.out / "subjects.csv", args.page])


def row(model: HookedModel) -> dict[str, Any]:
    """One model, measured."""
    one = subject(model)
    scores = score_heads(model, one.prompts, scores=["displaced_induction", "induction_lag"])
    ((best, displaced),) = scores.top("displaced_induction", 1)
    ((_, prefix),) = one.scores.top("prefix_matching", 1)
    return {
        "model": model.name, "induction": joined(one.scores.above("prefix_matching", LOOKS)), "tellers": told(one),
        "bystanders": len(one.bystanders), "heads": model.n_layers * model.n_heads, "prefix_matching": prefix,
        "displaced_induction": displaced, "lag": int(scores["induction_lag"][best.layer, best.head]),
        "previous_token": one.scores.top("previous_token", 1)[0][1],
        "first_copy": one.scores.loss_by_copy[0], "second_copy": one.scores.loss_by_copy[1],
    }  # fmt: skip


def told(one: Subject) -> str:
    """Heads with a direct path to the induction heads that matters, the strongest through keys first."""
    if not one.tellers:
        return "none"
    by: Any = one.paths.assign(head=[Head(a, b) for a, b in zip(one.paths["layer"], one.paths["head"], strict=True)])
    return joined(by[by["head"].isin(one.tellers)].sort_values("k", ascending=False)["head"].tolist())


def joined(heads: list[Head], most: int = 8) -> str:
    """The first of them by name, and how many more there are."""
    more = f" and {len(heads) - most} more" if len(heads) > most else ""
    return (" ".join(map(str, heads[:most])) + more) or "none"


def page(table: pd.DataFrame) -> str:
    """The table in Markdown, each kind of model said in a sentence."""
    rows: Any = table.to_dict("records")
    kinds = dict.fromkeys(kind_of(each["model"]) for each in rows)
    lines = [
        "# The models that claims are tested on",
        "Written by `python -m experiments table_of_subjects`. Small models were trained here "
        "(`experiments/subjects/small_models.py`), five seeds a kind, with initial weights of a standard deviation of "
        "0.02.",
        "\n".join(f"- **{kind}**: {WHAT.get(kind, 'given by its name')}" for kind in kinds),
        "On blocks of random tokens written twice, 50 tokens long or 20 where the context is short; `prefix_matching` "
        f"and `displaced_induction` of the best head. The circuit: heads with prefix matching above {LOOKS}, and those "
        "whose direct path to the queries, keys or values of the best 8 of them matters (path patching), strongest "
        "first. Bystanders are all others.",
        "| model | induction heads | heads that tell them where to look | bystanders | prefix matching | displaced "
        "induction (lag) | loss, first → second copy |\n|---|---|---|---|---|---|---|\n" + "\n".join(map(line, rows)),
    ]
    return "\n\n".join(lines) + "\n"


def kind_of(name: str) -> str:
    return next((kind for kind in WHAT if name.startswith(kind)), name)


def line(each: Any) -> str:
    return (
        f"| {each['model']} | {each['induction']} | {each['tellers']} | {each['bystanders']} of {each['heads']} | "
        f"{each['prefix_matching']:.2f} | {each['displaced_induction']:.2f} ({each['lag']:+d}) | "
        f"{each['first_copy']:.2f} → {each['second_copy']:.2f} nats |"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
