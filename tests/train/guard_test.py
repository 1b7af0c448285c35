import numpy as np
import pytest

from teleflm_jax.train import guard
from teleflm_jax.train.config import GuardConfig

CONFIG = GuardConfig()


def told(losses, norms, config=CONFIG) -> list[tuple[int, str]]:
    """The step and the kind of each verdict on a whole run."""
    memory, found = guard.Memory(), []
    for step, (loss, norm) in enumerate(zip(losses, norms, strict=True)):
        if verdict := guard.judge(config, memory, loss, norm):
            found.append((step, verdict.event))
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
    verdict = guard.judge(CONFIG, guard.Memory(tuple(losses[100:300]), tuple(norms[100:300])), losses[300], norms[300])
    assert verdict.figures["norm_is"] == "normal"
    assert guard.judge(CONFIG, guard.Memory(tuple(losses[100:300]), tuple(norms[100:300])), losses[300], 9.0).figures["norm_is"] == "high"


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
    found = guard.late(CONFIG, probes, waits, 2.0)
    assert list(found) == [3, 1] and "1.90 times the median" in found[3] and "waits 0.30 s of 2.00 s" in found[1]
    assert guard.late(CONFIG, np.array([1.0]), np.array([0.0]), 1.0) == {}


def test_the_limit_of_a_step_is_learnt_and_never_below_the_floor():
    assert guard.hang_limit(CONFIG, []) == CONFIG.hang_other_seconds
    assert guard.hang_limit(CONFIG, [1.0] * 50) == CONFIG.hang_floor_seconds
    assert guard.hang_limit(CONFIG, [15.0] * 49 + [900.0]) == 150.0
    assert guard.hang_limit(GuardConfig(hang_other_seconds=0), [15.0]) == float("inf")
