import subprocess
import sys
from importlib.resources import files

import pytest

from induction_lab import __version__


@pytest.mark.parametrize("how", [["--version"], ["score", "--help"]])
def test_the_package_is_run_as_the_command_is(how):
    done = subprocess.run([sys.executable, "-m", "induction_lab", *how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (f"induction-lab {__version__}\n" if how == ["--version"] else "MODEL") in done.stdout


def test_types_of_the_package_are_for_others_too():
    assert (files("induction_lab") / "py.typed").is_file()
