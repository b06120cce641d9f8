"""Measure the cells of a sweep on a Ray cluster: https://docs.ray.io.

Ray places chunks where there are CPUs, GPUs and memory for them and tries them again when a worker or a node is lost;
tables come back to the driver, so that no shared file system is needed. Workers import this package from where they
find it: it must be installed on every machine.
"""

from __future__ import annotations

import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from induction_lab.runtime.optional import library
from induction_lab.sweeps.estimates import Need
from induction_lab.sweeps.executors import TRIES_AGAIN, Chunk, OnFlight, try_again
from induction_lab.sweeps.plan import Cell
from induction_lab.sweeps.worker import Outcome, measure_cells

_GPU_BYTES = 60e9  # of weights that one GPU is trusted with where a model is spread over several


def run_on_ray(
    chunks: Sequence[Chunk],
    *,
    address: str | None,
    workers: int | None,
    need: Callable[[Cell], Need],
    on_flight: OnFlight,
) -> Iterator[Outcome]:
    """Measure on a cluster.

    Args:
        chunks: What to measure.
        address: Of a running cluster; by default what `RAY_ADDRESS` says, else one is started on this machine, and
            stopped at the end.
        workers: CPUs of a cluster that is started, or chunks at once on one that runs.
        need: What a cell needs; a node's all where it needs more than any has.
        on_flight: Is told how many chunks Ray has.

    Raises:
        ValueError: If Ray is not installed or there is no cluster at that address.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    ray = _ray()
    connected_here = not ray.is_initialized()
    if connected_here:
        _connect(ray, address, workers)
    task = ray.remote(measure_cells)
    waiting, lost = deque(chunks), Counter()
    flying: dict[Any, Chunk] = {}
    try:
        most = _most_at_once(ray, workers if address else None)
        while waiting or flying:
            while waiting and len(flying) < most:
                chunk = waiting.popleft()
                options = resources(need(chunk[0]), chunk[0].device, _nodes(ray))
                flying[task.options(max_retries=TRIES_AGAIN, **options).remote(chunk)] = chunk
            on_flight(len(flying))
            for done in ray.wait(list(flying), num_returns=1)[0]:
                chunk = flying.pop(done)
                try:
                    outcomes = ray.get(done)
                except ray.exceptions.RayError as error:
                    outcomes, again = _after(error, chunk, lost)
                    waiting.extend(again)
                yield from outcomes
    finally:
        for left in flying:
            ray.cancel(left, force=True)
        if connected_here:
            ray.shutdown()


def resources(need: Need, device: str | None, nodes: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What Ray is asked for: never more than the largest node has, where it would wait for ever.

    A model on the CPU gets CPUs and memory, one on a GPU a GPU; `device = "auto"` as many as its weights want.
    """
    has = {name: float(max((node.get(name, 0.0) for node in nodes), default=0.0)) for name in ("CPU", "GPU", "memory")}
    options: dict[str, float] = {"num_cpus": max(1.0, min(float(need.cpus), has["CPU"]))}
    if need.memory:
        options["memory"] = float(int(min(need.memory, 0.9 * has["memory"])))
    if has["GPU"] and device != "cpu":
        wanted = 1.0 + need.memory // _GPU_BYTES if device == "auto" else 1.0
        options["num_gpus"] = min(wanted, has["GPU"])
    return options


def _after(error: Exception, chunk: Chunk, lost: Counter[str]) -> tuple[list[Outcome], list[Chunk]]:
    """After Ray's own retries: cells of a chunk are tried one by one, then given up."""
    if len(chunk) > 1:
        return try_again(chunk, lost)
    said = " ".join(str(error).split())
    return [Outcome(chunk[0], None, {}, f"Ray gave it up: {type(error).__name__}: {said[:500]}")], []


def _ray() -> Any:
    # Ray tries a task that the memory monitor killed again without end, unless told otherwise before it is imported.
    os.environ.setdefault("RAY_task_oom_retries", str(TRIES_AGAIN))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return library("ray", extra="sweep")


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    quiet = {"logging_level": "ERROR", "log_to_driver": False}
    host, _, port = (address or "").rpartition(":")
    try:
        if host and port.isdecimal() and "/" not in host:  # Ray would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        if address:
            ray.init(address=address, **quiet)
        else:
            ray.init(address="local", num_cpus=workers, include_dashboard=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        token = " Clusters of `ray start` ask for a token: set RAY_AUTH_MODE=token, or give `auto`." if address else ""
        where = f"at {address}" if address else "to be started here"
        raise ValueError(f"There is no Ray cluster {where}: {error}.{token}") from error


def _most_at_once(ray: Any, workers: int | None) -> int:
    return workers or max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))


def _nodes(ray: Any) -> list[Mapping[str, Any]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]
