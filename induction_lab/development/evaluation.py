"""What is measured of a model at one checkpoint, and on what; the same at every checkpoint of a run.

By the column `prompts` of the table:

    each named prompts   every head score (`score_heads`), and `loss_by_copy` (index: copy 1, 2, …)
    distinct 25          `copying`, which has prompts of its own
    texts                `loss` in nats and `loss_derivative` (index: of the token, BOS is 0), `mean_loss`, `icl_score`,
                         and `token_loss`, one fixed random token of each text (index: of the text), for `loss_paths`
    weights              `ov_copying` and the probes (`induction_lab.weights.probes_over_training`)
    kinds                where asked for, which heads are of which kinds (`induction_lab.development.kinds`)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from induction_lab.behaviour.losses import loss_derivative, losses_on
from induction_lab.behaviour.metrics import Metric, icl_score
from induction_lab.data.prompts import Prompts, ordinary_tokens, repeated_tokens
from induction_lab.development.kinds import ON, measure_kinds
from induction_lab.development.rows import Rows
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.provenance import DEFINITIONS_VERSION, about_prompts
from induction_lab.results.statistics import error_where_known
from induction_lab.scores.planning import ScorePlan, plan_scores
from induction_lab.scores.registry import SCORES, find_scores
from induction_lab.scores.score import Score
from induction_lab.scores.scoring import run_plan, score_heads
from induction_lab.weights.folded import FoldedWeights
from induction_lab.weights.probes_over_training import PROBES, weight_probes

_RESERVED = {score.measured_on for score in SCORES.values() if score.measured_on} | {"weights", "texts", ON}


def default_prompts(model: HookedModel) -> dict[str, Prompts]:
    """16 blocks of 20 random tokens written twice, back to back and with 9 other tokens between: shorter where need be.

    The gap is one that models trained on tiled blocks have not seen: no fixed distance finds the copy.

    Raises:
        ValueError: If context or vocabulary are too small for two copies of two tokens and a gap.
    """
    room, kinds = (model.n_ctx or 1024) - 1, len(ordinary_tokens(model))
    gap = min(9, room // 4, kinds // 3)
    period = min(20, (room - gap) // 2, kinds - gap)
    if period < 2 or gap < 1:
        raise ValueError(
            f"{model.name} has room for no repeated prompts (context {model.n_ctx}, vocabulary {model.d_vocab}). "
            "Give some of your own: prompts={'mine': tokens}."
        )
    return {
        f"period {period}": repeated_tokens(model, period=period),
        f"gap {gap}": repeated_tokens(model, period=period, gap=gap),
    }


@dataclass(frozen=True)
class TextLosses:
    """Texts, and what is read off a model's losses on them.

    Attributes:
        prompts: The texts.
        icl: Which tokens `icl_score` compares.
        weights: The same as weights of the losses.
        positions: Index of the token of each of the first texts whose loss is kept.
        seed: Of that choice.
    """

    prompts: Prompts
    icl: Metric
    weights: Float[Tensor, "text predicted"]
    positions: Int[Tensor, " chosen"]
    seed: int

    @classmethod
    def of(
        cls,
        texts: Prompts,
        *,
        early: int | None = None,
        late: int | None = None,
        window: int | None = None,
        n_token_losses: int | None = None,
        seed: int = 0,
    ) -> TextLosses:
        """Choose the tokens; see `follow_training`.

        Raises:
            ValueError: If there are fewer texts than losses asked for, or they are too short for the indices.
        """
        n = len(texts) if n_token_losses is None else n_token_losses
        if not 0 <= n <= len(texts):
            raise ValueError(f"`n_token_losses` must lie in 0 … {len(texts)}, the number of texts, got {n}.")
        n_tokens = texts.tokens.shape[1]
        usual = (50, 500, 0) if n_tokens > 500 else (max(1, n_tokens // 8), n_tokens * 7 // 8, n_tokens // 16)
        if window is None:
            window = usual[2] if early is None and late is None else 0
        icl = icl_score(usual[0] if early is None else early, usual[1] if late is None else late, window=window)
        drawn = torch.rand(len(texts), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        positions = (1 + drawn * (texts.real_lengths - 1)).long()[:n]
        return cls(texts, icl, icl.weights(texts)[:, :-1], positions, seed)

    def facts(self) -> dict[str, Any]:
        """What another lab needs to read the same losses."""
        kept = {"n_token_losses": len(self.positions), "seed": self.seed}
        return {**about_prompts(self.prompts), "icl_score": self.icl.name, **kept}

    def measure(self, model: HookedModel, rows: Rows) -> None:
        """Add a model's losses."""
        losses = losses_on(model, self.prompts).double()
        by_index, index = losses.nanmean(0), torch.arange(1, losses.shape[1] + 1)
        rows.add_indexed("texts", "loss", index, by_index, error_where_known(losses))
        rows.add_indexed("texts", "loss_derivative", index, loss_derivative(by_index))
        by_text = losses.nanmean(1, keepdim=True)
        rows.add_one("texts", "mean_loss", float(by_text.nanmean()), float(error_where_known(by_text)))
        long = self.weights.any(1)
        change = (losses.nan_to_num(0.0) * self.weights).sum(1, keepdim=True)[long]
        rows.add_one("texts", "icl_score", float(change.mean()), float(error_where_known(change)))
        if len(self.positions):
            text = torch.arange(len(self.positions))
            rows.add_indexed("texts", "token_loss", text, losses[text, self.positions - 1])


