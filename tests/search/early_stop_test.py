"""Early stop: what diverges is ended, and nothing else is."""

import numpy as np

from teleflm_jax.search.early_stop import Divergence, reason_to_stop

NORM = np.ones(400)


def reason(loss):
    loss = np.array(loss, np.float64)
    return reason_to_stop(loss, NORM[: len(loss)])


def test_a_run_that_stays_above_its_start_is_ended():
    start = [7.6] * 10
    assert reason(start + [8.0] * 99) is None
    assert reason(start + [8.0] * 100) == "loss was above 7.600, the highest of its first 10 steps, for 100 steps"


def test_a_run_that_comes_back_once_goes_on():
    assert reason([7.6] * 10 + [8.0] * 99 + [7.5] + [8.0] * 99) is None


def test_a_run_that_is_not_finite_is_ended_after_ten_steps_in_a_row():
    assert reason([7.0] * 20 + [np.nan] * 9) is None
    assert reason([7.0] * 20 + [np.nan] * 10) == "loss or gradient norm was not finite in 10 steps in a row"
    assert reason([7.0] * 20 + [np.inf] * 9 + [7.0]) is None
    assert reason_to_stop(np.full(12, 7.0), np.full(12, np.nan)) is not None


def test_a_slow_a_flat_and_a_spiky_run_go_on():
    assert reason([7.6] * 300) is None
    assert reason(np.linspace(7.6, 7.5, 300)) is None
    assert reason([7.6] * 10 + ([6.0] * 9 + [30.0]) * 30) is None


def test_a_short_run_is_not_judged():
    assert reason([]) is None
    assert reason([7.0, 9.0, 11.0]) is None


def test_the_definition_can_be_changed():
    loss = np.array([7.0, 7.0, 9.0, 9.0])
    assert reason_to_stop(loss, NORM[:4], Divergence(start_rows=2, rows_above=2)) is not None
