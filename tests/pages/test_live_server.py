"""The live page's server: who may ask, what is refused, and that one question does not disturb another."""

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from urllib.parse import parse_qs, urlsplit

import pytest
import torch
from live_pages import TEXT

from induction_lab import HookedModel, Run, explore, induction_circuit
from induction_lab.pages.live.explore import Explorer
from induction_lab.pages.live.shelf import BY_HAND, Shelf
from induction_lab.pages.live.worker import Dropped, Worker
from induction_lab.training.checkpoints import Checkpoints

pytest.importorskip("starlette")


def request(served, method, path, *, body=None, token=..., **headers):
    address = urlsplit(served.address)
    if token is ...:
        token = parse_qs(address.query)["token"][0]
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=60)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if token is not None:
        sent["X-Token"] = token
    connection.request(method, path, body, sent)
    answer = connection.getresponse()
    return answer.status, answer.read().decode(), dict(answer.getheaders())


def asked(served, what, given, **how):
    status, text, _ = request(served, "POST", f"/ask/{what}", body=json.dumps(given), **how)
    return status, json.loads(text)


def test_the_page_comes_to_who_has_the_token_and_may_ask_nobody_else(served):
    address = urlsplit(served.address)
    status, page, headers = request(served, "GET", f"/?{address.query}")
    assert status == 200 and "mountLive" in page and TEXT in page
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy and "connect-src 'self'" in policy and "frame-ancestors 'none'" in policy
    assert address.hostname == "127.0.0.1"


@pytest.mark.parametrize("path", ["/", "/?token=wrong", "/?token="])
def test_without_the_token_there_is_no_page(served, path):
    assert request(served, "GET", path)[0] == 403


@pytest.mark.parametrize(
    "how",
    [
        {"token": None},
        {"token": "wrong"},
        {"token": "wröng".encode().decode("latin-1")},
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
    ],
)
def test_other_pages_and_other_names_may_not_ask(served, how):
    status, text, _ = request(served, "POST", "/ask/predict", body=json.dumps({"text": TEXT}), **how)
    assert status == 403 and "likeliest" not in text


def test_the_page_itself_may_ask(served):
    address = urlsplit(served.address)
    for name in (f"127.0.0.1:{address.port}", f"localhost:{address.port}"):
        status, answer = asked(served, "predict", {"text": TEXT}, Host=name, Origin=f"http://{name}")
        assert status == 200 and answer["ids"][1:] == [int(word) for word in TEXT.split()]


@pytest.mark.parametrize(
    "what, body, said",
    [
        ("predict", "{", "Expecting"),
        ("predict", "[1]", "JSON object"),
        ("predict", json.dumps({"text": "x" * 70_000}), "65,536 bytes"),
        ("predict", json.dumps({"text": "x" * 30_000}), "20,000"),
        ("predict", json.dumps({"text": TEXT, "model": "gpt-9"}), "There is no model"),
        ("predict", json.dumps({"text": TEXT, "heads": {"L7H1": "mean"}}), "L7H1"),
        ("wish", json.dumps({"text": TEXT}), "A page asks for"),
        ("predict", "[" * 60_000, ""),
    ],
)
def test_what_cannot_be_answered_is_one_message_and_the_server_lives(served, what, body, said):
    status, text, _ = request(served, "POST", f"/ask/{what}", body=body)
    assert status == 400 and said in json.loads(text)["error"]
    assert asked(served, "predict", {"text": TEXT})[0] == 200


def test_a_fault_of_the_model_is_a_message_and_the_server_lives(served, monkeypatch):
    live = served._live.shelf.get(None)

    def breaks(scene, given):
        raise RuntimeError("<b>out of memory</b>")

    monkeypatch.setitem(live.asked, "predict", breaks)
    status, answer = asked(served, "predict", {"text": TEXT})
    assert status == 500 and answer == {"error": "RuntimeError: <b>out of memory</b>"}
    monkeypatch.undo()
    assert asked(served, "predict", {"text": TEXT})[0] == 200


def test_markup_in_a_text_is_inert_in_the_page(bundled):
    hostile = "</script><script>alert(1)</script>&<img src=x>"
    page = explore(bundled, hostile, browser=False, wait=False)
    try:
        _, text, _ = request(page, "GET", f"/?{urlsplit(page.address).query}")
    finally:
        page.close()
    assert "<script>alert(1)" not in text and "<img src=x" not in text and "\\u003c/script" in text


