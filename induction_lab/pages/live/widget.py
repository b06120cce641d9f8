"""The live page as a widget of a notebook: the same scripts, asked and answered by messages between page and kernel."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any
from weakref import WeakValueDictionary

from induction_lab.pages.html import FOLDER
from induction_lab.pages.live.page import live_script, live_style, tours
from induction_lab.pages.live.shelf import Explored, Shelf
from induction_lab.pages.live.worker import Dropped, Job, Worker
from induction_lab.runtime.optional import library

SCRIPTS = ("frame", "live/widget")  # of assets/js, besides those of every live page
log = logging.getLogger("induction_lab.explore")


def explore_widget(models: Explored | Iterable[Explored] = (), text: str | None = None) -> Any:
    """The page of `explore` below a notebook's cell: type, look at what heads do, knock them out.

    >>> explore_widget(load_model(), "5 9 17 33 21 5 9 17")     # doctest: +SKIP

    Tried in JupyterLab; VS Code and Colab show anywidget's widgets too. Models run in this kernel, in a thread of their
    own, so that other cells can be run meanwhile; for a page that is exported with its numbers see `show_attention`.

    Args:
        models: A model or its name, or several; also a training run, whose checkpoints stand on a slider. By default
            the bundled model.
        text: What stands on the page at first.

    Returns:
        A widget of anywidget. Its `scene` is what stands on the page, such as `{"text": "5 9 17", "heads": {"L1H2":
        "mean"}}`; `close()` ends it.

    Raises:
        ValueError: If anywidget is not installed, or a model cannot be loaded.
    """
    made = _widget_class()
    shelf = Shelf.of(models)
    return made(shelf, data=shelf.at_start(text) | {"tours": tours()}, scene={} if text is None else {"text": text})


class Messages:
    """Questions of one widget, answered in turn in a thread of their own.

    The page sends `{"id": …, "what": …, "given": …}`; at once it is sent `{"id": …, "taken": True}`, and later
    `found`, or `error`, a message, under the same id. `{"drop": id}` takes a question back: it is not answered.

    Args:
        shelf: The models.
        send: Sends a message to the page; called in either thread.
    """

    def __init__(self, shelf: Shelf, send: Callable[[dict[str, Any]], None]) -> None:
        """Ready to be asked."""
        self.shelf, self.send, self.worker = shelf, send, Worker()
        self._jobs: WeakValueDictionary[str, Job] = WeakValueDictionary()  # of those that wait or are under way

    def receive(self, message: Any) -> None:
        """Take a message of the page; what is none is passed over."""
        if not isinstance(message, dict):
            return
        if message.get("drop") is not None:
            job = self._jobs.get(str(message["drop"]))
            if job is not None:
                job.dropped.set()
        elif isinstance(message.get("id"), str):
            name, what, given = message["id"], str(message.get("what")), message.get("given")
            self.send({"id": name, "taken": True})
            self._jobs[name] = self.worker.submit(lambda job: self._answer(job, name, what, given))

    def close(self) -> None:
        """Answer nothing more."""
        for job in list(self._jobs.values()):
            job.dropped.set()
        self.worker.close()

    def _answer(self, job: Job, name: str, what: str, given: Any) -> None:
        try:
            if not isinstance(given, dict):
                raise ValueError("A question is a JSON object.")
            answer: dict[str, Any] = {"found": self.shelf.work(what, given)(job)}
        except Dropped:
            return
        except (ValueError, RecursionError) as error:
            answer = {"error": str(error)}
        except Exception as error:  # whatever a model trips over: the page says so, and goes on
            log.exception("a question could not be answered")
            answer = {"error": f"{type(error).__name__}: {error}"}
        if not job.dropped.is_set():
            self.send({"id": name} | answer)


@cache
def widget_script() -> str:
    """An ES module with the page's scripts and style in it, whose `render` is what anywidget calls."""
    parts = [(FOLDER / "js" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS]
    style = f"const STYLE = {json.dumps(live_style())};"
    return "\n".join([live_script(), style, *parts, "export default { render };\n"])


@cache
def _widget_class() -> Any:
    """The class, which is there only where anywidget is.

    Raises:
        ValueError: If it is not.
    """
    anywidget, traitlets = library("anywidget", extra="explore"), library("traitlets", extra="explore")

    class ExploreWidget(anywidget.AnyWidget):
        """The live page in a notebook."""

        _esm = widget_script()
        data = traitlets.Dict().tag(sync=True)
        scene = traitlets.Dict().tag(sync=True)

        def __init__(self, shelf: Shelf, **traits: Any) -> None:
            """Show models of a shelf."""
            super().__init__(**traits)
            self.messages = Messages(shelf, self.send)
            self.on_msg(lambda _, content, buffers: self.messages.receive(content))

        def __repr__(self) -> str:
            """What stands where the notebook is exported, and no kernel answers."""
            return f"ExploreWidget({self.data['first']!r}): to be used while the notebook's kernel runs"

        def close(self) -> None:
            """Take it off the page, and end its thread."""
            self.messages.close()
            super().close()

    return ExploreWidget
