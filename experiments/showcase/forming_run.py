"""How do induction heads form, step by step? The run that comes with the package, for the tour of the live page.

    python -m experiments forming_run

Trains the recipe `minute`, seed 0, and keeps some of its checkpoints, before, while and after its induction heads form,
in induction_lab/training/forming, their weights rounded to float16: `Run("forming")`. About 1 minute on 2 CPU cores.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import induction_lab
from experiments.harness import show_files
from induction_lab.models.attention_only.network import WEIGHTS_FILE
from induction_lab.training.one_run import train_run
from induction_lab.training.recipes import load_recipe
from induction_lab.training.runs import FORMING, RECIPE, checkpoint_folder

STEPS = (0, 100, 150, 160, 170, 180, 190, 200, 250, 400, 800)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    with tempfile.TemporaryDirectory() as scratch:
        run = train_run(load_recipe(args.recipe, every=10), Path(scratch) / FORMING, device="cpu")
        bundle(run.folder, args.out, args.steps)
    show_files([args.out])


def bundle(run: Path, out: Path, steps: list[int]) -> None:
    """Some checkpoints of a run, in the form of a run, as float16."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copy(run / RECIPE, out / RECIPE)
    for step in steps:
        there, here = checkpoint_folder(run, step), checkpoint_folder(out, step)
        shutil.copytree(there, here, ignore=shutil.ignore_patterns(WEIGHTS_FILE))
        weights = {name: value.to(torch.float16) for name, value in load_file(there / WEIGHTS_FILE).items()}
        save_file(weights, here / WEIGHTS_FILE)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="minute")
    parser.add_argument("--steps", type=int, nargs="+", default=list(STEPS))
    parser.add_argument("--out", type=Path, default=Path(induction_lab.__file__).parent / "training" / FORMING)
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
