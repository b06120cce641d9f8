"""The atlas of a sweep: one HTML page that works offline, drawn with Plotly from what `load_sweep` gives."""

from __future__ import annotations

import html
import math
from pathlib import Path
from typing import Any

import pandas as pd

from induction_lab.extras import library
from induction_lab.heads import LOOKS
from induction_lab.sweep_tables import formation, head_map, induction_counts
from induction_lab.tables import writing

_COLUMNS = 4
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse } th, td { text-align: right; padding: .2em .8em; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ n_cells }} cells of {{ n_models }} models. Score: {{ score }}; a head counts from {{ threshold }} on.
Means over prompts and seeds; bars reach from the lowest to the highest of them.</p>
{% for heading, words, figure in figures %}
<h2>{{ heading }}</h2><p>{{ words }}</p>
{{ figure | safe }}
{% endfor %}
<h2>In numbers</h2>
<table><tr>{% for name in table[0] %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table[1:] %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
</body></html>
"""


def write_atlas(
    frame: pd.DataFrame,
    path: str | Path,
    *,
    score: str = "prefix_matching",
    threshold: float = LOOKS,
    title: str = "Induction heads across models",
) -> Path:
    """Draw the head map of each model, score against depth, induction heads against size and step, when they form.

    Args:
        frame: What `load_sweep` gives.
        path: The page, `.html`.
        score: Of heads.
        threshold: From where on a head counts as an induction head.
        title: Of the page.

    Raises:
        ValueError: If the score was not measured, Plotly or Jinja is not installed, or the page cannot be written.
    """
    path = Path(path)
    if path.suffix != ".html":
        raise ValueError(f"The atlas is a page, .html, got {path.name!r}.")
    jinja2, go, subplots = (
        library(name, extra="report") for name in ("jinja2", "plotly.graph_objects", "plotly.subplots")
    )
    heads, counts = head_map(frame, score), induction_counts(frame, score, threshold=threshold)
    formed = formation(frame, score, threshold=threshold)
    drawn = [
        ("Every head", "Layers down, heads across; each model's last snapshot.", _maps(go, subplots, heads, score)),
        ("Against depth", "Each dot a head; 0 is the first layer, 1 the last.", _depth(go, heads, score)),
        ("Against size", "Induction heads of the last snapshots.", _size(go, counts)),
    ]
    if len(formed):
        drawn.append(("Over training", "Induction heads at each snapshot.", _training(go, counts)))
        drawn.append(("When they form", f"First measured step with a head over {threshold:g}.", _formation(go, formed)))
    template = jinja2.Environment(autoescape=True).from_string(_PAGE)
    page = template.render(
        title=title,
        n_cells=frame["cell"].nunique(),
        n_models=frame["model"].nunique(),
        score=score,
        threshold=f"{threshold:g}",
        figures=[(heading, words, _div(figure, i)) for i, (heading, words, figure) in enumerate(drawn)],
        table=_numbers(counts, formed),
    )
    with writing(path) as part:
        part.write_text(page, encoding="utf-8")
    return path


def _div(figure: Any, i: int) -> str:
    """A figure as HTML, the first with Plotly itself. Data go in as JSON in which no tag can end the script."""
    figure.update_layout(template="plotly_white", margin={"l": 60, "r": 20, "t": 40, "b": 50})
    return figure.to_html(full_html=False, include_plotlyjs=i == 0, div_id=f"figure-{i}")


def _text(name: Any) -> str:
    """A name as Plotly shows it letter by letter: its texts are read as HTML."""
    return html.escape(str(name))


def _maps(go: Any, subplots: Any, heads: pd.DataFrame, score: str) -> Any:
    models = list(dict.fromkeys(heads["model"]))
    rows = math.ceil(len(models) / _COLUMNS)
    figure = subplots.make_subplots(
        rows=rows,
        cols=min(_COLUMNS, len(models)),
        subplot_titles=[_text(model) for model in models],
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
        )
        figure.add_trace(trace, row=i // _COLUMNS + 1, col=i % _COLUMNS + 1)
    last: Any = heads[["layer", "head"]].max()
    figure.update_yaxes(autorange="reversed", tick0=0, dtick=1 + last["layer"] // 10)  # whole layers and heads
    figure.update_xaxes(tick0=0, dtick=1 + last["head"] // 10)
    values = heads["value"].tolist()
    bounds = {"cmin": 0, "cmax": 1} if 0 <= min(values) and max(values) <= 1 else {}
    bar = {"title": {"text": _text(score)}}
    return figure.update_layout(height=80 + 260 * rows, coloraxis={"colorscale": "Viridis", "colorbar": bar, **bounds})


def _depth(go: Any, heads: pd.DataFrame, score: str) -> Any:
    figure = go.Figure()
    for model, of_model in heads.groupby("model"):
        names = [f"L{layer}H{head}" for layer, head in zip(of_model["layer"], of_model["head"], strict=True)]
        points = {"x": of_model["depth"].tolist(), "y": of_model["value"].tolist(), "text": names}
        figure.add_trace(go.Scatter(**points, mode="markers", name=_text(model), opacity=0.7))
    return figure.update_layout(xaxis_title="relative depth", yaxis_title=_text(score), showlegend=True)


def _size(go: Any, counts: pd.DataFrame) -> Any:
    figure = go.Figure()
    for model, of_model in counts.groupby("model"):
        last = of_model.tail(1)
        points = {"x": last["n_parameters"].tolist(), "y": last["count"].tolist(), "error_y": _bars(last, "count")}
        figure.add_trace(go.Scatter(**points, mode="markers", name=_text(model)))
    figure.update_xaxes(type="log", title="parameters")
    return figure.update_layout(yaxis_title="induction heads", showlegend=True)


def _training(go: Any, counts: pd.DataFrame) -> Any:
    figure = go.Figure()
    for model, of_model in counts.dropna(subset=["step"]).groupby("model"):
        points = {"x": of_model["step"].tolist(), "y": of_model["count"].tolist(), "error_y": _bars(of_model, "count")}
        figure.add_trace(go.Scatter(**points, mode="lines+markers", name=_text(model)))
    return figure.update_layout(xaxis_title="step", yaxis_title="induction heads", showlegend=True)


def _formation(go: Any, formed: pd.DataFrame) -> Any:
    known: Any = formed.dropna(subset=["step"])
    labels = [_text(f"{row['model']} ({row['formed']} of {row['seen']})") for row in known.to_dict("records")]
    points = {"x": known["step"].tolist(), "y": labels, "error_x": _bars(known, "step")}
    figure = go.Figure(go.Scatter(**points, mode="markers"))
    return figure.update_layout(xaxis_title="step", height=150 + 28 * len(known))


def _bars(table: pd.DataFrame, middle: str) -> dict[str, Any]:
    up, down = (table["highest"] - table[middle]).tolist(), (table[middle] - table["lowest"]).tolist()
    return {"type": "data", "array": up, "arrayminus": down}


def _numbers(counts: pd.DataFrame, formed: pd.DataFrame) -> list[list[str]]:
    header = ["model", "parameters", "snapshots", "induction heads at the end", "best head", "first step", "± s.e."]
    steps: Any = {row["model"]: row for row in formed.to_dict("records") if row["formed"]}
    table = [header]
    for model, of_model in counts.groupby("model"):
        last = of_model.iloc[-1]
        row = [str(model), f"{last['n_parameters']:,}", str(len(of_model)), f"{last['count']:g}", f"{last['best']:.3f}"]
        when = steps.get(model)
        row += ["–", "–"] if when is None else [f"{when['step']:,.0f}", _number(when)]
        table.append(row)
    return table


def _number(when: Any) -> str:
    return "–" if math.isnan(when["standard_error"]) else f"{when['standard_error']:,.1f}"
