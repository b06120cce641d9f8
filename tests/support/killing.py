"""Runs that are killed, or have no room, each in a process forked from this one, which has torch loaded already.

    python tests/killing.py FOLDER

Prints what became of them as JSON: fingerprints of folders, and messages.
"""

import hashlib
import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet  # noqa: F401  # here already, lest each process bring it anew
import torch
from safetensors.torch import load_file

from induction_lab.data.training_streams import TiledBlocks
from induction_lab.models.attention_only.config import AttentionOnlyConfig
from induction_lab.models.attention_only.network import AttentionOnlyTransformer
from induction_lab.training.one_run import train_run
from induction_lab.training.recipes import Recipe
from induction_lab.training.runs import Run
from induction_lab.training.trainer import Trainer, TrainingPlan

SHAPE = AttentionOnlyConfig(n_heads=2, d_model=16, d_head=8, n_ctx=16, d_vocab=12)
RECIPE = Recipe(SHAPE, TiledBlocks(12, 2, 6), TrainingPlan(steps=5, batch=4, every=3, warm_up=3))


def forked(folder: Path, hinder=lambda: None, on_step=lambda step: None) -> str:
    """What became of a sitting: `done`, an error's message, or `killed`."""
    told = folder.parent / "told"
    told.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            hinder()
            train_run(RECIPE, folder, device="cpu", on_step=on_step)
            message = "done"
        except ValueError as error:
            message = f"ValueError: {error}"
        except BaseException as error:
            message = repr(error)
        resource.setrlimit(resource.RLIMIT_FSIZE, resource.getrlimit(resource.RLIMIT_FSIZE)[1:] * 2)
        told.write_text(message)
        os._exit(0)
    os.waitpid(pid, 0)
    return told.read_text() if told.exists() else "killed"


def fingerprint(folder: Path) -> str:
    """Of all that a run has left: the files' names, every tensor's bits, and the log but for its seconds."""
    run, digest = Run(folder), hashlib.sha256()
    digest.update(repr(sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())).encode())
    for path in sorted(folder.rglob("*.safetensors")):
        for name, tensor in sorted(load_file(path).items()):
            digest.update(name.encode() + tensor.numpy().tobytes())
    digest.update(run.log.drop(columns="seconds").to_csv().encode())
    return digest.hexdigest()[:16]


def unreadable(folder: Path) -> list[str]:
    """Files that are there under their own name and cannot be read."""
    wrong = []
    if (folder / "recipe.toml").exists():
        run = Run(folder)
        for step in run.steps:
            run.model(step)
        if (folder / "log.parquet").exists() and run.log.empty:
            wrong.append("log")
    for path in folder.rglob("[!.]*.safetensors"):
        try:
            load_file(path)
        except Exception as error:
            wrong.append(f"{path.name}: {error}")
    return wrong


def killed_at_steps(folder: Path) -> dict:
    stops = [1, 2, 3, 4]
    ends = [forked(folder, on_step=lambda step, at=at: step == at and os.kill(os.getpid(), 9)) for at in stops]
    return {"ends": ends, "last": forked(folder), "print": fingerprint(folder)}


def killed_at_times(folder: Path, takes: float, seed: int) -> dict:
    chance, ends, wrong = random.Random(seed), [], []
    for _ in range(6):
        after = chance.uniform(0.0005, takes / 3)
        ends.append(forked(folder, lambda after=after: signal.setitimer(signal.ITIMER_REAL, after)))
        wrong += unreadable(folder)
    return {"ends": ends, "wrong": wrong, "last": forked(folder), "print": fingerprint(folder)}


def killed_at_files(root: Path) -> dict:
    """At each file in turn, when it is written and about to get its name."""
    prints, wrong, number, ended = set(), [], 0, "killed"
    while ended == "killed":
        number += 1
        folder, count = root / str(number), [0]

        def hinder(count=count, number=number) -> None:
            plain = Path.replace

            def replace(self, target):
                count[0] += 1
                if count[0] == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return plain(self, target)

            Path.replace = replace

        ended = forked(folder, hinder)
        wrong += unreadable(folder)
        last = forked(folder)
        prints.add(fingerprint(folder) if last == "done" else last)
    return {"kills": number - 1, "wrong": wrong, "prints": sorted(prints)}


def no_room(folder: Path, limit: int) -> dict:
    def hinder() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    message = forked(folder, hinder)
    hidden = [path.name for path in folder.rglob(".*") if path.name != ".lock"]
    found = {"message": message, "wrong": unreadable(folder), "hidden": hidden}
    return {**found, "last": forked(folder), "print": fingerprint(folder)}


def main(root: Path) -> None:
    torch.set_num_threads(1)
    Trainer(AttentionOnlyTransformer(SHAPE), RECIPE.data, RECIPE.training)  # brings what optimizers need
    assert forked(root / "warm") == "done"
    start = time.monotonic()
    found: dict = {"whole": {"last": forked(root / "whole"), "print": fingerprint(root / "whole")}}
    takes = time.monotonic() - start
    found["steps"] = killed_at_steps(root / "steps")
    found["times"] = [killed_at_times(root / f"times{seed}", takes, seed) for seed in range(3)]
    found["files"] = killed_at_files(root / "files")
    found["room"] = [no_room(root / f"room{limit}", limit) for limit in (100, 3_000, 20_000, 40_000)]
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
