import types

import numpy as np
import pytest

from teleflm_jax.train import deadlines, guard, stragglers
from teleflm_jax.train.config import GuardConfig

CONFIG = GuardConfig()


def told(losses, norms, config=CONFIG) -> list[tuple[int, str]]:
    """The step and the kind of each anomaly on a whole run."""
    memory, found = guard.RecentSteps(), []
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if anomaly := guard.judge(config, memory, loss, norm):
            found.append((step, anomaly.event))
        memory = memory.with_step(loss, norm)
    return found


def quiet(steps: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A run as it should be: the loss falls as a power of the step, both figures are noisy."""
    random = np.random.default_rng(seed)
    return 2 + 4 * np.arange(10, steps + 10) ** -0.3 + random.normal(0, 0.03, steps), np.exp(random.normal(-1, 0.15, steps))


@pytest.mark.parametrize("seed", range(5))
def test_a_run_without_incident_is_left_alone(seed):
    assert told(*quiet(2_000, seed)) == []


def test_one_high_loss_under_a_normal_norm_is_a_spike_and_nothing_more():
    losses, norms = quiet()
    losses[300] += 1.0
    assert told(losses, norms) == [(300, guard.SPIKE)]
    anomaly = guard.judge(CONFIG, guard.RecentSteps(tuple(losses[100:300]), tuple(norms[100:300])), losses[300], norms[300])
    assert anomaly.figures["norm_is"] == "normal"
    assert (
        guard.judge(CONFIG, guard.RecentSteps(tuple(losses[100:300]), tuple(norms[100:300])), losses[300], 9.0).figures["norm_is"] == "high"
    )


def test_a_sustained_rise_with_a_rising_norm_is_told_and_without_one_it_is_not():
    losses, norms = quiet()
    losses[300:] += np.linspace(0, 3, 100)
    assert guard.RISE not in {event for _, event in told(losses, norms)}
    norms[300:] *= np.linspace(1, 20, 100)
    rises = [step for step, event in told(losses, norms) if event == guard.RISE]
    assert rises and 305 < rises[0] < 340


def test_nothing_is_judged_before_there_is_a_past():
    losses, norms = quiet(guard.ENOUGH)
    losses[-1] = 100.0
    assert told(losses, norms) == []


FINE = guard.Observation(step=1, loss=2.0, grad_norm=1.0, targets=8.0)
BROKEN = guard.Observation(step=0, loss=float("nan"), grad_norm=1.0, targets=8.0)
EMPTY = guard.Observation(step=0, loss=0.0, grad_norm=0.0, targets=0.0)


def observed(*seen: guard.Observation, config: GuardConfig = CONFIG) -> tuple[guard.GuardState, list[guard.Decision]]:
    """The state after some steps, and the decision on each."""
    state, decisions = guard.GuardState(), []
    for one in seen:
        state, decision = guard.observe(config, state, one)
        decisions.append(decision)
    return state, decisions


def test_figures_say_why_an_update_was_skipped():
    infinite = guard.Observation(step=0, loss=2.0, grad_norm=float("inf"), targets=0.0)
    assert [seen.skipped for seen in (FINE, BROKEN, EMPTY, infinite)] == ["", guard.NOT_FINITE, guard.NO_TARGET, guard.NOT_FINITE]


def test_one_skip_more_than_allowed_rewinds_and_an_update_ends_the_row():
    config = GuardConfig(max_skips=2)
    state, decisions = observed(BROKEN, BROKEN, BROKEN, config=config)
    assert [decision.rewind for decision in decisions] == ["", "", "3 updates in a row had no finite loss or gradient"]
    assert (state.skipped, state.settled) == (3, False)
    state, decisions = observed(BROKEN, BROKEN, FINE, BROKEN, BROKEN, config=config)
    assert state.skipped == 2 and not any(decision.rewind for decision in decisions)
    assert observed(BROKEN, FINE)[0].settled


def test_batches_without_a_target_neither_rewind_nor_end_a_row_of_skips():
    state, decisions = observed(*[EMPTY] * 50)
    assert (state.empty, state.skipped, state.settled) == (50, 0, False) and decisions == [guard.Decision()] * 50
    state, decisions = observed(BROKEN, EMPTY, BROKEN, config=GuardConfig(max_skips=1))
    assert (state.skipped, state.empty) == (2, 1) and decisions[-1].rewind
    assert observed(EMPTY, FINE)[0].empty == 0


@pytest.mark.parametrize("rewinds", [False, True])
def test_a_rise_is_reported_once_in_rise_steps_and_rewinds_only_on_request(rewinds):
    losses, norms = quiet()
    losses[300:] += np.linspace(0, 3, 100)
    norms[300:] *= np.linspace(1, 20, 100)
    seen = [
        guard.Observation(step=i, loss=loss, grad_norm=norm, targets=8.0) for i, (loss, norm) in enumerate(zip(losses, norms, strict=True))
    ]
    config = GuardConfig(rewind_on_rise=rewinds)
    state, decisions = observed(*seen, config=config)
    rises = [i for i, decision in enumerate(decisions) if decision.anomaly and decision.anomaly.event == guard.RISE]
    assert rises and state.last_rise == rises[-1] and (np.diff(rises) >= config.rise_steps).all()
    assert ["sustained rise" in decisions[i].rewind for i in rises] == [rewinds] * len(rises)
    assert all(decision.rewind == "" for i, decision in enumerate(decisions) if i not in rises)


def test_rewinds_to_one_checkpoint_are_limited_and_a_save_counts_them_anew():
    config, state = GuardConfig(max_rewinds=2), guard.GuardState(rewinds=2)
    assert guard.may_rewind(config, guard.GuardState(rewinds=1)) and not guard.may_rewind(config, state)
    assert guard.may_rewind(config, state.after_save())


def test_a_process_is_named_at_the_third_probe_in_a_row_at_which_it_is_late():
    state, named = stragglers.StragglerState(), []
    for slow in (2.0, 2.0, 1.0, 2.0, 2.0, 2.0, 2.0):
        state = state.with_step(np.array([0.0, 0.0, 0.5, 0.5]))  # two devices a process
        state, found = stragglers.observe(GuardConfig(), state, np.array([1.0, slow]), np.array([0, 0, 1, 1]), step_seconds=9.0)
        named.append(list(found))
    assert named == [[], [], [], [], [], [1], []]


def test_deadlines_are_learnt_by_kind_from_the_recent_durations():
    expected = []
    dog = types.SimpleNamespace(expect=lambda doing, limit: expected.append((doing, limit)))
    known = deadlines.Deadlines(config=CONFIG, watchdog=dog)
    known.expect("a step", deadlines.STEP)
    for seconds in [1e6, *[20.0] * deadlines.RECENT]:
        known.took(deadlines.STEP, seconds)
    known.expect("a step", deadlines.STEP), known.expect("a save"), known.expect("an evaluation", deadlines.EVALUATION)
    other = CONFIG.hang_other_seconds
    assert expected == [("a step", other), ("a step", 200.0), ("a save", other), ("an evaluation", other)]
    assert known.durations == {deadlines.STEP: [20.0] * deadlines.RECENT}


PROCESSES = np.array([0, 0, 1, 1, 2, 2])


@pytest.mark.parametrize(
    "copies, odd",
    [([7, 8] * 3, []), ([7, 8, 7, 8, 7, 9], [2]), ([7, 8, 1, 2, 7, 8], [1]), ([0] * 6, []), ([1, 8, 2, 8, 3, 8], [0, 1, 2])],
)
def test_the_process_whose_copy_is_alone_is_named_and_all_where_none_is_in_the_majority(copies, odd):
    assert guard.odd_copies(np.array(copies, np.uint32), (3, 1, 2), PROCESSES) == odd


def test_of_two_groups_that_differ_both_are_named():
    assert guard.odd_copies(np.array([7, 8, 7, 9], np.uint32), (2, 2, 1), np.arange(4)) == [1, 3]


def test_a_process_is_late_whose_devices_are_slow_or_whose_data_are():
    probes, waits = np.array([1.0, 1.1, 0.9, 2.0]), np.array([0.0, 0.3, 0.1, 0.0])
    found = stragglers.late(CONFIG, probes, waits, 2.0)
    assert list(found) == [3, 1] and "1.90 times the median" in found[3] and "waits 0.30 s of 2.00 s" in found[1]
    assert stragglers.late(CONFIG, np.array([1.0]), np.array([0.0]), 1.0) == {}


def test_the_limit_of_a_step_is_learnt_and_never_below_the_floor():
    assert deadlines.hang_limit(CONFIG, []) == CONFIG.hang_other_seconds
    assert deadlines.hang_limit(CONFIG, [1.0] * 50) == CONFIG.hang_floor_seconds
    assert deadlines.hang_limit(CONFIG, [15.0] * 49 + [900.0]) == 150.0
    assert deadlines.hang_limit(GuardConfig(hang_other_seconds=0), [15.0]) == float("inf")
