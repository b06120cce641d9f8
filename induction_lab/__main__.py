"""`python -m induction_lab` is the command `induction-lab`."""

from induction_lab.cli import main

main()
