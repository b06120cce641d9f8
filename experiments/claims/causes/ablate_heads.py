"""What is lost without each head, and without the induction heads together?

    python -m experiments ablate_heads

Every head of every model is mean-ablated by itself; then induction heads together, against random heads; a
previous-token head with and without its effect on patterns; on text the in-context-learning score; and along the way
that training took. Writes to figures/: ablate_heads.csv (single heads, swept and estimated), ablate_heads_groups.csv,
ablate_heads.json (verdicts), ablate_heads_MODEL.png (heatmaps), ablate_heads_groups.png, ablate_heads_estimate.png (the
quick estimate from gradients beside it). About 40 minutes on one CPU core, half of it text, and 10 more to train the
snapshots once.
"""

from __future__ import annotations

import argparse
import random
import sys
import sysconfig
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from experiments.harness import begin, show_files
from experiments.judging import LANGUAGE, Effect, effect, judge
from experiments.panels import panels
from experiments.subjects.induction_models import PREVIOUS, Subject, arguments, subject, subjects
from experiments.subjects.small_models import SEEDS, STEPS, snapshots
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import (
    Effects,
    Head,
    HookedModel,
    Prompts,
    ablation_sweep,
    attribution_patching,
    before_and_after,
    icl_score,
    plot_effects,
    text_prompts,
)

DESTROYED = 0.5  # of the fall of the loss
SPARED = 0.5  # of what induction heads do: at most without as many others
BOTTLENECK = 4.0  # nats, a language model's previous-token head; set for SmolLM2's before Gemma was read
FULL, PRESERVED = 0.1, 0.1  # nats at least in full; share of it at most with patterns preserved
TEXT_TOKENS, TEXT_PROMPTS, WINDOW = 513, 32, 12
KNOWN = {"smollm2-135m": "L16H0"}  # before this was written


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    begin(args.out)
    found, left_out = subjects(args.models, seeds=args.seeds, n_prompts=args.prompts)
    single, groups, estimated = {}, {}, {}
    for name, one in found.items():
        few = one.prompts[: args.sweep_prompts] if name in args.models else one.prompts
        single[name] = ablation_sweep(one.model, few, reference=one.reference, progress=sys.stderr.isatty())
        estimated[name] = attribution_patching(one.model, few, reference=one.reference, progress=sys.stderr.isatty())
        groups[name] = ablate_groups(one, n_random=args.random)
    every = [effects.table for found_of in (single, estimated) for effects in found_of.values()]
    table = pd.concat(every, ignore_index=True)
    table.round(5).to_csv(args.out / "ablate_heads.csv", index=False)
    together = pd.concat([effects.table for effects in groups.values()], ignore_index=True)
    together.round(5).to_csv(args.out / "ablate_heads_groups.csv", index=False)
    verdicts = [destroys(found, groups, left_out), spares(found, groups)]
    verdicts += [bottleneck(found, groups), composes_through_keys(found, groups)]
    if args.text:
        verdicts.append(learns_from_text(found, n_random=args.random))
    verdicts.append(along_the_way(SEEDS[: args.seeds] if args.snapshots else ()))
    written = [args.out / "ablate_heads.csv", args.out / "ablate_heads_groups.csv"]
    written.append(save_verdicts(verdicts, args.out / "ablate_heads.json"))
    figures: dict[str, Figure] = {"groups": draw_groups(groups), "estimate": draw_estimates(single, estimated)}
    for name in args.models:
        if name in found:
            model = found[name].model
            figures[name] = plot_effects(single[name], model.n_layers, model.n_heads).figure  # type: ignore[assignment]
    for name, figure in figures.items():
        written.append(args.out / f"ablate_heads_{name}.png")
        figure.savefig(written[-1], dpi=110, bbox_inches="tight")
    show_files(written)


def ablate_groups(one: Subject, *, n_random: int) -> Effects:
    """Induction heads together, as many random bystanders, the previous-token head, in full and patterns preserved."""
    size = len(one.induction)
    wanted: dict[str, list[Head]] = {f"induction top {size}": one.induction}
    wanted |= {f"induction top {n}": one.induction[:n] for n in sorted({1, 4, as_many(one)}) if 0 < n < size}
    wanted["previous"] = [one.previous]
    wanted |= random_sets(one, n_random)
    shown = sys.stderr.isatty()
    mean = ablation_sweep(one.model, one.prompts, heads=wanted, reference=one.reference, progress=shown)
    tables = [mean.table]
    for method in ("zero", "pattern_preserving"):
        previous = {f"previous, {method}": [one.previous]}
        tables.append(ablation_sweep(one.model, one.prompts, heads=previous, method=method).table)
    return Effects(pd.concat(tables, ignore_index=True), mean.provenance)


