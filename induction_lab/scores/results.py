"""`HeadScores`: every head's scores with their uncertainty and where they come from; tidy tables; save and load."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from induction_lab.attention.grouped import by_group
from induction_lab.results.cards import html_card
from induction_lab.results.heads import Head, HeadLike, HeadList, is_head, parse_head
from induction_lab.results.saved import Loadable
from induction_lab.runtime.nearest import did_you_mean
from induction_lab.scores.registry import words
from induction_lab.scores.score import ScoreWords

if TYPE_CHECKING:
    import pandas as pd

DEFAULT = "prefix_matching"
REDUCTIONS = ("max", "mean", "min")
COLUMNS = ("value", "standard_error", "uniform", "p_value", "q_value")


@dataclass(frozen=True, repr=False)
class HeadScores(Loadable):
    """Scores of every head of a model.

    Attributes:
        model: The model's name.
        values: For each score a `[layer, head]` tensor: the mean over prompts. NaN in layers that do not attend.
        standard_errors: Of that mean, over prompts; NaN where one prompt alone has a value, 0 for scores of
            weights alone.
        uniform: What the score is by chance: where attention spreads evenly over all earlier positions, or, for scores
            of output circuits, where no token is preferred.
        p_values: One-sided chance that prompts without repeats score as high, where that was tested.
        q_values: The same after Benjamini and Hochberg's correction over all heads.
        loss_by_copy: Mean loss in nats on each copy of a repeated block, its first token left out.
        loss: Mean loss in nats at each predicted position.
        words: What each score says of itself; see `about`.
        provenance: Model, revision, prompts, seed, dtype, versions: what another lab needs to trust the numbers.
        uniform_by_layer: `uniform` of each layer, of scores where layers differ in what they can see (attention
            windows); `uniform` is then their mean.
    """

    model: str
    values: dict[str, Float[Tensor, "layer head"]]
    standard_errors: dict[str, Float[Tensor, "layer head"]]
    uniform: dict[str, float]
    p_values: dict[str, Float[Tensor, "layer head"]] = field(default_factory=dict)
    q_values: dict[str, Float[Tensor, "layer head"]] = field(default_factory=dict)
    loss_by_copy: list[float] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    words: dict[str, ScoreWords] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    uniform_by_layer: dict[str, Float[Tensor, " layer"]] = field(default_factory=dict)
    _WHAT, _COLUMNS = "head scores", ("model", "layer", "head", "score", "value")

    def __getitem__(self, which: str | tuple[int, ...]) -> Any:
        """One score of all heads, `[layer, head]`; or all scores of one head, `scores["L1H3"]`, by name.

        Raises:
            ValueError: If there is no such score and no such head.
        """
        return self._score(which) if isinstance(which, str) and not is_head(which) else self.of(which)

    def __repr__(self) -> str:
        """Model, shape and names."""
        return f"HeadScores({self.model!r}, {self.n_layers} layers x {self.n_heads} heads: {', '.join(self.scores)})"

    def _repr_html_(self) -> str:
        """The best three heads of each score, for notebooks."""
        rows = [
            (name, self.uniform[name], *(f"{head} {value:.3f}" for head, value in self.top(name, 3)))
            for name in self.scores
        ]
        loss = f"; loss by copy {', '.join(f'{x:.2f}' for x in self.loss_by_copy)} nats" if self.loss_by_copy else ""
        columns = ("score", "chance", "first", "second", "third")[: 2 + min(3, self.n_layers * self.n_heads)]
        facts = f"{self.n_layers} layers of {self.n_heads} heads{loss}"
        return html_card(f"Head scores of {self.model}", facts, columns, rows)

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(self.values)

    @property
    def n_layers(self) -> int:
        """Layers."""
        return next(iter(self.values.values())).shape[0]

    @property
    def layers(self) -> list[int]:
        """The layers that attend; all, but for hybrids with layers of other kinds. Tables leave the others out."""
        there = torch.stack([~value.isnan().all(1) for value in self.values.values()]).any(0)
        return there.nonzero().flatten().tolist()

    @property
    def n_heads(self) -> int:
        """Heads a layer."""
        return next(iter(self.values.values())).shape[1]

    def about(self, score: str) -> ScoreWords:
        """Title, definition, range, source and unit of a score."""
        return self.words.get(score) or words(score)

    def of(self, head: HeadLike) -> dict[str, float]:
        """All scores of one head."""
        layer, index = parse_head(head, n_layers=self.n_layers, n_heads=self.n_heads)
        return {name: float(value[layer, index]) for name, value in self.values.items()}

    @property
    def default_score(self) -> str:
        """The score that ranks heads where none is named, prefix matching or else the first of those measured."""
        return DEFAULT if DEFAULT in self.values else self.scores[0]

    def top(self, score: str | None = None, n: int = 10, *, lowest: bool = False) -> list[tuple[Head, float]]:
        """The `n` heads that score highest, best first; or lowest, lowest first, such as those that suppress.

        Args:
            score: By default `default_score`, as in `above` and `significant`.
            n: How many.
            lowest: Those that score lowest.

        Raises:
            ValueError: If there is no such score.
        """
        values = self._score(score)
        there = ~values.isnan()
        last = torch.inf if lowest else -torch.inf
        best = values.where(there, last).flatten().topk(min(n, int(there.sum())), largest=not lowest)
        heads = (Head(*divmod(int(i), values.shape[1])) for i in best.indices)
        return HeadList(zip(heads, best.values.tolist(), strict=True))

    def above(self, score: str | None = None, threshold: float | None = None) -> list[Head]:
        """Heads that score more than `threshold`, best first.

        Args:
            score: By default `default_score`.
            threshold: By default that from which on people speak of such a head: 0.4 of shares of attention, 0.1 of
                `retrieval`, 0.5 of `copy_suppression` and `successor`.

        Raises:
            ValueError: If there is no such score, or it wants a threshold of its own.
        """
        score = self.default_score if score is None else score
        values = self._score(score)
        threshold = self.threshold(score) if threshold is None else threshold
        if threshold is None:
            raise ValueError(f"Nobody says which {score} is high: say from which value on, above({score!r}, 0.5).")
        return HeadList(head for head, value in self.top(score, values.numel()) if value > threshold)

    def threshold(self, score: str) -> float | None:
        """From which value on people say that a head does what a score is about; None where nobody says one."""
        own = self.about(score).threshold
        return words(score).threshold if own is None else own  # files of old do not say it

    def significant(self, score: str | None = None, *, rate: float = 0.05) -> list[Head]:
        """Heads above chance, best first.

        That is above the prompts without repeats, at a false-discovery rate of `rate`, and above what uniform
        attention scores: heads that hardly look there at all can differ between the two sets of prompts as well.

        Raises:
            ValueError: If the score was not tested against chance.
        """
        score = score or self.default_score
        self._score(score)
        if score not in self.q_values:
            raise ValueError(
                f"{score} was not tested against chance: score_heads(..., chance_test=True); your own score needs "
                "`finds_repeats = True` as well, which says that prompts without repeats are its chance."
            )
        q_values = self.q_values[score]
        ranked = self.top(score, q_values.numel())
        chance = self._chance(score)
        return HeadList(head for head, value in ranked if q_values[head] <= rate and value > chance[head.layer])

    def by_kv_head(self, score: str, reduce: str = "max") -> Float[Tensor, "layer kv_head"]:
        """One number for each key-value head, from the query heads that read it.

        Args:
            score: Its name.
            reduce: `max`, `mean` or `min` of them.

        Raises:
            ValueError: If there is no such score or reduction, or the table does not say how many key-value heads the
                model has, or their number does not divide that of the heads.
        """
        found, n_kv_heads = self._score(score), self.provenance.get("n_kv_heads")
        if reduce not in REDUCTIONS:
            raise ValueError(f"`reduce` must be one of {', '.join(REDUCTIONS)}, got {reduce!r}.")
        if not isinstance(n_kv_heads, int) or n_kv_heads < 1 or self.n_heads % n_kv_heads:
            raise ValueError(
                f"These scores do not say how many key-value heads {self.model} has: score it again (score_heads)."
            )
        return getattr(by_group(found, n_kv_heads), f"a{reduce}" if reduce != "mean" else reduce)(-1)

    def _score(self, score: str | None) -> Float[Tensor, "layer head"]:
        score = self.default_score if score is None else score
        if not isinstance(score, str):
            raise ValueError(f"First the name of a score is wanted, {self.default_score!r} or another, got {score!r}.")
        if score not in self.values:
            raise ValueError(
                f"No score {score!r} here; there are {', '.join(self.values)}.{did_you_mean(score, self.values)}"
            )
        return self.values[score]

    def _chance(self, score: str) -> list[float]:
        """`uniform` of each layer."""
        by_layer = self.uniform_by_layer.get(score)
        return [self.uniform[score]] * self.n_layers if by_layer is None else by_layer.tolist()

    def to_dataframe(self) -> pd.DataFrame:
        """One row a layer, head and score."""
        import pandas as pd

        frames: list[pd.DataFrame] = []
        layer, head = (index.ravel() for index in np.meshgrid(self.layers, range(self.n_heads), indexing="ij"))
        for name, value in self.values.items():
            parts = {"value": value, "standard_error": self.standard_errors[name]}
            parts |= {"p_value": self.p_values.get(name), "q_value": self.q_values.get(name)}
            frames.append(
                pd.DataFrame(
                    {"model": self.model, "layer": layer, "head": head, "score": name}
                    | {"label": [str(Head(*pair)) for pair in zip(layer, head, strict=True)]}
                    | {key: np.nan if x is None else x.double().numpy()[layer, head] for key, x in parts.items()}
                    | {"uniform": np.array(self._chance(name))[layer]}
                )
            )
        first = ["model", "layer", "head", "label", "score"]
        return pd.concat(frames, ignore_index=True).reindex(columns=[*first, *COLUMNS])

    @classmethod
    def _from_table(cls, frame: pd.DataFrame, facts: dict[str, Any]) -> HeadScores:
        tables: dict[str, dict[str, Tensor]] = {column: {} for column in COLUMNS if column != "uniform"}
        uniform: dict[str, float] = {}
        by_layer: dict[str, Tensor] = {}
        layers = range(facts.get("n_layers", 1 + frame["layer"].max().item()))
        for name, rows in frame.groupby("score", sort=False):
            for column, table in tables.items():
                wide = rows.pivot(index="layer", columns="head", values=column) if column in rows else None
                wide = None if wide is None else wide.reindex(layers)
                if wide is not None and (column in ("value", "standard_error") or wide.notna().any(axis=None)):
                    table[str(name)] = torch.tensor(wide.to_numpy(dtype=np.float64)).float()
            uniform[str(name)] = float(rows["uniform"].iloc[0]) if "uniform" in rows else float("nan")
            if "uniform" in rows and len(set(rows["uniform"].dropna())) > 1:
                each = rows.groupby("layer")["uniform"].first().reindex(layers).to_numpy(dtype=np.float64)
                by_layer[str(name)] = torch.tensor(each).float()
                uniform[str(name)] = float(by_layer[str(name)].double().nanmean())
        blank = {name: torch.full_like(value, torch.nan) for name, value in tables["value"].items()}
        return cls(
            model=str(frame["model"].iloc[0]),
            values=tables["value"],
            standard_errors={**blank, **tables["standard_error"]},
            uniform=uniform,
            p_values=tables["p_value"],
            q_values=tables["q_value"],
            loss_by_copy=facts.get("loss_by_copy", []),
            loss=facts.get("loss", []),
            words={name: ScoreWords(**said) for name, said in facts.get("words", {}).items()},
            provenance=facts.get("provenance", {}),
            uniform_by_layer=by_layer,
        )

    def _facts(self) -> dict[str, Any]:
        said = {name: self.about(name)._asdict() for name in self.scores}
        hybrid = {"n_layers": self.n_layers} if len(self.layers) < self.n_layers else {}
        return {"loss_by_copy": self.loss_by_copy, "loss": self.loss, "words": said, **hybrid, **super()._facts()}


def compare_scores(first: HeadScores, second: HeadScores, score: str | None = None) -> pd.DataFrame:
    """One score of all heads in two measurements side by side: two checkpoints, two prompts, two precisions.

    >>> compare_scores(score_heads(model), score_heads(model, "some text"))                 # doctest: +SKIP

    Args:
        first: Scores of a model.
        second: Scores of a model with as many layers and heads.
        score: By default prefix matching, or the first that `first` has.

    Returns:
        One row a head, largest differences first: `label`, `layer`, `head`, `score`, `first`, `second`, their standard
        errors `first_error` and `second_error`, and `difference`, second minus first. Heads without both are left out.

    Raises:
        ValueError: If the models have other shapes, or one lacks the score.
    """
    import pandas as pd

    score = score or first.default_score
    shapes = [tuple(each[score].shape) for each in (first, second)]
    if shapes[0] != shapes[1]:
        sizes = (
            f"{each.model} has {shape[0]} layers of {shape[1]}"
            for each, shape in zip((first, second), shapes, strict=True)
        )
        raise ValueError(f"Heads are compared one by one: {', '.join(sizes)}.")
    layer, head = (index.ravel() for index in np.indices(shapes[0]))
    columns = {
        name: part.double().numpy().ravel()
        for which, each in (("first", first), ("second", second))
        for name, part in ((which, each[score]), (f"{which}_error", each.standard_errors[score]))
    }
    labels = [str(Head(*pair)) for pair in zip(layer.tolist(), head.tolist(), strict=True)]
    found = pd.DataFrame({"label": labels, "layer": layer, "head": head, "score": score} | columns)
    found["difference"] = found["second"] - found["first"]
    return found.dropna(subset="difference").sort_values("difference", key=abs, ascending=False, ignore_index=True)
