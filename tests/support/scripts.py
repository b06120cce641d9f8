"""Experiments as modules, and what they wrote."""

import importlib
import json
from pathlib import Path

from folders import ROOT

EXPERIMENTS = ROOT / "experiments"


def script(name: str):
    """A module of experiments/ by its dotted name, as `claims.causes.lag_profile`."""
    return importlib.import_module(f"experiments.{name}")


def verdicts_of(path: Path) -> list[dict]:
    found = json.loads(path.read_text())
    for verdict in found:
        assert verdict["numbers"] and verdict["criterion"] and verdict["control"] and verdict["source"]
    return found
