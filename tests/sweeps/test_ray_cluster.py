"""Sweeps on a real cluster of several nodes, all of them on this machine."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest
import sweeping
from folders import SUPPORT
from sweeping import MARK, plan

from induction_lab import load_sweep, load_sweep_plan, sweep
from induction_lab.sweeps.estimates import Need
from induction_lab.sweeps.ray_cluster import _after, resources

ray = pytest.importorskip("ray", reason="Ray is not here: pip install 'induction-lab[sweep]'")
TESTS = str(SUPPORT)
EVERYTHING = {
    "models": ["induction-2l"],
    "prompts": {"short": {"period": 8, "n_prompts": 4}},
    "measurements": ["head_scores", "losses", "circuit", "ablation"],
    "seeds": [0, 1],
    "device": "cpu",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A head that measures nothing and two nodes of one CPU."""
    from ray.cluster_utils import Cluster

    mark = tmp_path_factory.mktemp("mark")
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([TESTS, os.environ.get("PYTHONPATH", "")])
    os.environ |= {MARK: str(mark), "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}
    small = {"object_store_memory": 100_000_000, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    cluster.mark = mark
    cluster.workers = [cluster.add_node(num_cpus=1, object_store_memory=100_000_000) for _ in range(2)]
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    for name in set(os.environ) - set(before):
        del os.environ[name]
    os.environ |= before


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("model=*/*.parquet"))


def until(condition, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_a_cluster_gives_the_same_tables_cell_by_cell(cluster, tmp_path):
    sweep(EVERYTHING, tmp_path / "one")
    done = sweep(EVERYTHING, tmp_path / "ray", executor="ray", address=cluster.address, progress=True)
    assert (done.computed, done.failed) == (8, {}) and not ray.is_initialized()
    pd.testing.assert_frame_equal(load_sweep(tmp_path / "one"), load_sweep(tmp_path / "ray"), check_exact=True)
    assert files(tmp_path / "one") == files(tmp_path / "ray")


def test_a_driver_that_is_killed_goes_on_with_the_missing_cells_only(cluster, tmp_path):
    folder, marks = tmp_path / "data", set(cluster.mark.iterdir())
    command = [sys.executable, f"{TESTS}/sweeping.py", str(folder), "--address", cluster.address]
    with subprocess.Popen(command) as driver:
        until(lambda: len(files(folder)) >= 6)
        os.kill(driver.pid, signal.SIGKILL)
    before = {path: path.stat().st_ino for path in folder.glob("model=*/*.parquet")}
    time.sleep(1)  # what its workers had begun
    begun = {path.name.split("-")[0] for path in set(cluster.mark.iterdir()) - marks}
    marks = set(cluster.mark.iterdir())
    done = sweep(plan("traced", 24), folder, executor="ray", address=cluster.address)
    assert done.found == len(before) < 24 and done.computed == 24 - len(before) and done.failed == {}
    measured = [path.name.split("-")[0] for path in set(cluster.mark.iterdir()) - marks]
    assert len(measured) == len(set(measured)) == done.computed and set(measured) | begun == {str(i) for i in range(24)}
    assert before.items() <= {path: path.stat().st_ino for path in folder.glob("model=*/*.parquet")}.items()
    assert set(load_sweep(folder)["seed"]) == set(range(24))
    assert [path.name for path in folder.rglob(".*")] == [".lock"]


def test_a_node_that_is_killed_in_the_middle_costs_no_result_and_no_duplicate(cluster, tmp_path, monkeypatch):
    folder = tmp_path / "data"

    def kill() -> None:
        until(lambda: len(files(folder)) >= 4)
        cluster.remove_node(cluster.workers.pop(), allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    done = sweep(plan("slow", 32), folder, executor="ray", address=cluster.address)
    killer.join()
    assert len(cluster.workers) == 1 and (done.computed, done.failed) == (32, {})
    monkeypatch.setattr(sweeping, "PAUSE", 0.0)
    sweep(plan("slow", 32), tmp_path / "one")
    pd.testing.assert_frame_equal(load_sweep(folder), load_sweep(tmp_path / "one"), check_exact=True)
    assert files(folder) == files(tmp_path / "one") and len(files(folder)) == 32


def test_what_ray_gives_up_is_tried_one_by_one_then_written_down():
    cells, lost = load_sweep_plan(plan(seeds=2)).cells(), Counter()
    crash = ray.exceptions.WorkerCrashedError()
    assert _after(crash, cells, lost) == ([], [[cells[0]], [cells[1]]])
    (outcome,), again = _after(crash, cells[:1], lost)
    assert again == [] and outcome.table is None and "Ray gave it up: WorkerCrashedError" in outcome.error


def test_no_cluster_at_an_address_is_one_error(tmp_path):
    with pytest.raises(ValueError, match="There is no Ray cluster at 127.0.0.1:1"):
        sweep(plan(), tmp_path, executor="ray", address="127.0.0.1:1")


@pytest.mark.parametrize(
    "need, device, nodes, wanted",
    [
        (Need(10**6, 1, 10**9), "cpu", [{"CPU": 4, "memory": 8e9}], {"num_cpus": 1, "memory": 1e9}),
        (Need(0, 1, 0), None, [{"CPU": 4, "memory": 8e9}], {"num_cpus": 1}),
        (Need(10**11, 8, 5 * 10**11), None, [{"CPU": 2, "memory": 1e9}], {"num_cpus": 2, "memory": 9e8}),
        (Need(10**9, 2, 10**9), None, [{"CPU": 8, "GPU": 4, "memory": 8e9}], {"num_gpus": 1, "num_cpus": 2}),
        (Need(10**9, 2, 15 * 10**10), "auto", [{"CPU": 8, "GPU": 8, "memory": 1e12}], {"num_gpus": 3}),
        (Need(10**9, 2, 15 * 10**10), "auto", [{"CPU": 8, "GPU": 2, "memory": 1e12}], {"num_gpus": 2}),
        (Need(10**9, 2, 10**9), "cpu", [{"CPU": 8, "GPU": 4, "memory": 8e9}], {"num_cpus": 2, "memory": 1e9}),
    ],
)
def test_resources_come_from_the_size_and_are_never_more_than_a_node_has(need, device, nodes, wanted):
    found = resources(need, device, nodes)
    assert wanted.items() <= found.items() and ("num_gpus" in found) == ("num_gpus" in wanted)
