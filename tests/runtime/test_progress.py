import subprocess
import sys

import pytest

from induction_lab.runtime.progress import progress_bar


def test_a_bar_says_what_and_how_far_on_standard_error_only(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # rich draws as on a terminal
    monkeypatch.setenv("COLUMNS", "80")
    with progress_bar(7, "counting sheep", shown=True) as tick:
        tick(2)
        tick(3)
    out, err = capsys.readouterr()
    assert out == "" and "counting sheep" in err and "5/7" in err


def test_time_left_is_at_the_mean_speed_even_if_steps_come_in_bursts(capsys, monkeypatch):
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    clock = [0.0]
    monkeypatch.setattr("rich.console.monotonic", lambda: clock[0])
    with progress_bar(120, "cells", shown=True, done=20) as tick:
        clock[0] = 100.0
        for _ in range(25):  # all at once
            tick(1)
    assert "0:05:00" in capsys.readouterr().err  # 100 s for 25, 75 to come


def test_no_bar_is_silent_and_needs_no_library():
    code = (
        "import sys; from induction_lab.runtime.progress import progress_bar\n"
        "with progress_bar(3, 'x', shown=False) as tick: tick(3)\n"
        "print('rich' in sys.modules, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False False\n", "")


@pytest.mark.parametrize("shown", [True, False])
def test_an_error_inside_comes_out_and_the_next_bar_works(shown):
    with pytest.raises(RuntimeError, match="inside"), progress_bar(3, "x", shown=shown):
        raise RuntimeError("inside")
    with progress_bar(3, "x", shown=shown) as tick:  # rich refuses a second live display
        tick(1)