def random_sets(one: Subject, n_random: int) -> dict[str, list[Head]]:
    """Distinct sets of as many bystanders as are compared with as many induction heads; none where there are none."""
    size, generator = as_many(one), random.Random(0)
    if not size:
        return {}
    drawn = dict.fromkeys(tuple(sorted(generator.sample(one.bystanders, size))) for _ in range(n_random))
    return {f"random {i + 1}": list(heads) for i, heads in enumerate(drawn)}


def as_many(one: Subject) -> int:
    """Induction heads and bystanders that are set against each other: in small models most heads match prefixes."""
    return min(len(one.induction), len(one.bystanders))


def destroys(found: dict[str, Subject], groups: dict[str, Effects], left_out: dict[str, str]) -> Verdict:
    numbers, effects = {}, {}
    for name, one in found.items():
        row = groups[name].of(f"induction top {len(one.induction)}")
        effects[name] = Effect(row["effect"] / one.fall, row["standard_error"] / one.fall, len(one.prompts))
        numbers[name] = f"{len(one.induction)} induction heads: {said(row)}, {effects[name].value:.0%} of the fall"
    return Verdict(
        claim="Mean-ablating the induction heads together destroys in-context copying",
        source="Olsson et al. 2022",
        criterion="without the induction heads (at most 8, the best prefix-matching ones) the second copy's loss rises "
        f"by more than {DESTROYED:.0%} of the fall from first to second copy",
        numbers=numbers | left_out,
        control="the next claim",
        **judge(effects, DESTROYED, unit="of the fall"),
    )


def spares(found: dict[str, Subject], groups: dict[str, Effects]) -> Verdict:
    """The other half of the claim: only induction heads do."""
    numbers, effects = {}, {}
    for name, one in found.items():
        row: Any = groups[name].of(f"induction top {as_many(one)}") if as_many(one) else {}
        table: Any = groups[name].table
        others = table.loc[table["label"].str.startswith("random"), "effect"].tolist()
        if not others:
            numbers[name] = "all heads belong to the circuit: not counted"
            continue
        effects[name] = effect([other / row["effect"] for other in others])
        text = f"{len(others)} sets of {as_many(one)}: {min(others):+.2f} … {max(others):+.2f} nats"
        numbers[name] = f"{text}, in the mean {effects[name].value:.0%} of what induction heads do"
    return Verdict(
        claim="Mean-ablating as many other heads leaves in-context copying alone",
        source="Olsson et al. 2022",
        criterion="random sets of heads outside the model's own circuit (no prefix matching, and no direct path to the "
        "induction heads that matters) raise the second copy's loss, in the mean over sets, by less than "
        f"{SPARED:.0%} of what as many induction heads do, the best ones",
        numbers=numbers,
        control="the claim before",
        **judge(effects, SPARED, at_most=True, unit="of what induction heads do"),
    )


def bottleneck(found: dict[str, Subject], groups: dict[str, Effects]) -> Verdict:
    numbers, effects, controls = {}, {}, []
    for name, one in found.items():
        row = groups[name].of("previous")
        numbers[name] = f"{one.previous}: {said(row)}"
        if name.startswith(LANGUAGE):
            effects[name] = Effect(row["effect"], row["standard_error"], row["n_prompts"])
            best = groups[name].of("induction top 1")
            controls.append(f"{name}'s best induction head, {one.induction[0]}, alone: {said(best)}")
    another = {name: f"{name}'s previous-token head is another." for name, head in KNOWN.items()
               if name in found and str(found[name].previous) != head}  # fmt: skip
    return Verdict(
        claim="Copying hangs on one previous-token head",
        source="measured for this project beforehand, L16H0 of SmolLM2-135M",
        criterion="mean-ablating a language model's previous-token head alone (SmolLM2's is L16H0) raises the loss on "
        f"the second copy by at least {BOTTLENECK} nats, a line drawn for SmolLM2 and kept for Gemma before it was "
        f"read. {PREVIOUS}. The small models are listed beside them",
        numbers=numbers,
        control="; ".join(controls) or "no language model was run",
        **judge(effects, BOTTLENECK, unit="nats", undecided=another),
    )


