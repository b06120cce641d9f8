"""What the terminal shows: tables that fit 80 columns, in colour on a terminal and plain where piped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from induction_lab.circuits.explanation import Explanation
from induction_lab.circuits.search import InductionCircuit
from induction_lab.circuits.verdicts import VERDICTS
from induction_lab.cli.lists import table_of
from induction_lab.development.phase_change import Rise, onset_between, rise
from induction_lab.development.trajectory import Trajectory
from induction_lab.results.heads import LOOKS, Head
from induction_lab.scores.chance import fewest_prompts
from induction_lab.scores.registry import EVERY
from induction_lab.scores.results import HeadScores
from induction_lab.training.runs import Run


def show_scores(scores: HeadScores, *, top: int = 8) -> None:
    """What the model does on the prompts, the best three heads of each score, the best `top` induction heads."""
    out = Console(highlight=False)
    out.print(_behaviour(scores))
    out.print(_head_count(scores))
    show_prompts(scores.provenance)
    if "weigh" in scores.provenance:
        out.print(f"[dim]attention counts by the size of the {scores.provenance['weigh']} that it moves[/dim]")
    out.print()
    out.print(_ranking(scores))
    for name, reason in scores.provenance.get("left_out", {}).items():
        out.print(f"[dim]left out: {name}: {escape(reason)}[/dim]")
    alike: dict[str, list[str]] = {}
    for name, said in scores.provenance.get("out_of_reach", {}).items():
        alike.setdefault(said, []).append(name)
    for said, names in alike.items():
        out.print(f"[dim]{', '.join(names)}: {escape(said)}[/dim]")
    if "prefix_matching" in scores.scores and top > 0:
        out.print()
        out.print(_induction_heads(scores, top))


def show_prompts(provenance: dict[str, Any]) -> None:
    """What stands in front of each prompt, and how prompts differ from the usual; nothing of files of before."""
    for what, name in (("in front of each prompt", "in_front"), ("prompts", "note")):
        if provenance.get(name):
            Console(highlight=False).print(f"[dim]{what}: {escape(provenance[name])}[/dim]")


def show_circuit(circuit: InductionCircuit) -> None:
    """The edges of an induction circuit, strongest first, and what the columns mean."""
    out = Console(highlight=False)
    likely = circuit.likely
    first = (likely if len(likely) else circuit.edges).iloc[0]
    count = circuit.n_layers * circuit.n_heads
    edge = f"[bold]{first['previous']}[/bold] → keys of [bold]{first['induction']}[/bold]"
    verdict = f"most likely {edge}."
    if not len(likely):
        verdict = f"no induction circuit shows: the nearest to one is {edge}."
    out.print(f"[bold]{escape(circuit.model)}[/bold], {count} heads: {verdict}")
    show_prompts(circuit.provenance)
    out.print(
        f"Composition above random matrices, which score {circuit.baseline:.4f} ± {circuit.baseline_error:.4f}.\n"
    )
    names = {"previous": "writes", "induction": "reads", "previous_token": "previous", "prefix_matching": "prefix"}
    names |= {"K_rank": "rank", "qk_matching": "QK match", "ov_copying": "OV copy"}
    columns = [column for column in circuit.edges.columns if column != "strength"]
    shown = [names.get(str(column), str(column)) for column in columns]
    table = table_of(*shown, right=shown[2:])
    for row in circuit.edges[columns].itertuples(index=False):
        table.add_row(*(f"{x:.3f}" if isinstance(x, float) else str(x) for x in row))
    out.print(table)
    out.print(
        "\nprevious, prefix: where the two heads look on repeated tokens (1: ideal). K, Q, V: how much the second "
        "reads of what the first writes; rank: of that K among all earlier heads. QK match, OV copy: of the "
        "second's weights alone (1: ideal). Likely, not proven: nothing was ablated."
    )


_TESTED = (("faithfulness", "alone keeps"), ("necessity", "is needed for"))


def show_explanation(explanation: Explanation) -> None:
    """Every head that is no bystander, with the evidence; then how much the circuit explains."""
    out = Console(highlight=False)
    behaviour, count = explanation.behaviour, explanation.n_layers * explanation.n_heads
    out.print(
        f"[bold]{escape(explanation.model)}[/bold], {count} heads: loss {behaviour['first_copy']:.2f} nats on the "
        f"first copy, [bold]{behaviour['second_copy']:.2f}[/bold] on the second; there {behaviour['no_heads']:.2f} "
        "with all heads mean-ablated."
    )
    show_prompts(explanation.provenance)
    out.print()
    columns = ("verdict", "ablated, nats", "path to keys", "previous", "prefix", "writes")
    table = table_of("head", *columns, right=columns[1:])
    shown: Any = explanation.heads.loc[explanation.heads["verdict"] != "bystander"]
    order = {verdict: place for place, verdict in enumerate(VERDICTS)}
    rows = sorted(shown.to_dict("records"), key=lambda row: (order[row["verdict"]], -abs(row["effect"])))
    for row in rows:
        cells = [_with_error(row[name], row[f"{name}_error"]) for name in ("effect", "to_keys")]
        looks = [f"{row[name]:.2f}" for name in ("previous_token", "prefix_matching", "logit_attribution")]
        table.add_row(row["label"], row["verdict"], *cells, *(x.replace("nan", "–") for x in looks))
    out.print(table)
    out.print(f"The other {count - len(rows)} heads are bystanders.\n")
    tests = {row["heads"]: row for row in explanation.tests.to_dict("records")}
    own = tests.pop("circuit", None)
    if own is None:
        out.print("No head carries it: there is no circuit to test.")
        _show_left_out(out, explanation)
        return
    size = int(own["n_heads"])
    heads = "head" if size == 1 else "heads"
    everything = size == len(explanation.heads)
    if everything:
        out.print(f"All {size} heads are the circuit: no head is left to test it against.")
    for name, how in () if everything else _TESTED:
        others = sorted(float(row[name]) for row in tests.values())
        sets = f"{len(others)} random sets" if len(others) > 1 else "one set"
        beside = f"; {sets} of other heads: {others[0]:.2f} … {others[-1]:.2f}" if others else ""
        out.print(f"{name}: the circuit of {size} {heads} {how} [bold]{own[name]:.2f}[/bold] of it{beside}.")
    out.print(
        "\nablated: rise of the second copy's loss without the head. path to keys: the same with only its direct path "
        "to the keys of the induction heads cut. previous, prefix: where it looks. writes: logits for the right token."
    )
    _show_left_out(out, explanation)


def _show_left_out(out: Console, explanation: Explanation) -> None:
    for name, reason in explanation.provenance.get("left_out", {}).items():
        out.print(f"[dim]left out: {name}: {escape(reason)}[/dim]")


def show_runs(runs: Sequence[Run]) -> None:
    """What came out of training, and the command to look at it."""
    out = Console(highlight=False)
    columns = ("steps", "last loss, nats", "tokens/s")
    table = table_of("run", *columns, right=columns)
    for run in runs:
        last = run.log.iloc[-1]
        speed = last["tokens"] / last["seconds"] if last["seconds"] else float("nan")
        table.add_row(escape(run.name), f"{int(last['step']):,}", f"{last['loss']:.3f}", f"{speed:,.0f}")
    out.print(table)
    out.print("\nwritten:")
    for run in runs:
        out.print(f"  {escape(str(run.folder))}", soft_wrap=True)
    folders = " ".join(str(run.folder) for run in runs)
    out.print(f"Now see what happened: induction-lab follow {escape(folders)}", soft_wrap=True)


def show_trajectory(trajectory: Trajectory, score: str, *, rows: int = 14) -> None:
    """Losses and best heads at some of the steps, and when the score of the best head rose."""
    out = Console(highlight=False)
    best, steps = trajectory.best(score), trajectory.steps
    band = rise(best)
    some = {steps[round(i * (len(steps) - 1) / max(rows - 1, 1))] for i in range(rows)} | set(band or ())
    wholes = [name for name in ("mean_loss", "icl_score") if name in trajectory.metrics]
    heads = [name for name in dict.fromkeys((score, "previous_token")) if name in trajectory.metrics]
    table = table_of("step", *wholes, *heads, right=("step", *wholes, *heads))
    numbers = {name: trajectory.series(name) for name in wholes}
    scores = {name: trajectory.heads(name) for name in heads}
    for step in sorted(some):
        cells = [f"{series.get(step, float('nan')):.3f}" for series in numbers.values()]
        cells += [_best_head(values[steps.index(step)]) for values in scores.values()]
        table.add_row(f"{step:,}", *cells)
    out.print(f"[bold]{escape(trajectory.runs[0])}[/bold], {len(steps)} checkpoints; losses in nats, best heads:\n")
    out.print(table)
    out.print("\n" + _when(trajectory, score, best, band) + "\n")
    for what, at in trajectory.provenance.get("left_out", {}).items():
        out.print(f"[dim]left out at {len(at)} of {len(steps)} checkpoints: {escape(what)}[/dim]\n")


def _best_head(values: Tensor) -> str:
    if values.isnan().all():
        return "–"
    at = int(values.nan_to_num(-torch.inf).argmax())
    head = Head(*divmod(at, values.shape[1]))
    return f"{head} {float(values[head]):.2f}"


def _when(trajectory: Trajectory, score: str, best: pd.Series, band: Rise | None) -> str:
    """Whether the best head's score rose, and if not, whether the model learnt to copy all the same."""
    if band is not None:
        first = _reached(best)
        between = f"between steps {band.start:,} and {band.end:,}"
        how = f"rise time {band.end - band.start:,} steps, from {best.iloc[0]:.2f} to {best.max():.2f} at most{first}"
        return f"[bold]{score} rose {between}[/bold]: {how}."
    text = f"[bold]{score} did not rise[/bold]: {best.iloc[0]:.2f} at step {best.index[0]:,}, {best.max():.2f} at most."
    if "loss_by_copy" in trajectory.metrics:
        loss = trajectory.series("loss_by_copy", index=2)
        if loss.min() < 0.5 * loss.iloc[0]:
            text += (
                f" Yet the second copy's loss fell from {loss.iloc[0]:.2f} to {loss.min():.2f}: it copies otherwise."
            )
    return text


