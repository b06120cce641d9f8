"""Type it: the command `induction-lab`."""

from induction_lab.cli.app import app, main

__all__ = ["app", "main"]