def composes_through_keys(found: dict[str, Subject], groups: dict[str, Effects]) -> Verdict:
    numbers, effects = {}, {}
    for name, one in found.items():
        full, kept = groups[name].of("previous, zero"), groups[name].of("previous, pattern_preserving")
        text = f"{one.previous}: in full {full['effect']:+.2f}, patterns preserved {kept['effect']:+.3f}"
        numbers[name] = f"{text} ± {kept['standard_error']:.3f}"
        if full["effect"] < FULL:
            numbers[name] += ": the head itself does too little to tell"
            continue
        share, error = (kept[part] / full["effect"] for part in ("effect", "standard_error"))
        effects[name] = Effect(share, error, kept["n_prompts"])
    return Verdict(
        claim="A previous-token head matters for where later heads look (K-composition), not for what they read",
        source="Olsson et al. 2022",
        criterion=f"where zero-ablating it in full raises the second copy's loss by {FULL} nats or more, it raises it "
        f"with the patterns of all heads preserved by less than {PRESERVED:.0%} of that",
        numbers=numbers,
        control="the two runs differ in nothing but the patterns",
        **judge(effects, PRESERVED, at_most=True, unit="of the effect in full"),
    )


def learns_from_text(found: dict[str, Subject], *, n_random: int) -> Verdict:
    numbers, effects = {}, {}
    metric = icl_score(50, 500, window=WINDOW)
    for name, one in found.items():
        if one.model.tokenizer is None or (one.model.n_ctx or 0) < TEXT_TOKENS:
            continue
        sets = random_sets(one, n_random)
        if not sets:
            continue
        prompts, size = beginnings_of_files(one.model), as_many(one)
        wanted = {"induction": one.induction[:size], **sets}
        swept = ablation_sweep(one.model, prompts, heads=wanted, metric=metric, progress=sys.stderr.isatty())
        row, others = swept.of("induction"), [swept.of(label)["effect"] for label in sets]
        ahead = row["effect"] - max(0.0, *others)
        ahead = ahead if row["clean"] < 0 else min(ahead, -row["clean"])  # later tokens that are no easier fail as well
        effects[name] = Effect(ahead, row["standard_error"], row["n_prompts"])
        numbers[name] = (
            f"score {row['clean']:+.2f}; without {size} induction heads {said(row)}, without random ones "
            f"{min(others):+.3f} … {max(others):+.3f}"
        )
    return Verdict(
        claim="Later tokens of a text are easier to predict, and induction heads have the largest share in that",
        source="Olsson et al. 2022",
        criterion=f"loss at token 500 less loss at token 50 (each the mean of {2 * WINDOW + 1} tokens around it) is "
        "negative, and ablating the 8 best prefix-matching heads raises it, and more than any random set of as many "
        "bystanders does: by how much more than the worst of them",
        numbers=numbers or {"–": "no model here reads text of that length"},
        control=f"{n_random} random sets of as many bystanders; the text: {TEXT_PROMPTS} files of Python's standard "
        "library",
        **judge(effects, 0.0, unit="nats"),
    )


def along_the_way(seeds: tuple[int, ...]) -> Verdict:
    """Snapshots before and after the loss on the second copy falls most."""
    numbers, effects, controls = {}, {}, []
    for kind, seed in ((kind, seed) for kind in STEPS for seed in seeds):
        name, taken = f"{kind}-seed{seed}", snapshots(kind, seed)
        steps = sorted(taken)
        losses = [subject(taken[step], n_prompts=8).scores.loss_by_copy[1] for step in steps]
        steepest = int(np.argmax(-np.diff(losses)))
        first, last = steps[max(0, steepest - 1)], steps[min(len(steps) - 1, steepest + 2)]
        one = subject(taken[last])
        if not one.induction:
            numbers[name] = f"no induction head at step {last}: not read"
            continue
        metric = before_and_after(taken[first], taken[last], one.prompts)
        wanted = {"induction": one.induction, "previous": [one.previous]}
        wanted |= {str(head): [head] for head in one.bystanders}
        swept = ablation_sweep(one.model, one.prompts, heads=wanted, metric=metric, reference=one.reference)
        row = swept.of("induction")
        effects[name] = Effect(row["effect"], row["standard_error"], row["n_prompts"])
        numbers[name] = f"steps {first} → {last}: {len(one.induction)} induction heads {said(row, 'projected nats')}"
        others = [swept.of(str(head))["effect"] for head in one.bystanders]
        controls.append(
            f"{name}: {one.previous} {swept.of('previous')['effect']:+.1f}, other heads "
            f"{min(others, default=0.0):+.1f} … {max(others, default=0.0):+.1f}"
        )
    return Verdict(
        claim="Ablating the induction heads undoes what the phase change did to the losses",
        source="Olsson et al. 2022, before-and-after ablation attribution",
        criterion="the change of all token losses on their ablation, projected on the way that the losses went over "
        "the phase change (the steepest 50 steps and the snapshots around it), is negative",
        numbers=numbers or {"–": "no snapshots were read"},
        control="; ".join(controls) or "none",
        **judge(effects, 0.0, at_most=True, unit="projected nats"),
    )


