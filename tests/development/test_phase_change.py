import math

import pandas as pd
import pytest

from induction_lab.development.phase_change import onset, onset_between, rise_time, steepest


def series(*values, steps=None):
    return pd.Series(values, index=range(0, 50 * len(values), 50) if steps is None else steps, dtype=float)


RISE = series(0.02, 0.05, 0.03, 0.40, 0.90, 0.97)


def test_onset_is_the_first_step_at_or_over_the_threshold():
    assert onset(RISE, 0.4) == 150 and onset(RISE, 0.41) == 200
    assert onset(RISE, 0.0) == 0  # from the start
    assert onset(RISE, 0.98) is None  # never
    assert onset_between(RISE, 0.4) == (100, 150)
    assert onset_between(RISE, 0.0) == (None, 0) and onset_between(RISE, 0.98) is None


def test_steepest_is_the_interval_of_the_largest_change_up_or_down():
    assert steepest(RISE) == (150, 200)
    assert steepest(-RISE) == (150, 200)
    assert steepest(series(1.0, 1.0, 1.0)) is None
    # an interval counts by what changed in it, not by its length
    assert steepest(series(0.0, 0.2, 0.6, steps=[0, 1, 1000])) == (1, 1000)


def test_rise_time_runs_from_the_last_step_below_to_the_first_above():
    assert rise_time(RISE, 0.04, 0.6) == 100  # 100 → 200; step 0 was below too
    assert rise_time(RISE, 0.15, 0.15) == 50
    assert rise_time(series(0.1, 0.9, 0.1, 0.9), 0.2, 0.8) == 50  # the first rise


def test_rise_time_is_none_where_the_rise_was_not_seen():
    assert rise_time(RISE, 0.1, 0.98) is None  # it never got there
    assert rise_time(series(0.7, 0.9), 0.2, 0.6) is None  # it was there already
    assert rise_time(series(0.3, 0.9, 0.1), 0.2, 0.6) is None  # below only afterwards


def test_missing_evaluations_and_their_order_do_not_matter():
    holes = series(0.0, math.nan, 0.9, math.nan)
    assert (onset(holes, 0.5), steepest(holes), rise_time(holes, 0.1, 0.5)) == (100, (0, 100), 100)
    assert steepest(RISE[::-1]) == (150, 200) and rise_time(RISE[::-1], 0.04, 0.6) == 100


def test_bad_questions_are_refused():
    with pytest.raises(ValueError, match="Two evaluations or more are wanted, got 1"):
        steepest(series(0.3, math.nan))
    with pytest.raises(ValueError, match="must not be above"):
        rise_time(RISE, 0.9, 0.1)