def test_ten_at_once_are_served_each_with_its_own_changes(served):
    found, alone = {}, {}
    scenes = [{"text": TEXT, "heads": {f"L{i % 2}H{i // 2 % 4}": "zero" if i < 8 else 0.5}} for i in range(10)]

    def ask(i):
        found[i] = asked(served, "predict", scenes[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    fresh = Shelf([served._live.shelf.get(None).model])
    for i in range(10):
        alone[i] = fresh.answer("predict", scenes[i])
        assert found[i] == (200, json.loads(json.dumps(alone[i])))
    assert len({json.dumps(found[i][1]["changed"]) for i in range(8)}) == 8


def test_who_goes_away_is_not_waited_for():
    worker, seen = Worker(), []
    model = HookedModel(induction_circuit(), name="by-hand")
    begun, go_on = threading.Event(), threading.Event()

    def slow(job):
        with job.watched(model):
            begun.set()
            go_on.wait(10)
            seen.append("ran")
            model.logits(model_tokens(model))
            seen.append("finished")

    first = worker.submit(slow)
    second = worker.submit(lambda job: seen.append("second"))
    third = worker.submit(lambda job: model.logits(model_tokens(model)).shape)
    begun.wait(10)
    first.dropped.set()
    second.dropped.set()
    go_on.set()
    assert tuple(third.result(30)) == (1, 4, model.d_vocab)
    assert seen == ["ran"] and isinstance(first.exception(1), Dropped) and not second.done()
    worker.close()


def test_what_is_under_way_is_dropped_when_the_page_is_closed(bundled):
    page, begun = explore(bundled, TEXT, browser=False, wait=False), threading.Event()
    live, found = page._live.shelf.get(None), []

    def endless(scene, given):
        while True:
            begun.set()
            live.model.logits(model_tokens(live.model))

    live.asked["kinds"] = endless  # whose answer lasts, so that no new question drops it
    waiting = threading.Thread(target=lambda: found.append(asked(page, "kinds", {"text": ""})))
    waiting.start()
    assert begun.wait(20)
    page.close()
    waiting.join(20)
    assert found == [(499, {"error": "dropped"})]
    assert page._ended.is_set() and not page._live.worker.is_alive()


ENDLESS = """
import signal
import sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's jobs in the background ignore
from induction_lab.pages.live.answers import LiveModel

def kinds(self, scene, given):
    print("begun", flush=True)
    while True:
        self.answer("predict", {"text": f"5 9 {given['n']}"})
        given = {"n": given.get("n", 0) + 1}

LiveModel.kinds = kinds
sys.argv = ["induction-lab", "explore", "--no-browser"]
from induction_lab.cli.app import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="no SIGINT to send")
@pytest.mark.parametrize("busy", [False, True])
def test_ctrl_c_ends_the_command_with_one_line_also_while_a_model_runs(busy):
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", ENDLESS], **how) as command:
        assert command.stdout is not None
        address = command.stdout.readline().strip()
        command.stdout.readline()  # how to end it
        if busy:
            page = SimpleNamespace(address=address)
            given = {"text": "", "n": 0}
            waiting = threading.Thread(target=lambda: request(page, "POST", "/ask/kinds", body=json.dumps(given)))
            waiting.start()
            assert command.stdout.readline() == "begun\n"
        command.send_signal(signal.SIGINT)
        try:
            _, said = command.communicate(timeout=60)
        finally:
            command.kill()
    assert command.returncode == 0 and said.strip() == "The page is no longer served."


def model_tokens(model):
    import torch

    return torch.tensor([[model.bos_token_id, 3, 5, 3]])


def test_a_page_that_asks_anew_drops_what_it_asked_before(served, monkeypatch):
    live, started = served._live.shelf.get(None), threading.Event()
    outcomes = []

    def endless(scene, given):
        started.set()
        try:
            for _ in range(2000):
                time.sleep(0.005)
                live.model.hidden(model_tokens(live.model))
            outcomes.append("finished")
        except Dropped:
            outcomes.append("dropped")
            raise
        return {}

    monkeypatch.setitem(live.asked, "map", endless)
    address = urlsplit(served.address)
    connection = http.client.HTTPConnection("127.0.0.1", address.port, timeout=60)
    token = parse_qs(address.query)["token"][0]
    connection.request("POST", "/ask/map", json.dumps({"text": TEXT}), {"X-Token": token})
    assert started.wait(30)
    connection.close()
    assert asked(served, "predict", {"text": TEXT})[0] == 200
    assert outcomes == ["dropped"]


def test_every_shelf_has_the_bundled_model_the_one_by_hand_and_a_run(bundled):
    shelf = Shelf([HookedModel(induction_circuit(), name="mine")])
    forming = [name for _, name in shelf.checkpoints["forming"]]
    assert shelf.first == "mine" and set(shelf.names) == {"mine", "induction-2l", BY_HAND, *forming}
    load = shelf.answer("facts", {"model": forming[-1]})["load"]
    assert load == "Run('forming').model(800)"
    assert torch.equal(eval(load, {"Run": Run}).unembedding, shelf.get(forming[-1]).model.unembedding)
    assert shelf.answer("facts", {"model": BY_HAND})["n_layers"] == 2
    twins = Shelf([HookedModel(induction_circuit(), name="mine"), HookedModel(induction_circuit(), name="mine")])
    assert twins.names[:2] == ["mine", "mine (2)"]
    with pytest.raises(ValueError, match="At least one model"):
        Shelf([])


class TwoSteps(Checkpoints):
    """A run of two checkpoints."""

    name, steps = "short", (0, 10)

    def model(self, step):
        return HookedModel(induction_circuit(), name=f"short-{step}")


def test_a_run_is_its_checkpoints(bundled):
    shelf = Shelf([TwoSteps()])
    assert shelf.first == "short, step 10" and shelf.checkpoints == {"short": [(0, "short, step 0"), (10, shelf.first)]}
    assert shelf.get("short, step 0").model.name == "short-0"


def test_a_port_that_is_taken_is_said_before_anything_is_served(served, bundled):
    port = urlsplit(served.address).port
    with pytest.raises(ValueError, match="another port"):
        Explorer(Shelf([bundled]), port=port)


def test_the_report_of_a_model_comes_as_a_page(served):
    status, answer = asked(served, "report", {"text": TEXT})
    assert status == 200 and answer["html"].startswith("<!doctype html>")
