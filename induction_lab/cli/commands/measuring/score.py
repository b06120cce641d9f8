"""`induction-lab score`: every head of a model, on repeated random tokens or on a text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from induction_lab.cli.shared import (
    Bos,
    Device,
    Dtype,
    Folder,
    Format,
    Given,
    ModelName,
    Offload,
    Period,
    Revision,
    Seed,
    deliver,
    file_name,
    load,
    look_for,
    say,
    text_of,
)
from induction_lab.models.named_models import BUNDLED
from induction_lab.runtime.whole_numbers import check_numbers

commands = typer.Typer()


@commands.command(
    epilog="Examples:  [bold]induction-lab score[/bold]   ·   "
    "[bold]induction-lab score smollm2-135m --prompts 8[/bold]   ·   "
    "[bold]induction-lab score gpt2 --period 25 --repeats 4 --format json > gpt2.json[/bold]   ·   "
    "[bold]induction-lab score smollm2-135m --text essay.txt[/bold]   ·   "
    "[bold]induction-lab score smollm2-135m --above 0.4 --per-kv --format json[/bold]"
)
def score(
    model: ModelName = BUNDLED,
    prompts: Annotated[int, typer.Option(help="How many prompts.")] = 16,
    period: Period = None,
    repeats: Annotated[int, typer.Option(help="Copies of the block.")] = 2,
    gap: Annotated[int, typer.Option(help="Other tokens between two copies.")] = 0,
    seed: Seed = 0,
    bos: Bos = True,
    scores: Annotated[
        str, typer.Option(help="Names separated by commas, module:name for one of your own; all by default.")
    ] = "",
    text: Annotated[
        str | None,
        typer.Option(help="Score on this text, or text file, not on random tokens (--period, --repeats, --gap)."),
    ] = None,
    length: Annotated[int | None, typer.Option(help="With --text: longest prompt in tokens.")] = None,
    beyond_context: Annotated[
        bool, typer.Option("--beyond-context", help="Allow prompts longer than the model's context (rotary positions).")
    ] = False,
    weigh: Annotated[
        str | None, typer.Option(help="values: attention counts by the size of what it moves.", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(help="Heads in the second table.")] = 8,
    above: Annotated[
        float | None,
        typer.Option(help="Only list the heads that score more, best first; no files. Of --scores the one named."),
    ] = None,
    per_kv: Annotated[
        bool, typer.Option("--per-kv", help="With --above: by key-value head, each with its best query head's score.")
    ] = False,
    chance: Annotated[bool, typer.Option(help="Test heads against prompts without repeats.")] = True,
    figures: Annotated[bool, typer.Option(help="Draw the figures too.")] = True,
    device: Device = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    offload: Offload = False,
    batch_size: Annotated[int | None, typer.Option(help="Prompts at a time.")] = None,
    out: Folder = Path("results"),
    format: Given = Format.table,
) -> None:
    """Score every head of MODEL on repeated random tokens, or on a text."""
    numbers = {"--prompts": prompts, "--period": period, "--repeats": repeats, "--gap": gap, "--length": length}
    check_numbers(**numbers, **{"--batch-size": batch_size})
    check_numbers(least=0, **{"--top": top})
    if length is not None and text is None:
        raise ValueError("--length goes with --text; for random tokens choose --period and --repeats.")
    content = text_of(text)
    if per_kv and above is None:
        raise ValueError("--per-kv goes with --above: --above 0.4 --per-kv.")
    if above is not None and (format is Format.parquet or "," in scores):
        raise ValueError("--above prints a list of one score: --format table, csv or json, and one name as --scores.")
    if not (scores or weigh):  # what these say is looked at first
        look_for(model)
    say("loading libraries and the model …")
    from induction_lab.cli.terminal import show_scores
    from induction_lab.data.prompts import repeated_tokens, text_prompts
    from induction_lab.scores.registry import find_scores
    from induction_lab.scores.scoring import score_heads
    from induction_lab.scores.weighed import check_weighing

    names = [name.strip() for name in scores.split(",") if name.strip()] or None
    if scores and names is None:
        raise ValueError(f"--scores wants names separated by commas, got {scores!r}.")
    asked = find_scores(names)  # before a model is loaded
    if above is not None:
        if names and len(asked) > 1:
            raise ValueError(f"--above lists the heads of one score: --scores with one name, got {scores}.")
        names = list(names or ["prefix_matching"])
    check_weighing(weigh)
    loaded = load(model, device=device, dtype=dtype, revision=revision, offload=offload)
    how: dict[str, Any] = {"n_prompts": prompts, "bos": "model" if bos else None, "beyond_context": beyond_context}
    if content is None:
        block = {"n_repeats": repeats, "gap": gap, "distinct": chance and prompts > 1}
        chosen = repeated_tokens(loaded, period=period, seed=seed, **block, **how)
    else:
        chosen = text_prompts(loaded, content[1], length=length, **how)
    tested = chance and len(chosen) > 1 and above is None
    say("")
    how = {"batch_size": batch_size, "chance_test": tested, "loss": above is None, "progress": True}
    found = score_heads(loaded, chosen, scores=names, weigh=weigh, **how)
    for name in names or ():
        if (own := found.provenance["own_prompts"].get(name)) is not None:
            typer.echo(f"{name}: measured on {_in_words(own)}, whatever prompts are given", err=True)
    if above is not None:
        heads = _heads_above(found, found.scores[0], above, per_kv=per_kv)
        _list(heads.assign(**_where_from(found, above)), format)
        return
    about = ("" if content is None else f"_{content[0]}") + ("" if weigh is None else f"_by_{weigh}")
    place = out / (file_name(model, loaded) + about)
    deliver(
        found, place, format, _score_pictures(found) if figures else (), lambda scores: show_scores(scores, top=top)
    )


def _heads_above(scores: Any, score: str, threshold: float, *, per_kv: bool) -> Any:
    """Heads that score more, best first; or the key-value heads of which one does, with these query heads."""
    import pandas as pd

    from induction_lab.attention.grouped import key_head

    values = scores[score]
    rows = [(str(h), h.layer, h.head, float(values[h.layer, h.head])) for h in scores.above(score, threshold)]
    table = pd.DataFrame(rows, columns=["label", "layer", "head", "value"])
    if not per_kv:
        return table
    n_kv_heads = scores.by_kv_head(score).shape[1]
    table["kv_head"] = [key_head(head, scores.n_heads, n_kv_heads) for _, _, head, _ in rows]
    groups = table.groupby(["layer", "kv_head"], sort=False)
    found = groups.agg(value=("value", "first"), heads=("label", " ".join)).reset_index()
    found.insert(
        0, "label", [f"L{layer}KV{head}" for layer, head in zip(found["layer"], found["kv_head"], strict=True)]
    )
    return found


def _where_from(scores: Any, threshold: float) -> dict[str, Any]:
    """Where a list of heads comes from, which each of its rows says, so that it stays one plain table."""
    facts = scores.provenance
    score = scores.scores[0]
    prompts = facts["own_prompts"].get(score, facts["prompts"])
    return {
        "score": score,
        "above": threshold,
        "model": scores.model,
        "revision": facts["revision"],
        "weights_sha256": facts["weights_sha256"],
        "dtype": facts["dtype"],
        "prompts": _in_words(prompts),
        "seed": prompts.get("seed"),
        "tokens_sha256": prompts.get("tokens_sha256"),
        "induction_lab": facts["versions"]["induction-lab"],
    }


def _in_words(prompts: dict[str, Any]) -> str:
    """Prompts, by what is known of them."""
    if "n_prompts" not in prompts:
        return prompts["kind"]
    block = f", period {prompts['period']}, {prompts['n_repeats']} copies" if prompts["period"] else ""
    some = "up to " if "lengths_sha256" in prompts else ""
    return f"{prompts['n_prompts']} x {some}{prompts['n_tokens']} tokens; {prompts['kind']}{block}"


def _list(heads: Any, format: Format) -> None:
    """Print heads, one a line, or as CSV or JSON."""
    if format is Format.json:
        typer.echo(heads.to_json(orient="records", double_precision=6))
    elif format is Format.csv:
        typer.echo(heads.to_csv(index=False, float_format="%.6f"), nl=False)
    else:
        for row in heads.to_dict("records"):
            typer.echo(f"{row['label']} {row['value']:.3f}" + (f"  {row['heads']}" if "heads" in row else ""))


def _score_pictures(scores: Any) -> Iterator[tuple[str, Any]]:
    """Figures of head scores, and the ends of their files' names."""
    from induction_lab import plots

    yield "_scores", plots.plot_all_scores(scores)
    best = "prefix_matching" if "prefix_matching" in scores.scores else scores.scores[0]
    yield f"_{best}_by_layer", plots.plot_score_by_layer(scores, best).figure
    if scores.loss:
        yield "_loss", plots.plot_loss(scores).figure
