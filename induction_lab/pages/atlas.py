"""The atlas of a sweep: one HTML page that works offline, with Plotly figures of what `load_sweep` returns."""

from __future__ import annotations

import html
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd

from induction_lab.pages.html import FOLDER, check_page
from induction_lab.plots.style import OKABE_ITO
from induction_lab.results.heads import LOOKS
from induction_lab.results.tables import writing
from induction_lab.runtime.optional import library
from induction_lab.sweeps.summaries import formation, head_map, head_rows, induction_counts, last_snapshots

_COLUMNS = 4
_COLOURS = (*OKABE_ITO, "#7f7f7f", "#a3a300")
_TITLE = re.compile(r"<title>Induction heads in (.*?)</title>", re.DOTALL)


def write_atlas(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    score: str = "prefix_matching",
    threshold: float = LOOKS,
    title: str = "Induction heads across models",
    reports: Mapping[str, str | Path] | None = None,
) -> Path:
    """Draw the head map of each model, score against depth, induction heads against size and step, when they form.

    Args:
        frame: The table that `load_sweep` returns.
        path: File to write, `.html`.
        score: Name of the head score that is drawn and counted by.
        threshold: Least score at which a head counts as an induction head.
        title: Heading of the page.
        reports: By model, the file of its report (`write_report`), which a click on one of its heads opens there.

    Raises:
        ValueError: If `path` is no `.html` file or cannot be written, `threshold` is not finite, the score was not
            measured, a report is of none of the models, or Plotly or Jinja is not installed.
    """
    path = check_page(path, "The atlas is a page, .html")
    jinja2, go, subplots = (
        library(name, extra="report") for name in ("jinja2", "plotly.graph_objects", "plotly.subplots")
    )
    if not math.isfinite(threshold):
        raise ValueError(f"`threshold` must be a number, got {threshold}.")
    heads, counts = head_map(frame, score), induction_counts(frame, score, threshold=threshold)
    formed = formation(frame, score, threshold=threshold)
    links = _links(reports or {}, path, set(map(str, heads["model"])))
    look = {model: _COLOURS[i % len(_COLOURS)] for i, model in enumerate(sorted(set(heads["model"])))}
    every, depth = _maps(go, subplots, heads, score, links), _depth(go, heads, score, threshold, look, links)
    drawn = [
        ("Every head", "Layers down, heads across; each model's last snapshot.", every),
        ("Against depth", "Each dot a head; 0 is the first layer, 1 the last.", depth),
        ("Against size", "Induction heads of the last snapshots.", _size(go, counts, look)),
    ]
    if len(formed):
        drawn.append(("Over training", "Induction heads at each snapshot.", _training(go, counts, look)))
        drawn.append(("When they form", _formed_in_words(formed, threshold), _formation(go, formed)))
    from markupsafe import Markup

    template = jinja2.Environment(autoescape=True).from_string((FOLDER / "atlas.html.j2").read_text(encoding="utf-8"))
    page = template.render(
        title=title,
        n_cells=frame["cell"].nunique(),
        n_models=frame["model"].nunique(),
        score=score,
        threshold=f"{threshold:g}",
        prompts=sorted(set(head_rows(frame, score)["prompts"])),
        figures=[(heading, words, figure and _div(figure, i)) for i, (heading, words, figure) in enumerate(drawn)],
        table=_numbers(counts, formed),
        reports=links,
        style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
        script=Markup((FOLDER / "atlas.js").read_text(encoding="utf-8")),
    )
    with writing(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def reports_in(folder: Path, models: set[str]) -> dict[str, Path]:
    """The reports of single models that lie in a folder, by model.

    Raises:
        ValueError: If it holds none of these models.
    """
    found = {}
    for path in sorted(folder.glob("*.html")):
        with path.open(encoding="utf-8", errors="replace") as file:
            title = _TITLE.search(file.read(4096))
        if title and html.unescape(title[1]) in models:
            found[html.unescape(title[1])] = path
    if not found:
        one = min(models)
        raise ValueError(
            f"{folder} holds no report of {', '.join(sorted(models))}: "
            f"induction-lab report {one} -o {folder / 'report.html'} writes one."
        )
    return found


def _links(reports: Mapping[str, str | Path], page: Path, models: set[str]) -> dict[str, str]:
    """Addresses of reports as the page can follow them: from where it lies to where they lie."""
    other = sorted(set(reports) - models)
    if other:
        raise ValueError(f"There is a report of {', '.join(other)}; the sweep is of {', '.join(sorted(models))}.")
    return {model: quote(Path(os.path.relpath(report, page.parent)).as_posix()) for model, report in reports.items()}


def _formed_in_words(formed: pd.DataFrame, threshold: float) -> str:
    """The words above the formation figure: what a dot and its bar are, and which models formed no such head."""
    never = formed.loc[formed["formed"] == 0, "model"].tolist()
    said = []
    if len(never) < len(formed):
        dot = f"A dot: the first measured step with a head over {threshold:g}, mean of the draws that reach it"
        bar = "the bar: from the snapshot before the first of them to the last of them"
        said.append(f"{dot} (how many of how many); {bar}. No finer than the snapshots.")
    if never:
        said.append(f"Never reached by {', '.join(never)}.")
    return " ".join(said)


def _div(figure: Any, i: int) -> str:
    """Figure `i` as HTML, the first with Plotly's own code. Data are escaped JSON: no tag in them ends the script."""
    below = {"orientation": "h", "yanchor": "top", "y": -0.2, "x": 0}
    figure.update_layout(template="plotly_white", margin={"l": 60, "r": 20, "t": 40, "b": 50}, legend=below)
    how = {"responsive": True, "displayModeBar": False}
    return figure.to_html(full_html=False, include_plotlyjs=i == 0, div_id=f"figure-{i}", config=how)


def _text(name: Any, most: int = 60) -> str:
    """A name escaped, because Plotly reads texts as HTML, and shortened in its middle to `most` characters."""
    text = str(name)
    return html.escape(text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}")


def _maps(go: Any, subplots: Any, heads: pd.DataFrame, score: str, links: Mapping[str, str]) -> Any:
    models = list(dict.fromkeys(heads["model"]))
    rows = math.ceil(len(models) / _COLUMNS)
    figure = subplots.make_subplots(
        rows=rows,
        cols=min(_COLUMNS, len(models)),
        subplot_titles=[_text(model, 26) for model in models],
        vertical_spacing=0.25 / rows,
    )
    for i, model in enumerate(models):
        table: Any = heads[heads["model"] == model].pivot(index="layer", columns="head", values="value")
        trace = go.Heatmap(
            z=table.to_numpy().tolist(),
            x=table.columns.tolist(),
            y=table.index.tolist(),
            coloraxis="coloraxis",
            hovertemplate="L%{y}H%{x}: %{z:.3f}<extra></extra>",
            customdata=[[f"L{layer}H{head}" for head in table.columns] for layer in table.index],
            meta=links.get(str(model)),
        )
        place = {"row": i // _COLUMNS + 1, "col": i % _COLUMNS + 1}
        figure.add_trace(trace, **place)
        n_layers, n_heads = table.shape  # whole layers and heads
        figure.update_yaxes(autorange="reversed", tick0=0, dtick=1 + (n_layers - 1) // 10, **place)
        figure.update_xaxes(tick0=0, dtick=1 + (n_heads - 1) // 10, **place)
    values = heads["value"].tolist()
    bounds = {"cmin": 0, "cmax": 1} if 0 <= min(values) and max(values) <= 1 else {}
    bar = {"title": {"text": _text(score)}}
    return figure.update_layout(height=80 + 260 * rows, coloraxis={"colorscale": "Cividis", "colorbar": bar, **bounds})


def _depth(
    go: Any, heads: pd.DataFrame, score: str, threshold: float, look: dict[str, str], links: Mapping[str, str]
) -> Any:
    figure = go.Figure()
    for model, of_model in heads.groupby("model"):
        names = [f"L{layer}H{head}" for layer, head in zip(of_model["layer"], of_model["head"], strict=True)]
        points = {"x": of_model["depth"].tolist(), "y": of_model["value"].tolist(), "text": names, "customdata": names}
        points["meta"] = links.get(str(model))
        dots = {"color": look[str(model)], "opacity": 0.7}
        figure.add_trace(go.Scatter(**points, mode="markers", name=_text(model), marker=dots))
    figure.add_hline(threshold, line={"color": "#888888", "dash": "dot", "width": 1})
    return figure.update_layout(xaxis_title="relative depth", yaxis_title=_text(score), showlegend=True)


def _size(go: Any, counts: pd.DataFrame, look: dict[str, str]) -> Any:
    figure = go.Figure()
    last = last_snapshots(counts)
    for model, of_model in last.groupby("model"):
        points = {"x": of_model["n_parameters"].tolist(), "y": of_model["count"].tolist()}
        points |= {"error_y": _bars(of_model, "count"), "marker": {"color": look[str(model)]}}
        figure.add_trace(go.Scatter(**points, mode="markers", name=_text(model)))
    figure.update_xaxes(type="log", title="parameters")
    return figure.update_layout(yaxis=_whole(last["highest"]), showlegend=True)


def _training(go: Any, counts: pd.DataFrame, look: dict[str, str]) -> Any:
    figure = go.Figure()
    known: Any = counts.dropna(subset=["step"])
    for model, of_model in known.groupby("model"):
        steps = of_model["step"].astype(int)
        points = {"x": (steps + 1).tolist(), "y": of_model["count"].tolist(), "error_y": _bars(of_model, "count")}
        texts = {"customdata": steps.tolist(), "hovertemplate": "step %{customdata}: %{y:g}"}
        line = {"color": look[str(model)]}
        figure.add_trace(go.Scatter(**points, **texts, mode="lines+markers", name=_text(model), line=line))
    figure.update_xaxes(type="log", title="step + 1", dtick=1)
    return figure.update_layout(yaxis=_whole(known["highest"]), showlegend=True)


def _whole(highest: Any) -> dict[str, Any]:
    """A y axis for counts of induction heads: from 0 to just above the largest, ticks at whole numbers."""
    most = max(1.0, float(highest.max()))
    return {"title": "induction heads", "range": [-0.04 * most, 1.08 * most], "tick0": 0, "dtick": 1 + int(most) // 8}


def _formation(go: Any, formed: pd.DataFrame) -> Any:
    """The step at which each model's induction heads form, with its range; None if none formed in any model."""
    known: Any = formed.dropna(subset=["step"])
    if known.empty:
        return None
    labels = [_text(f"{row['model']} ({row['formed']} of {row['seen']})") for row in known.to_dict("records")]
    after = known["after"].fillna(known["lowest"])
    bars = _bars(known.assign(lowest=after), "step")
    figure = go.Figure(go.Scatter(x=known["step"].tolist(), y=labels, error_x=bars, mode="markers"))
    figure.update_yaxes(automargin=True)
    return figure.update_layout(xaxis={"title": "step", "rangemode": "tozero"}, height=150 + 28 * len(known))


def _bars(table: pd.DataFrame, middle: str) -> dict[str, Any]:
    """Plotly's error bars from column `lowest` to column `highest` around column `middle`."""
    up, down = (table["highest"] - table[middle]).tolist(), (table[middle] - table["lowest"]).tolist()
    return {"type": "data", "array": up, "arrayminus": down}


def _numbers(counts: pd.DataFrame, formed: pd.DataFrame) -> list[list[str]]:
    header = ["model", "parameters", "snapshots", "induction heads at the end", "best head", "formed in", "first step"]
    steps: Any = {row["model"]: row for row in formed.to_dict("records")}
    table = [header]
    for last in last_snapshots(counts).sort_values("model").to_dict("records"):
        model, n_snapshots = last["model"], int((counts["model"] == last["model"]).sum())
        row = [str(model), f"{last['n_parameters']:,}", str(n_snapshots), f"{last['count']:g}", f"{last['best']:.3f}"]
        when = steps.get(model)
        row += ["–", "–"] if when is None else [f"{when['formed']} of {when['seen']}", _first_step(when)]
        table.append(row)
    return table


def _first_step(when: Any) -> str:
    """The steps between which induction heads form: the snapshot before the earliest draw, to that of the latest."""
    if not when["formed"]:
        return "–"
    if math.isnan(when["after"]):
        return f"{when['highest']:,.0f} or before"
    return f"{when['after']:,.0f} – {when['highest']:,.0f}"