def _reached(best: pd.Series) -> str:
    """Between which checkpoints the best head first looks as induction heads do."""
    if (found := onset_between(best, LOOKS)) is None:
        return ""
    after, by = found
    return f"; {LOOKS} was first reached " + (
        f"at step {by:,}" if after is None else f"between steps {after:,} and {by:,}"
    )


def _behaviour(scores: HeadScores) -> str:
    facts = scores.provenance["prompts"]
    count = "1 prompt" if facts["n_prompts"] == 1 else f"{facts['n_prompts']} prompts"
    what = f"[bold]{escape(scores.model)}[/bold] on {count} of "
    if scores.loss_by_copy:
        first, *later = (f"{loss:.2f}" for loss in scores.loss_by_copy)
        which = "the second copy" if len(later) == 1 else "later copies"
        return (
            f"{what}{facts['n_repeats']} × {facts['period']} random tokens: "
            f"loss {first} nats on the first copy, [bold]{', '.join(later)}[/bold] on {which}."
        )
    loss = f", mean loss {sum(scores.loss) / len(scores.loss):.2f} nats" if scores.loss else ""
    return f"{what}up to {facts['n_tokens']} tokens{loss}."


def _head_count(scores: HeadScores) -> str:
    if "prefix_matching" not in scores.scores:
        return ""
    all_heads = scores.n_layers * scores.n_heads
    text = f"{len(scores.above('prefix_matching', LOOKS))} of {all_heads} heads exceed {LOOKS} in prefix_matching"
    if "prefix_matching" in scores.q_values:
        passing = len(scores.significant("prefix_matching"))
        text += f", {passing} are above chance (q ≤ 0.05 and above uniform attention)"
        fewest = fewest_prompts(all_heads)
        if scores.provenance["prompts"]["n_prompts"] < fewest:
            text += (
                f"; on so few prompts a lone head could not pass the correction over all heads: use {fewest} or more"
            )
    return text + "."