@dataclass(frozen=True)
class Evaluation:
    """What is measured at each checkpoint.

    Attributes:
        prompts: Named prompts to score the heads on.
        texts: Texts to measure losses on.
        scores: Names from `SCORES`, and scores of your own.
        probes: Names from `PROBES`.
        kinds: Names of kinds of heads.

    Raises:
        ValueError: If a score or probe is unknown, or prompts are called what other rows are.
    """

    prompts: dict[str, Prompts]
    texts: TextLosses | None = None
    scores: Sequence[str | Score] = tuple(SCORES)
    probes: Sequence[str] = PROBES
    kinds: Sequence[str] = ()
    _scores: dict[str, Score] = field(default_factory=dict, init=False, repr=False, compare=False)
    _plans: dict[str, ScorePlan] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse names that are none."""
        self._scores.update(find_scores(self.scores) if self.scores else {})
        probes = [self.probes] if isinstance(self.probes, str) else self.probes
        unknown = [name for name in probes if name not in PROBES or probes is not self.probes]
        if unknown:
            raise ValueError(f"Unknown probes {unknown}; there are {', '.join(PROBES)}.")
        reserved = _RESERVED | {score.measured_on for score in self._scores.values()}
        taken = [name for name in self.prompts if name in reserved]
        if taken:
            raise ValueError(f"Prompts may not be called {taken}: other rows are. Choose other names.")

    def facts(self) -> dict[str, Any]:
        """What another lab needs to measure the same."""
        own = {name: score.words._asdict() for name, score in self._scores.items() if name not in SCORES}
        return {
            "definitions": DEFINITIONS_VERSION,
            "prompts": {name: about_prompts(prompts) for name, prompts in self.prompts.items()},
            "texts": None if self.texts is None else self.texts.facts(),
            "scores": list(self._scores),
            "probes": list(self.probes),
            "kinds": list(self.kinds) or None,
            **({"words": own} if own else {}),
        }

    def measure(self, model: HookedModel, rows: Rows) -> Rows:
        """Add all measurements of a model; what it does not allow, or is not finite, goes to `rows.left_out`."""
        if not all(bool(parameter.isfinite().all()) for parameter in model.network.parameters()):
            rows.left_out["everything"] = "its weights are not finite"
        else:
            with FoldedWeights(model).shared():
                self._measured(model, rows)
        return rows

    def _measured(self, model: HookedModel, rows: Rows) -> None:
        previous = None
        for i, (name, prompts) in enumerate(self.prompts.items()):
            asked = [score for score in self._scores.values() if i == 0 or not score.measured_on]
            found = self._scored(model, name, prompts, asked, rows) if asked else {}
            previous = found.get("previous_token") if i == 0 else previous
        if self.texts is not None:
            self.texts.measure(model, rows)
        if self.probes:
            self._probed(model, previous, rows)
        if self.kinds:
            measure_kinds(model, self.kinds, rows)

    def _scored(
        self, model: HookedModel, name: str, prompts: Prompts, asked: list[Score], rows: Rows
    ) -> dict[str, Float[Tensor, "layer head"]]:
        """Head scores on one set of prompts; what can be had is the architecture's, so it is planned once."""
        if name not in self._plans:
            self._plans[name] = plan_scores(model, prompts, asked)
        plan = self._plans[name]
        rows.left_out |= {f"{score} on {name}": why for score, why in plan.left_out.items()}
        if not plan.scores:
            return {}
        found = run_plan(model, plan)
        for score in plan.scores.values():
            rows.add_heads(score.measured_on or name, score.name, found[score.name], found.standard_errors[score.name])
        if found.loss_by_copy:
            copies = torch.arange(1, len(found.loss_by_copy) + 1)
            rows.add_indexed(name, "loss_by_copy", copies, torch.tensor(found.loss_by_copy, dtype=torch.float32))
        return found.values

    def _probed(self, model: HookedModel, previous: Float[Tensor, "layer head"] | None, rows: Rows) -> None:
        first = next(iter(self.prompts.values()), None)
        if previous is None and first is not None:
            with suppress(ValueError):  # prompts that are too short to tell
                previous = score_heads(model, first, scores=["previous_token"], loss=False)["previous_token"]
        distance = 0 if first is None or first.period is None else first.period + first.gap - 1
        probed = weight_probes(model, self.probes, previous_token=previous, offset=distance)
        for name, values in probed.values.items():
            rows.add_heads("weights", name, values, probed.errors[name])
        rows.left_out |= probed.left_out
