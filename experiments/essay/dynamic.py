"""Are attention's weights dynamic, given by the content, and are they the best ones for the next token?

    python -m experiments dynamic

On prose (texts.toml) in pieces of one length. Dynamic: every head attends by its mean pattern over other pieces, which
knows the positions and nothing of the content; what is lost, of all that is lost when heads put out their means. And
how far a head's pattern lies from that mean (the share of its weight that is elsewhere). Best: all heads sharper or
softer, by a temperature under their scores; what the best temperature, chosen on other pieces, gains. Writes to
figures/: dynamic.csv (losses by piece), dynamic_heads.csv, dynamic.json (verdicts), dynamic.png. About 4 minutes on one
CPU core.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from jaxtyping import Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from experiments.essay.of_models import names
from experiments.essay.passages import arguments_for_models, reading_model
from experiments.essay.prose import read_prose
from experiments.harness import begin, show_files
from experiments.judging import effect, judge, ratio, told
from experiments.verdicts import Verdict, save_verdicts
from induction_lab import HookedModel
from induction_lab.attention.grouped import to_query_heads
from induction_lab.internals.residual_stream import ResidualStreams, residual_streams
from induction_lab.runtime.progress import progress_bar

LENGTH = 96  # tokens of a piece, after BOS
TEMPERATURES = (0.5, 0.7, 0.85, 1.0, 1.2, 1.4, 2.0)
AS_IT_IS, POSITIONS, MEANS = "as it is", "mean patterns", "mean outputs"
# The criteria, written before anything was run.
MOST = 0.5  # of what heads do for the loss must go with the content
BETTER = 0.01  # nats a token: less is as good as the best
ESSAY = "essay §7"
STATIONARY = (  # added after the numbers had been seen
    "One temperature for all heads is a direction that training itself went to the bottom of: the test could hardly "
    "fail, and says nothing of what each head or query would gain."
)


def main(argv: list[str] | None = None) -> None:
    parser = arguments_for_models(__doc__)
    parser.add_argument("--pieces", type=int, help="for a quick look (an even number from 4 on); all by default")
    args = parser.parse_args(argv)
    if args.pieces is not None and (args.pieces < 4 or args.pieces % 2):
        parser.error(f"--pieces must be an even number from 4 on, so that either half has two; got {args.pieces}.")
    models = [reading_model(parser, name) for name in args.models]
    begin(args.out)
    found = [measured(model, args.pieces) for model in models]
    table, heads = (pd.concat(each, ignore_index=True) for each in zip(*found, strict=True))
    written = [args.out / "dynamic.csv", args.out / "dynamic_heads.csv", args.out / "dynamic.png"]
    table.round(5).to_csv(written[0], index=False)
    heads.round(5).to_csv(written[1], index=False)
    draw(table, heads).savefig(written[2], dpi=110)
    show_files([*written, save_verdicts([by_content(table, heads), as_sharp(table)], args.out / "dynamic.json")])


def pieces(model: HookedModel, most: int | None = None) -> Int[Tensor, "piece pos"]:
    """The prose, cut into pieces that each begin with BOS; what is left over at a passage's end is left out."""
    length = min(LENGTH, (model.n_ctx or LENGTH + 1) - 1)
    rows = []
    for passage in read_prose():
        ids = model.tokenizer(passage.text, add_special_tokens=False)["input_ids"]
        rows += [[model.bos_token_id, *ids[at : at + length]] for at in range(0, len(ids) - length + 1, length)]
    return torch.tensor(rows[: len(rows) // 2 * 2][:most])


def measured(model: HookedModel, most: int | None = None) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The loss of each piece under every change, and how far each head's patterns lie from their mean."""
    tokens = pieces(model, most)
    halves = tokens[0::2], tokens[1::2]
    streams = [residual_streams(model, half) for half in halves]
    rows, away = [], torch.zeros(model.n_layers, model.n_heads)
    with progress_bar(2 * (len(TEMPERATURES) + 2), model.name, shown=sys.stderr.isatty()) as tick:
        for half, (own, other) in enumerate((streams, streams[::-1])):
            means = {layer: mean_pattern(seen) for layer, seen in other.attention.items()}
            outputs = {layer: seen.z.mean(0, keepdim=True) for layer, seen in other.attention.items()}
            for layer, seen in own.attention.items():
                apart = (seen.pattern().float() - means[layer]).abs().sum(-1)[..., 1:].mean((0, 2)) / 2
                away[layer] += apart.cpu() / 2
            edits: dict[str, Callable[[Any], Any]] = {
                POSITIONS: lambda attention, means=means: attend_by(attention, means[attention.layer]),
                MEANS: lambda attention, outputs=outputs: replace(
                    attention, z=outputs[attention.layer].expand_as(attention.z)
                ),
            }
            edits |= {str(t): lambda attention, t=t: at_temperature(attention, t) for t in TEMPERATURES if t != 1}
            for name, edit in {AS_IT_IS: None, **edits}.items():
                losses = loss(model, own, own.normalised if edit is None else own.run(0, edit))
                names = (AS_IT_IS, "1.0") if edit is None else (name,)
                rows += [
                    {"model": model.name, "half": half, "piece": piece, "change": each, "loss": value}
                    for each in names
                    for piece, value in enumerate(losses.tolist())
                ]
                tick(1)
    layer, head = torch.meshgrid(torch.arange(model.n_layers), torch.arange(model.n_heads), indexing="ij")
    columns = {"layer": layer, "head": head, "away": away}
    heads = pd.DataFrame({"model": model.name, **{name: x.flatten().numpy() for name, x in columns.items()}})
    return pd.DataFrame(rows), heads


def mean_pattern(attention: Any) -> Float[Tensor, "head query key"]:
    """The probabilities' mean over pieces."""
    return attention.pattern().float().mean(0)


def attend_by(attention: Any, pattern: Float[Tensor, "head query key"]) -> Any:
    """The heads' own values, by another pattern."""
    v = to_query_heads(attention.v, attention.z.shape[1], dim=1)
    return replace(attention, z=(pattern.to(v) @ v).to(attention.z))


def at_temperature(attention: Any, temperature: float) -> Any:
    """The scores divided by a temperature: below 1 sharper."""
    return replace(attention, z=attention.mix(q=attention.q / temperature))


def loss(model: HookedModel, streams: ResidualStreams, hidden: Tensor) -> Float[Tensor, " piece"]:
    """The mean loss of each piece, in nats a token; pieces one by one, for their logits are large."""
    found = []
    with torch.inference_mode():
        for tokens, own in zip(streams.tokens, hidden, strict=True):
            logs = model.unembed(own[None, :-1]).float().log_softmax(-1)[0]
            found.append(-logs.gather(1, tokens[1:, None]).mean())
    return torch.stack(found).cpu()


def by_content(table: Any, heads: Any) -> Verdict:
    effects, numbers, undecided = {}, {}, {}
    for model in names(table):
        plain, positions, means = (values(table, model, change) for change in (AS_IT_IS, POSITIONS, MEANS))
        lost, whole = ([b - a for a, b in zip(plain, each, strict=True)] for each in (positions, means))
        effects[model] = ratio(lost, whole)
        if effects[model].value > 1:  # added after the numbers had been seen
            undecided[model] = (
                f"{model}: mean patterns lose more than reading nothing does, which is damage of another kind and no "
                "share of what is read."
            )
        away = heads[heads["model"] == model]["away"]
        numbers[model] = (
            f"{told(effects[model])} of it; loss {sum(plain) / len(plain):.2f} nats a token, with mean patterns "
            f"{told(effect(lost))} more, with mean outputs {told(effect(whole))} more; of {len(plain)} pieces; weight "
            f"that is elsewhere than in the mean pattern: {away.mean():.0%} of a head's in the mean, "
            f"{away.quantile(0.1):.0%} to {away.quantile(0.9):.0%} in eight heads of ten"
        )
    return Verdict(
        claim="Attention assigns its weights dynamically: by what is read, not by where it stands",
        source=ESSAY,
        measured="prose; every head of every layer attends, to the values that are there, by its mean pattern over "
        "other pieces, which knows positions alone; what is lost, over what is lost when heads put out their means "
        "over other pieces",
        criterion=f"more than {MOST:.0%} of what heads do for the loss is lost",
        numbers=numbers,
        control="heads that put out their means: what is lost when nothing is read from the context at all is what the "
        "share is of",
        beforehand=True,
        **judge(effects, MOST, unit="of what heads do", undecided=undecided),
    )


def as_sharp(table: Any) -> Verdict:
    effects, numbers, control = {}, {}, []
    for model in names(table):
        own = table[table["model"] == model]
        gains = []
        chosen = []
        for half in (0, 1):
            means = own[own["half"] != half].groupby("change")["loss"].mean()
            best = min(TEMPERATURES, key=lambda t, means=means: means[str(t)])
            here = own[own["half"] == half].set_index(["change", "piece"])["loss"]
            gains += (here["1.0"] - here[str(best)]).tolist()
            chosen.append(f"{best:g}")
        effects[model] = effect(gains)
        numbers[model] = f"gain {told(effects[model])} nats a token at the best temperature ({', '.join(chosen)})"
        whole = own.groupby("change")["loss"].mean()
        control.append(f"{model} " + ", ".join(f"{whole[str(t)] - whole['1.0']:+.3f} at {t:g}" for t in TEMPERATURES))
    flat = {model: STATIONARY for model, found in effects.items() if found.value < BETTER}
    return Verdict(
        claim="The weights are the best for the task in this: no head would do better sharper or softer, all together",
        source=ESSAY,
        measured="prose; all scores divided by one temperature, chosen on every other piece, read on the rest: what "
        'the loss gains. A narrow test of "optimal": one number for all heads; what exact patterns gain, '
        "idealised_patterns measures",
        criterion=f"less than {BETTER:g} nats a token gained",
        numbers=numbers,
        control="the loss at other temperatures: " + "; ".join(control),
        beforehand=True,
        **judge(effects, BETTER, at_most=True, unit="nats a token", undecided=flat),
    )


def values(table: Any, model: str, change: str) -> list[float]:
    own = table[(table["model"] == model) & (table["change"] == change)]
    return own.sort_values(["half", "piece"])["loss"].tolist()


def draw(table: Any, heads: Any) -> Figure:
    """What mean patterns lose; how far heads are from them, by depth; the loss over temperature."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.7), layout="constrained")
    for number, model in enumerate(names(table)):
        colour = ("#2a6f97", "#d1495b", "#e09f3e", "#5f7a4f")[number % 4]
        plain = values(table, model, AS_IT_IS)
        for x, change in enumerate((POSITIONS, MEANS)):
            lost = effect([b - a for a, b in zip(plain, values(table, model, change), strict=True)])
            left.bar(x + (number - 0.5) * 0.38, lost.value, 0.36, yerr=lost.error, color=colour, capsize=2,
                     label=None if x else model)  # fmt: skip
        own = heads[heads["model"] == model]
        middle.plot(own["layer"] / own["layer"].max(), own["away"], "o", ms=4, alpha=0.6, color=colour, label=model)
        whole = table[table["model"] == model].groupby("change")["loss"].mean()
        right.plot(TEMPERATURES, [whole[str(t)] - whole["1.0"] for t in TEMPERATURES], "-o", ms=4, color=colour,
                   label=model)  # fmt: skip
    left.set_xticks([0, 1], ["heads attend by their\nmean pattern", "heads put out\ntheir mean"])
    left.set(ylabel="nats a token lost", title="Without what is read")
    middle.set(xlabel="depth", ylabel="weight elsewhere than in the mean", title="How far patterns are from their mean",
               ylim=(0, 1))  # fmt: skip
    right.axhline(0, color="0.6", lw=1)
    right.set_yscale("symlog", linthresh=0.1)
    right.set(xlabel="temperature (below 1: sharper)", ylabel="nats a token lost", title="All heads sharper, softer")
    for ax in (left, middle, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main(sys.argv[1:])
