"""`follow_training`: measure every checkpoint of a training run alike, and go on where it was left off.

Prompts, their order and the tokens asked about are the same at every checkpoint, so that differences are the model's.
What is measured: see `induction_lab.development.evaluation`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from induction_lab.circuits.kinds import check_kinds, find_kinds
from induction_lab.data.prompts import PromptsLike, as_prompts
from induction_lab.development.evaluation import Evaluation, TextLosses, default_prompts
from induction_lab.development.rows import Rows, empty_table
from induction_lab.development.trajectory import Trajectory
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.provenance import versions, weights_sha256
from induction_lab.results.tables import check_suffix
from induction_lab.runtime.progress import progress_bar
from induction_lab.scores.registry import SCORES
from induction_lab.scores.score import Score
from induction_lab.training.checkpoints import Checkpoints, steps_in_words
from induction_lab.weights.probes_over_training import PROBES


def follow_training(
    checkpoints: Checkpoints,
    *,
    prompts: Mapping[str, PromptsLike] | None = None,
    texts: PromptsLike | None = None,
    scores: Sequence[str | Score] = tuple(SCORES),
    probes: Sequence[str] = PROBES,
    kinds: str | Sequence[str] = (),
    early: int | None = None,
    late: int | None = None,
    window: int | None = None,
    n_token_losses: int | None = None,
    seed: int = 0,
    steps: Sequence[int] | None = None,
    path: str | Path | None = None,
    progress: bool = False,
) -> Trajectory:
    """Measure the checkpoints of a run.

    >>> pythia = Revisions("EleutherAI/pythia-70m", [0, 512, 1000, 2000, 143000])     # doctest: +SKIP
    >>> follow_training(pythia, path="pythia.parquet").best("prefix_matching")        # doctest: +SKIP

    Args:
        checkpoints: A training run, `Revisions`, or a `CheckpointFolder`.
        prompts: Named prompts to score the heads on; by default `default_prompts`. The first are those whose
            `previous_token` scores and distance the probes use.
        texts: Held-out text, or what the run's own data look like; without it there are no losses but by copy.
        scores: Names from `SCORES`, and scores of your own (`Score`); those that a model or prompts do not have are
            left out, with the reason.
        probes: Names from `PROBES`, the same; none: ().
        kinds: Kinds of heads, names from `circuits.kinds.KINDS`, with prompts of their own (`classify_heads`). Some
            are slow: those known by what changing a head does want a forward pass a head and prompt. See
            `kinds_over_training` and `order_of_kinds`.
        early: Index of `icl_score`'s early token. By default Olsson's 50 and 500 on texts of more than 500 tokens,
            on shorter ones n // 8 and 7 n // 8, each the mean over n // 16 tokens on either side.
        late: Index of the late token.
        window: Tokens on either side; 0 unless early and late are left to the default.
        n_token_losses: One `token_loss` from each of the first so many texts; of all by default.
        seed: Of the choice of those tokens.
        steps: Which checkpoints; all by default.
        path: Where to keep the table (`.parquet`, `.csv`, `.json`). It is written after every checkpoint, and steps
            that it holds are not measured again; the whole of it is returned.
        progress: A progress bar on standard error.

    Raises:
        ValueError: If a step, score, probe or kind is unknown, no kind can be had, texts are too short for the indices,
            a checkpoint cannot be loaded, or the file holds another run or other settings.
    """
    kinds = [kind.name for kind in find_kinds(kinds)] if kinds else ()
    wanted = _wanted(checkpoints, steps)
    path = None if path is None else Path(path)
    before = _before(path)
    done = set(before.steps).union(*_left_out(before).values())
    missing = [step for step in wanted if step not in done]
    at_hand = ([step for step in before.steps if step in checkpoints.steps] or missing or wanted)[0]
    model = checkpoints.model(at_hand)  # done before, or the first to do; its vocabulary makes the prompts
    named = default_prompts(model) if prompts is None else {n: as_prompts(model, p) for n, p in prompts.items()}
    choice = {"early": early, "late": late, "window": window, "n_token_losses": n_token_losses, "seed": seed}
    losses = None if texts is None else TextLosses.of(as_prompts(model, texts), **choice)
    if kinds:
        check_kinds(model, kinds)
    evaluation = Evaluation(named, losses, scores, probes, kinds)
    facts = {"run": checkpoints.name, **about_model(model), **evaluation.facts()}
    check_same(before, facts, model, at_hand, path)
    result = before if done else Trajectory(before.table, facts)
    with progress_bar(len(missing), "following the training", shown=progress) as tick:
        for step in missing:
            model = model if step == at_hand else checkpoints.model(step)
            rows = evaluation.measure(model, Rows(checkpoints.name, step))
            result = with_checkpoint(result, rows, model)
            if path is not None and not result.table.empty:
                result.save(path)
            tick(1)
    return result


def _wanted(checkpoints: Checkpoints, steps: Sequence[int] | None) -> list[int]:
    there = sorted(checkpoints.steps)
    wanted = there if steps is None else sorted(set(steps))
    unknown = [step for step in wanted if step not in there]
    if unknown or not wanted:
        raise ValueError(
            f"{checkpoints.name} has the checkpoints {steps_in_words(there) or 'none'}; "
            f"asked for {steps_in_words(unknown) or 'none'}."
        )
    return wanted


def _before(path: Path | None) -> Trajectory:
    """What the file holds; nothing if there is none yet."""
    if path is not None:
        check_suffix(path)
    return Trajectory(empty_table()) if path is None or not path.is_file() else Trajectory.load(path)


def _left_out(trajectory: Trajectory) -> dict[str, list[int]]:
    return trajectory.provenance.get("left_out", {})


def about_model(model: HookedModel) -> dict[str, Any]:
    """The shape of a model, its number type and the versions that measure it."""
    names = ("n_layers", "n_heads", "d_model", "d_head", "d_vocab", "n_ctx")
    facts = {name: getattr(model, name) for name in names} | {"dtype": str(model.dtype).removeprefix("torch.")}
    return {"model": facts, "versions": versions()}


def check_same(before: Trajectory, facts: dict[str, Any], model: HookedModel, step: int, path: Path | None) -> None:
    """Refuse to go on with a table of something else."""
    if before.table.empty:
        return
    now = json.loads(json.dumps(facts))
    other = [name for name in now if name != "versions" and before.provenance.get(name) != now[name]]
    recorded = before.provenance.get("weights_sha256", {}).get(str(step))
    if not other and recorded not in (None, weights_sha256(model)):
        other = [f"weights at step {step}"]
    if other:
        there, asked = _apart(before.provenance.get(other[0]), now.get(other[0], "others"))
        raise ValueError(
            f"{path} was made with other {', '.join(other)}: {there:.60} there, {asked:.60} asked for. Give another "
            "path, or ask for the same."
        )


def _apart(one: Any, other: Any) -> tuple[str, str]:
    """Two values as text; of two tables of facts the first that is not the same."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in [name for name in (*one, *other) if one.get(name) != other.get(name)][:1]:
            return f"{name} {one.get(name)}", f"{name} {other.get(name)}"
    return str(one), str(other)


def with_checkpoint(trajectory: Trajectory, rows: Rows, model: HookedModel) -> Trajectory:
    """The trajectory with one checkpoint more."""
    table = pd.concat([part for part in (trajectory.table, rows.table()) if not part.empty] or [trajectory.table])
    facts = dict(trajectory.provenance)
    for fact, value in (("weights_sha256", weights_sha256(model)), ("revisions", model.revision)):
        facts[fact] = {**facts.get(fact, {}), str(rows.step): value}
    left_out = {what: list(steps) for what, steps in _left_out(trajectory).items()}
    for what, why in rows.left_out.items():
        left_out.setdefault(f"{what}: {why}", []).append(rows.step)
    facts["left_out"] = left_out
    return Trajectory(table.sort_values("step", kind="stable", ignore_index=True), facts)
