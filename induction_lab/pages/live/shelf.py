"""The models that one page can ask, loaded when they are first asked, the least used one forgotten."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from induction_lab.models.attention_only.by_hand import induction_circuit
from induction_lab.models.hooked_model import HookedModel
from induction_lab.models.loading import load_model
from induction_lab.models.named_models import BUNDLED
from induction_lab.pages.live.answers import LiveModel
from induction_lab.pages.live.worker import Job
from induction_lab.training.checkpoints import CheckpointFolder, Checkpoints, Revisions, open_by_name
from induction_lab.training.runs import FORMING, Run

BY_HAND = "by-hand"
KEPT = 3  # models in memory besides those that were handed over
LASTING = ("facts", "kinds")  # answers that are kept: a dropped question would have to be begun again
Explored = HookedModel | Checkpoints | str


class Shelf:
    """Models by the name that the page shows.

    Attributes:
        first: Which is shown first.
        checkpoints: By run, steps and the names of the models there.
        reading_text: Those that are known to read text.

    Args:
        given: Models, and training runs, each of whose checkpoints is one. The first (of a run: its last checkpoint) is
            shown first. The bundled model, the hand-built circuit and, where there is no other, the bundled run are
            always there, for the guided tours.
    """

    def __init__(self, given: Iterable[HookedModel | Checkpoints]) -> None:
        """Nothing is loaded that was not handed over."""
        self._makers: dict[str, Callable[[], LiveModel]] = {}
        self._kept: OrderedDict[str, LiveModel] = OrderedDict()
        self.checkpoints: dict[str, list[tuple[int, str]]] = {}
        self.reading_text: list[str] = []
        self.first = ""
        for each in given:
            self._add_run(each) if isinstance(each, Checkpoints) else self._add(each)
        if not self.first:
            raise ValueError("At least one model is wanted, got none.")
        if not self.checkpoints:
            self._add_run(Run(FORMING))
        self._makers.setdefault(BUNDLED, lambda: LiveModel(load_model(BUNDLED), load=f"load_model({BUNDLED!r})"))
        by_hand = "HookedModel(induction_circuit())"
        self._makers.setdefault(
            BY_HAND, lambda: LiveModel(HookedModel(induction_circuit(), name=BY_HAND), load=by_hand)
        )

    @classmethod
    def of(cls, models: Explored | Iterable[Explored]) -> Shelf:
        """Models, runs, or their names; one or several, the bundled model if there are none.

        Raises:
            ValueError: If one cannot be loaded.
        """
        several = [models] if isinstance(models, HookedModel | Checkpoints | str) else list(models)
        return cls(open_by_name(each) if isinstance(each, str) else each for each in several or [BUNDLED])

    @property
    def names(self) -> list[str]:
        """All there are."""
        return list(self._makers)

    def get(self, name: Any) -> LiveModel:
        """The model of that name.

        Raises:
            ValueError: If there is none.
        """
        name = self.first if name in (None, "") else name
        if not isinstance(name, str) or name not in self._makers:
            raise ValueError(f"There is no model {str(name)[:80]!r}; there are {', '.join(self._makers)}.")
        if name not in self._kept:
            self._kept[name] = self._makers[name]()
        self._kept.move_to_end(name)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[name]

    def answer(self, what: str, given: Mapping[str, Any]) -> dict[str, Any]:
        """What the model that is asked for answers; its facts to `facts`.

        Raises:
            ValueError: As `LiveModel.answer` and `get`.
        """
        live = self.get(given.get("model"))
        if what == "report":
            return {"html": _report(live, given.get("text"))}
        return live.facts() if what == "facts" else live.answer(what, given)

    def work(self, what: str, given: Mapping[str, Any]) -> Callable[[Job], dict[str, Any]]:
        """`answer` for a `Worker`: of a question that was dropped no further layer is run."""

        def work(job: Job) -> dict[str, Any]:
            live = self.get(given.get("model"))
            with job.watched(live.model, lasting=what in LASTING):
                return self.answer(what, given)

        return work

    def at_start(self, text: str | None) -> dict[str, Any]:
        """What a page knows before it asks anything, with `text` on it."""
        return {
            "models": self.names,
            "first": self.first,
            "reads_text": self.reading_text,
            "checkpoints": self.checkpoints,
            "scene": {} if text is None else {"text": text},
            "can_report": all(find_spec(name) is not None for name in ("jinja2", "plotly")),
        }

    def _add(self, model: HookedModel) -> None:
        name = self._free(str(model.name))
        live = LiveModel(model, load=f"load_model({str(model.name)!r})")
        self._makers[name] = lambda: live  # handed over: it is in memory whatever happens
        self.reading_text += [name] if model.tokenizer is not None else []
        self.first = self.first or name

    def _add_run(self, run: Checkpoints) -> None:
        if not run.steps:
            raise ValueError(f"{run.name} has no checkpoint yet.")
        named = [(step, self._free(f"{run.name}, step {step}")) for step in run.steps]
        for step, name in named:
            self._makers[name] = partial(_at, run, step)
        self.checkpoints[str(run.name)] = named
        self.first = self.first or named[-1][1]

    def _free(self, name: str) -> str:
        taken = sum(other == name or other.startswith(f"{name} (") for other in self._makers)
        return f"{name} ({taken + 1})" if taken else name


def _at(run: Checkpoints, step: int) -> LiveModel:
    place = str(getattr(run, "folder", run.name))
    name = FORMING if run.name == FORMING else place
    kind = next((kind.__name__ for kind in (CheckpointFolder, Revisions) if isinstance(run, kind)), "Run")
    return LiveModel(run.model(step), load=f"{kind}({name!r}).model({step})")


def _report(live: LiveModel, text: Any) -> str:
    """The report of a model, on the text that it is asked about where it reads text."""
    from induction_lab.pages.report import write_report

    own = isinstance(text, str) and text.strip() and live.model.tokenizer is not None
    with TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        return write_report(live.model, path, text=text if own else None).read_text(encoding="utf-8")
