"""The live page as a widget: what its Python side answers, and what it is in a notebook with a kernel."""

import json
import queue
import threading
import time
from pathlib import Path

import pytest
from live_pages import TEXT

from induction_lab import HookedModel, explore_widget, induction_circuit
from induction_lab.pages.live.answers import LiveModel
from induction_lab.pages.live.shelf import Shelf
from induction_lab.pages.live.widget import Messages, widget_script
from induction_lab.runtime import optional


class Page:
    """The page's end of the messages."""

    def __init__(self, *models):
        self.heard = queue.Queue()
        self.messages = Messages(Shelf(models), self.heard.put)

    def ask(self, name, what, given):
        self.messages.receive({"id": name, "what": what, "given": given})

    def answer(self):
        return self.heard.get(timeout=60)


@pytest.fixture
def page(bundled):
    made = Page(bundled)
    yield made
    made.messages.close()


QUESTIONS = [
    ("predict", {"text": TEXT, "heads": {"L1H2": "mean", "L0H1": 0.5}}),
    ("map", {"text": TEXT, "mode": "adds", "position": 4, "token": 5}),
    ("head", {"text": TEXT, "head": "L1H0", "position": 8}),
    ("why_weight", {"text": TEXT, "head": "L1H0", "query": 9, "key": 5}),
    ("why_token", {"text": TEXT, "position": 9, "token": 21}),
    ("kinds", {"text": ""}),
]


def test_a_question_is_taken_at_once_and_answered_as_the_model_answers(page, bundled):
    for i, (what, given) in enumerate(QUESTIONS):
        page.ask(f"x.{i}", what, given)
        assert page.answer() == {"id": f"x.{i}", "taken": True}
        alone = LiveModel(bundled).answer(what, given)
        assert json.loads(json.dumps(page.answer())) == json.loads(json.dumps({"id": f"x.{i}", "found": alone}))
    page.ask("facts", "facts", {})
    assert page.answer()["taken"] and page.answer()["found"]["n_layers"] == 2


@pytest.mark.parametrize(
    ("what", "given", "said"),
    [
        ("predict", {"text": TEXT, "heads": {"L7H1": "mean"}}, "L7H1"),
        ("predict", {"text": "x y"}, "numbers from 0"),
        ("predict", {"text": TEXT, "model": "gpt-9"}, "There is no model"),
        ("predict", [1], "JSON object"),
        ("predict", None, "JSON object"),
        ("wish", {"text": TEXT}, "A page asks for"),
        (None, {"text": TEXT}, "A page asks for"),
    ],
)
def test_what_cannot_be_answered_is_one_message(page, what, given, said):
    page.ask("x.1", what, given)
    assert page.answer()["taken"]
    answer = page.answer()
    assert answer["id"] == "x.1" and said in answer["error"] and "found" not in answer


def test_a_fault_of_the_model_is_a_message_and_the_next_question_is_answered(page, monkeypatch):
    live = page.messages.shelf.get(None)

    def breaks(scene, given):
        raise RuntimeError("<b>out of memory</b>")

    monkeypatch.setitem(live.asked, "predict", breaks)
    page.ask("x.1", "predict", {"text": TEXT})
    page.ask("x.2", "map", {"text": TEXT, "mode": "copying"})
    heard = [page.answer() for _ in range(4)]
    assert {"id": "x.1", "error": "RuntimeError: <b>out of memory</b>"} in heard
    assert any(answer["id"] == "x.2" and "found" in answer for answer in heard)


@pytest.mark.parametrize("message", [None, "x", [], {}, {"id": 3}, {"drop": "never asked"}, {"drop": 7}])
def test_what_is_no_question_is_passed_over(page, message):
    page.messages.receive(message)
    page.ask("x.1", "facts", {})
    assert page.answer() == {"id": "x.1", "taken": True}


def test_a_question_that_is_taken_back_is_not_answered_half_done_or_waiting(page, monkeypatch):
    live, begun, outcomes = page.messages.shelf.get(None), threading.Event(), []

    def endless(scene, given):
        begun.set()
        for _ in range(2000):
            time.sleep(0.005)
            live.model.hidden(scene.prompt(live.model).tokens)
        outcomes.append("finished")
        return {}

    monkeypatch.setitem(live.asked, "map", endless)
    page.ask("x.1", "map", {"text": TEXT})
    page.ask("x.2", "map", {"text": TEXT})
    page.ask("x.3", "predict", {"text": TEXT})
    assert begun.wait(30)
    page.messages.receive({"drop": "x.2"})
    page.messages.receive({"drop": "x.1"})
    heard = [page.answer() for _ in range(4)]
    assert [answer["id"] for answer in heard if "taken" in answer] == ["x.1", "x.2", "x.3"]
    assert heard[3]["id"] == "x.3" and heard[3]["found"] and outcomes == []


def test_a_widget_brings_its_page_and_asks_nobody(bundled):
    pytest.importorskip("anywidget")
    widget = explore_widget([bundled, HookedModel(induction_circuit(), name="mine")], TEXT)
    assert widget.data["models"][:2] == ["induction-2l", "mine"] and len(widget.data["tours"]) == 6
    assert widget.scene == {"text": TEXT} and "induction-2l" in repr(widget)
    json.dumps(widget.data, allow_nan=False)
    script = widget_script()
    assert script.endswith("export default { render };\n") and "import(" not in script and "https://" not in script
    widget.close()
    assert not widget.messages.worker.is_alive() or widget.messages.worker.join(10) is None


def test_without_anywidget_it_is_said_what_to_install(monkeypatch):
    from induction_lab.pages.live import widget

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(optional.importlib, "import_module", absent)
    with pytest.raises(ValueError, match=r"needs anywidget.*induction-lab\[explore\]"):
        widget._widget_class.__wrapped__()


CELL = """
from induction_lab import explore_widget
widget = explore_widget("induction-2l", "5 9 17 5 9")
heard, send = [], widget.messages.send
def listen(message):
    heard.append(message)
    send(message)
widget.messages.send = listen
widget
"""
ASK = """
import time
widget._handle_custom_msg({"id": "x.1", "what": "predict", "given": {"text": "5 9 17 5 9"}}, [])
while len(heard) < 2: time.sleep(0.01)
print([sorted(message) for message in heard], heard[1]["found"]["whole"]["ids"][-1][0])
"""


def test_in_a_notebook_a_kernel_shows_it_and_answers(bundled):
    pytest.importorskip("anywidget")
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    cells = [nbformat.v4.new_code_cell(text) for text in (CELL, ASK)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    here = {"metadata": {"path": str(Path(__file__).parents[2])}}
    nbclient.NotebookClient(notebook, timeout=240, kernel_name="python3", resources=here).execute()
    shown = notebook.cells[0].outputs[0]["data"]
    assert "application/vnd.jupyter.widget-view+json" in shown and "kernel runs" in shown["text/plain"]
    alone = LiveModel(bundled).answer("predict", {"text": "5 9 17 5 9"})
    best = alone["whole"]["ids"][-1][0]
    assert notebook.cells[1].outputs[0]["text"] == f"[['id', 'taken'], ['found', 'id']] {best}\n"