def _ranking(scores: HeadScores) -> Table:
    table = table_of("score", "chance", "first", "second", "third", right=("chance",))
    for name in scores.scores:
        cells = [f"{head} {_number(scores, name, head, digits=2)}" for head, _ in scores.top(name, 3)]
        table.add_row(name, f"{scores.uniform[name]:.3f}", *cells)
    return table


def _induction_heads(scores: HeadScores, top: int) -> Table:
    beside = [name for name in ("induction_stripe", "logit_attribution", "ov_copying") if name in scores.scores]
    beside += [name for name in scores.scores if name not in EVERY]  # of a user's own
    tested = "prefix_matching" in scores.q_values
    columns = ["prefix_matching", *beside, *(["q"] if tested else [])]
    table = table_of("head", *columns, right=columns)
    for head, _ in scores.top("prefix_matching", top):
        row = [_number(scores, name, head, digits=3) for name in ("prefix_matching", *beside)]
        if tested:
            row.append(f"{float(scores.q_values['prefix_matching'][head]):.0e}")
        table.add_row(str(head), *row)
    return table


def _number(scores: HeadScores, name: str, head: Head, *, digits: int) -> str:
    error = float(scores.standard_errors[name][head])
    value = f"{float(scores[name][head]):.{digits}f}"
    return f"{value}±{error:.{digits}f}" if error > 0 else value


def _with_error(value: float, error: float) -> str:
    return "–" if value != value else f"{value:+.3f}±{error:.3f}"