def beginnings_of_files(model: HookedModel) -> Prompts:
    """The first tokens of files of Python's standard library, as many of each."""
    root = Path(sysconfig.get_paths()["stdlib"])
    rows = []
    for path in sorted(root.glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")[: 16 * TEXT_TOKENS]
        if text and len(rows) < TEXT_PROMPTS:
            tokens = text_prompts(model, text, n_prompts=1, length=TEXT_TOKENS).tokens
            rows += [tokens] if tokens.shape[1] == TEXT_TOKENS else []
    return Prompts(torch.cat(rows), kind="text")


def said(row: dict, unit: str = "nats") -> str:
    return f"{row['effect']:+.2f} ± {row['standard_error']:.2f} {unit} ({row['clean']:.2f} → {row['changed']:.2f})"


def draw_groups(groups: dict[str, Effects]) -> Figure:
    """The second copy's loss after each ablation, models side by side."""
    figure, axes = panels(len(groups), size=(2.2, 2.7), sharey=True)
    for ax, (name, effects) in zip(axes, groups.items(), strict=True):
        rows = effects.table.to_dict("records")
        random_sets = [row for row in rows if str(row["label"]).startswith("random")]
        shown = [row for row in rows if row not in random_sets]
        labels = ["intact", *(str(row["label"]) for row in shown)]
        values = [shown[0]["clean"], *(row["changed"] for row in shown)]
        errors = [0.0, *(row["standard_error"] for row in shown)]
        colours = ["#8d99ae", *("#d1495b" if "induction" in label else "#2a6f97" for label in labels[1:])]
        ax.bar(range(len(labels)), values, yerr=errors, color=colours, width=0.7)
        ax.plot([len(labels)] * len(random_sets), [row["changed"] for row in random_sets], "o", ms=3, color="#222222")
        labels += ["random"] if random_sets else []
        short = [label.replace("previous, pattern_preserving", "patterns kept") for label in labels]
        ax.set_xticks(range(len(labels)), [label.replace("induction ", "") for label in short])
        ax.tick_params(axis="x", rotation=75, labelsize=7)
        ax.set_title(name, fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supylabel("loss on the second copy, nats", fontsize=9)
    return figure


def draw_estimates(single: dict[str, Effects], estimated: dict[str, Effects]) -> Figure:
    """The estimate from gradients against the sweep, a dot a head, with both correlations."""
    figure, axes = panels(len(single), size=(2.2, 2.2))
    for ax, (name, effects) in zip(axes, single.items(), strict=True):
        other = estimated[name]
        ax.plot(effects.table["effect"], other.table["effect"], "o", ms=3, color="#2a6f97", alpha=0.7)
        ranks = effects.correlation(other, kind="spearman")
        ax.set_title(f"{name}\nr {effects.correlation(other):.2f}, ranks {ranks:.2f}", fontsize=7.5)
        ax.axhline(0, color="#8d99ae", lw=0.6)
        ax.tick_params(labelsize=7)
        ax.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("sweep, nats", fontsize=9)
    figure.supylabel("estimate from gradients, nats", fontsize=9)
    return figure


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--prompts", type=int, default=16, help="for groups of heads")
    parser.add_argument("--sweep-prompts", type=int, default=4, help="for single heads of the models given")
    parser.add_argument("--random", type=int, default=5, help="random sets of heads")
    parser.add_argument("--no-text", dest="text", action="store_false", help="leave out the text")
    parser.add_argument("--no-snapshots", dest="snapshots", action="store_false", help="leave out the way of training")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
