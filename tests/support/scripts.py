"""Experiments as modules, and what they wrote."""

import importlib.util
import json
import sys
from pathlib import Path

from folders import ROOT

EXPERIMENTS = ROOT / "experiments"


def script(name: str):
    """An experiment as a module."""
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    if str(EXPERIMENTS) not in sys.path:
        sys.path.append(str(EXPERIMENTS))  # scripts import their neighbours
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def verdicts_of(path: Path) -> list[dict]:
    found = json.loads(path.read_text())
    for verdict in found:
        assert verdict["numbers"] and verdict["criterion"] and verdict["control"] and verdict["source"]
    return found
