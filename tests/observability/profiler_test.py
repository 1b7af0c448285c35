"""A trace covers the steps that were asked for, and one that cannot be had costs the run nothing."""

import signal
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from jax.profiler import ProfileData

from teleflm_jax.errors import UserError
from teleflm_jax.observability import profiler
from teleflm_jax.observability.config import ProfileConfig

# jaxlib 0.12 makes this type without `__module__`, of which Python 3.12 and later warn; an error raised there ends the process.
pytestmark = pytest.mark.filterwarnings("ignore:builtin type event_stats has no __module__ attribute:DeprecationWarning")


@jax.jit
def advance(state):
    return state @ state / 64


def run(folder, steps, *, first=1, wanted=None, at=None, say=lambda message: None, fail_at=None):
    """A loop as training's: each step begins when the one before may still be under way."""
    state = jnp.ones((64, 64))
    with profiler.on_request(ProfileConfig(steps=wanted), folder, say, handle_signal=True) as profiling:
        for step in range(first, first + steps):
            if step == at:
                signal.raise_signal(signal.SIGUSR2)
            profiling.before(step, state)
            if step == fail_at:
                raise KeyError("mine")
            state = advance(state)
            profiling.after(state)


def traced(folder) -> dict[str, list[int]]:
    """The numbers of the steps in each trace of a run's folder."""
    found = {}
    for trace in sorted((folder / profiler.FOLDER).glob("*/plugins/profile/*/*.xplane.pb")):
        events = [event for plane in ProfileData.from_file(str(trace)).planes for line in plane.lines for event in line.events]
        numbers = [dict(event.stats)["step_num"] for event in events if event.name == "train"]
        assert any("advance" in event.name for event in events)
        found[trace.parents[3].name] = sorted(numbers)
    return found


def test_the_steps_that_are_known_beforehand(tmp_path):
    said = []
    run(tmp_path, 6, wanted=(2, 4), say=said.append)
    assert traced(tmp_path) == {"step-2": [2, 3, 4]}
    assert len(said) == 1 and "xprof --logdir" in said[0]


def test_a_signal_asks_for_the_next_steps_and_afterwards_means_what_it_did(tmp_path):
    before = signal.getsignal(signal.SIGUSR2)
    run(tmp_path, 8, at=3)
    assert traced(tmp_path) == {"step-3": [3, 4, 5]}
    assert signal.getsignal(signal.SIGUSR2) == before


def test_a_signal_within_a_trace_asks_for_another(tmp_path):
    run(tmp_path, 9, wanted=(2, 4), at=3)
    assert traced(tmp_path) == {"step-2": [2, 3, 4], "step-5": [5, 6, 7]}


def test_a_run_that_is_resumed_within_the_steps_traces_the_rest(tmp_path):
    run(tmp_path, 4, first=3, wanted=(2, 4))
    assert traced(tmp_path) == {"step-3": [3, 4]}


def test_a_run_s_end_closes_the_trace(tmp_path):
    run(tmp_path, 3, wanted=(2, 9))
    assert traced(tmp_path) == {"step-2": [2, 3]}
    with pytest.raises(KeyError, match="mine"):
        run(tmp_path / "fails", 5, wanted=(2, 9), fail_at=4)
    assert traced(tmp_path / "fails") == {"step-2": [2, 3, 4]}


def test_steps_that_do_not_come_are_said(tmp_path):
    said = []
    run(tmp_path, 3, wanted=(7, 9), say=said.append)
    assert said == ["no profile: profile.steps=(7, 9) are not among the steps of this run"]
    assert not list(tmp_path.iterdir())


def test_each_process_writes_its_own(tmp_path):
    with mock.patch("jax.process_count", return_value=4), mock.patch("jax.process_index", return_value=3):
        run(tmp_path, 3, wanted=(2, 2))
    assert traced(tmp_path) == {"step-2-process-3": [2]}


def test_a_folder_that_cannot_be_made_is_a_message(tmp_path):
    said = []
    (tmp_path / profiler.FOLDER).write_text("in the way")
    run(tmp_path, 4, wanted=(2, 3), say=said.append)
    assert len(said) == 1 and said[0].startswith(f"no profile in {tmp_path / profiler.FOLDER}/step-2: ")


def test_a_trace_that_cannot_be_written_is_a_message_and_is_written_before_the_next(tmp_path):
    said, full = [], OSError(28, "No space left on device")
    with mock.patch("jax.profiler.stop_trace", wraps=jax.profiler.stop_trace, side_effect=[full, mock.DEFAULT, mock.DEFAULT]):
        run(tmp_path, 9, wanted=(2, 3), at=5, say=said.append)
    assert traced(tmp_path) == {"step-2": [2, 3], "step-5": [5, 6, 7]}
    assert ["No space left on device" in line for line in said] == [True, False, False]


def test_another_trace_in_progress_is_a_message(tmp_path):
    said = []
    with jax.profiler.trace(tmp_path / "other"):
        run(tmp_path, 4, wanted=(2, 3), say=said.append)
    assert len(said) == 1 and "already been started" in said[0]


@pytest.mark.parametrize("steps", [(0, 3), (4, 3), (-2, -1)])
def test_steps_that_mean_nothing_are_refused(steps):
    with pytest.raises(UserError, match=r"got profile.steps=.*; allowed: .*; change profile.steps"):
        ProfileConfig(steps=steps)
