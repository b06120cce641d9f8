"""`write_report`: one self-contained HTML file in which a person explores what was found in a model, or in several."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from induction_lab.circuits.explaining import explain
from induction_lab.circuits.explanation import Explanation
from induction_lab.data.prompts import repeated_tokens
from induction_lab.data.vocabulary import default_period
from induction_lab.development.following import follow_training
from induction_lab.development.trajectory import Trajectory
from induction_lab.internals.side_by_side import refuse_on_disk
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import as_model
from induction_lab.pages.html import FOLDER, as_script, check_libraries, check_page, page
from induction_lab.pages.live.in_page import live_data
from induction_lab.pages.live.page import live_script
from induction_lab.pages.panel_measurements import TEXT, ReportPlan, measure
from induction_lab.results.tables import writing
from induction_lab.runtime.progress import progress_bar
from induction_lab.scores.registry import SCORES
from induction_lab.scores.score import Score
from induction_lab.training.checkpoints import Checkpoints

Shown = HookedModel | Checkpoints
Named = Shown | str | Path


def write_report(
    models: Named | Iterable[Named],
    path: str | Path,
    *,
    period: int | None = None,
    n_prompts: int = 16,
    seed: int = 0,
    text: str | None = None,
    all_heads: bool = False,
    all_kinds: bool = False,
    ablate: bool = True,
    scores: Sequence[str | Score] = (),
    with_explanation: bool = False,
    explanations: Mapping[str, Explanation] | None = None,
    trajectories: Mapping[str, Trajectory] | None = None,
    command: str | None = None,
    progress: bool = False,
) -> Path:
    """Measure one model or several and write a page to explore them, side by side if they are several.

    >>> write_report(load_model(), "report.html")                                     # doctest: +SKIP
    >>> write_report([load_model("gpt2"), Run("runs/minute")], "both.html")             # doctest: +SKIP

    Args:
        models: Models, or their names; or training (`Run`, `Revisions`, `CheckpointFolder`), of which the last
            checkpoint is shown and all the others with a slider.
        path: The file, `.html`. Nothing else is needed to open it.
        period: Tokens of the repeated block that heads are scored on; by default 50, fewer where a model has no room.
        n_prompts: How many prompts of such blocks the scores are means over.
        seed: Seed of the random tokens.
        text: Text on which heads are shown, its first 64 tokens; by default a short story that comes with the library.
        all_heads: Show every head's patterns; by default those of the 24 most worth it.
        all_kinds: Look for all kinds of heads (`classify_heads`); by default for those that take little, see
            `QUICK_KINDS` in `pages/panel_measurements.py`.
        ablate: Ablate each head that is shown in full.
        scores: Scores of your own (`Score`), shown beside all that there are.
        with_explanation: Also `explain` each model: causes by ablation and path patching, which takes long.
        explanations: Finished ones by model name, shown in place of that.
        trajectories: Finished measurements of training by run name, shown in place of measuring the checkpoints.
        command: Command line that writes the page again, which the page states; by default one made of the models'
            names and the file's.
        progress: Progress bars on standard error.

    Raises:
        ValueError: If plotly or jinja2 is not installed, the file is not called `.html` or cannot be written, there is
            no model, all kinds are asked for on one prompt, the prompts do not fit a model, or an explanation or
            trajectory is of another model.
    """
    path = check_page(path, "A report is an .html file")
    if all_kinds and n_prompts < 2:
        raise ValueError(f"Kinds of heads are tested over prompts: with all kinds give 2 or more, got {n_prompts}.")
    check_libraries()
    given = [models] if isinstance(models, HookedModel | Checkpoints | str | Path) else list(models)
    several = [each if isinstance(each, Checkpoints) else as_model(each) for each in given]
    if not several:
        raise ValueError("At least one model is wanted, got none.")
    explained, followed = dict(explanations or {}), dict(trajectories or {})
    _check_names(several, {"an explanation": explained, "a trajectory": followed})
    loaded = [_last(shown) for shown in several]
    for model in loaded:
        refuse_on_disk(model, "A report", 10 + model.n_layers)
    if period is None:
        period = min(default_period(model, distinct=n_prompts > 1)[0] for model in loaded)
    text = TEXT if text is None else text
    plan = ReportPlan(period, n_prompts, seed, text, all_heads, ablate, tuple(scores), all_kinds)
    subjects = []
    for shown, model, label in zip(several, loaded, labels(several), strict=True):
        trajectory, explanation = followed.get(str(shown.name)), explained.get(str(shown.name))
        _check_shape(model, explanation, trajectory)
        if trajectory is None and not isinstance(shown, HookedModel):
            trajectory = follow_training(shown, scores=[*SCORES, *scores], probes=(), progress=progress)
        if explanation is None and with_explanation:
            prompts = repeated_tokens(model, n_prompts=max(2, min(8, n_prompts)), period=period, seed=seed)
            explanation = explain(model, prompts, seed=seed, progress=progress)
        with progress_bar(len(plan.attempts), f"measuring {label}", shown=progress) as tick:
            found = {"label": label, "explanation": explanation, "trajectory": trajectory, "tick": tick}
            subjects.append(measure(model, plan, **found))
    title = "Induction heads in " + " and ".join(subject.label for subject in subjects)
    small = live_data({subject.label: model for subject, model in zip(subjects, loaded, strict=True)})
    text_of_page = page(subjects, title=title, command=command or _call(several, path), live=_panel(small))
    with writing(path) as part:
        part.write_text(text_of_page, encoding="utf-8")
    return path


def _panel(data: dict[str, Any] | None) -> dict[str, str] | None:
    """The panel on which models answer that the page runs itself; None where it can run none."""
    if data is None:
        return None
    style = (FOLDER / "live.css").read_text(encoding="utf-8")
    return {"data": as_script(data), "script": live_script(), "style": style}


def labels(models: Sequence[Shown]) -> list[str]:
    """A label for each model: its name, with its revision or a number where several have the same name."""
    names = [str(model.name) for model in models]
    revised = [
        f"{name} {model.revision}"
        if names.count(name) > 1 and isinstance(model, HookedModel) and model.revision
        else name
        for name, model in zip(names, models, strict=True)
    ]
    return [
        f"{name} ({revised[: i + 1].count(name)})" if revised.count(name) > 1 else name
        for i, name in enumerate(revised)
    ]


def _last(shown: Shown) -> HookedModel:
    """The model itself, or as it was at the last checkpoint."""
    if isinstance(shown, HookedModel):
        return shown
    if not shown.steps:
        raise ValueError(f"{shown.name} has no checkpoint yet.")
    return shown.model(max(shown.steps))


def _check_names(models: Sequence[Shown], given: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse results (by kind, then by model name) of models that the report is not on."""
    names = {str(model.name) for model in models}
    for what, found in given.items():
        other = sorted(set(found) - names)
        if other:
            raise ValueError(f"There is {what} of {', '.join(other)}; the report is on {', '.join(sorted(names))}.")


def _check_shape(model: HookedModel, explanation: Explanation | None, trajectory: Trajectory | None) -> None:
    shape = (model.n_layers, model.n_heads)
    if explanation is not None and (explanation.n_layers, explanation.n_heads) != shape:
        there = f"{explanation.n_layers} layers of {explanation.n_heads} heads"
        raise ValueError(
            f"The explanation is of another {model.name}: it has {there}, the model {shape[0]} of {shape[1]}."
        )
    if trajectory is not None and "prefix_matching" in trajectory.metrics:
        there = tuple(trajectory.heads("prefix_matching").shape[1:])
        if there != shape:
            raise ValueError(
                f"The trajectory is of another {model.name}: [layer, head] is {there}, the model's {shape}."
            )


def _call(models: Sequence[Shown], path: Path) -> str:
    names = " ".join(str(model.name) for model in models)
    return f"induction-lab report {names} -o {path.name}"
