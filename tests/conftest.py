import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is fetched from a hub in tests
os.environ.setdefault("MPLBACKEND", "agg")

import random
import re
import sys

import hypothesis
import jaxtyping
import numpy as np
import pytest
import torch
from families import random_network

from induction_lab import HookedModel, head_gallery, induction_circuit, load_model
from induction_lab.cli.app import main
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.models.store import is_here

torch.set_num_threads(1)

# The same examples in every run: `pytest --hypothesis-profile=default` looks for others.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """No test depends on what another drew: also not on which worker ran it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def gallery() -> HookedModel:
    return HookedModel(head_gallery(d_vocab=128), name="gallery")


@pytest.fixture(scope="session")
def circuit() -> HookedModel:
    return HookedModel(induction_circuit(d_vocab=128), name="circuit")


@pytest.fixture(scope="session")
def bundled() -> HookedModel:
    return load_model()


@pytest.fixture(scope="session")
def llama() -> HookedModel:
    return HookedModel(random_network("llama"), name="llama")


@pytest.fixture(scope="session")
def smollm2() -> HookedModel:
    if not is_here("smollm2-135m"):
        pytest.skip("smollm2-135m is not here: induction-lab get smollm2-135m")
    return load_model("smollm2-135m")


@pytest.fixture(scope="session")
def gemma3() -> HookedModel:
    if not is_here("gemma3-270m"):
        pytest.skip("gemma3-270m is not here: induction-lab get gemma3-270m")
    return load_model("gemma3-270m")


LONGEST = 3 * 80  # characters of an error that the command prints, which no one reads on


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """The command in an empty folder: its exit code and what it says, errors on one line."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["induction-lab", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        told = said.err.partition("error: ")[2].replace(str(tmp_path), "")
        assert len(told) <= LONGEST, f"three lines of a terminal hold {LONGEST} characters: {told}"
        return stopped.value.code or 0, said.out, re.sub(r"[\s│]+", " ", said.err)

    return run


@pytest.fixture
def unchecked():
    """As it is outside tests, where no types are checked: what users see who give something else."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def small() -> HookedModel:
    """Random, attention only."""
    return HookedModel(AttentionOnlyTransformer(AttentionOnlyConfig(d_vocab=100), seed=3), name="small")
