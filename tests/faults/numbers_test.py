"""Clocks that jump and numbers that are not finite, in real processes into which a few lines are put before the command begins."""

import json
import pathlib

import pytest

from teleflm_jax.observability import ledger, run_log
from tests.faults import commands
from tests.job import ROOT

pytestmark = pytest.mark.faults

JUMPING = """
import time
true, calls = time.time, 0
def jumping():
    global calls
    calls += 1
    return true() + ({hours} if calls < 500 else -5) * 3600
time.time = jumping
"""
BAD_BATCHES = """
import os
import numpy as np
from teleflm_jax.data import loader
true = loader.Loader.batch
def bad(self, step, **options):
    batch = true(self, step, **options)
    if step in {steps} and os.environ.get("JAX_PROCESS_ID", "0") == "{process}":
        batch["weights"] = batch["weights"] * np.float32("nan")
    return batch
loader.Loader.batch = bad
"""
BAD_WEIGHT = """
import jax
from teleflm_jax.train import session
true, done = session.Session._launch, []
def bad(self, state, batches, expected, *, ahead):
    if expected == {step} and not done:
        done.append(1)
        state.model.final_norm.gain[...] = state.model.final_norm.gain[...] * float("nan")
    return true(self, state, batches, expected, ahead=ahead)
session.Session._launch = bad
"""


@pytest.fixture
def script(tmp_path):
    """train.py behind some lines that inject a fault."""

    def write(lines: str) -> pathlib.Path:
        path = tmp_path / "faulty.py"
        path.write_text(f"{lines}\nimport runpy, sys\nsys.path.insert(0, {str(ROOT)!r})\nrunpy.run_path('train.py', run_name='__main__')\n")
        return path

    return write


def notes(folder: pathlib.Path, event: str) -> list[dict]:
    return [row for row in run_log.rows(folder / run_log.EVENTS) if row["event"] == event]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_clock_that_jumps_changes_no_row_and_no_second(small, whole, tmp_path, script, happened, processes):
    folder = tmp_path / "run"
    process = small.start(folder, processes, script=script(JUMPING.format(hours=0)))
    assert commands.until(process, lambda: commands.num_rows(folder) > commands.STEPS // 2), process.communicate()
    commands.kill(process)
    small.run(folder, processes, script=script(JUMPING.format(hours=7)))
    commands.assert_same_run(folder, whole(processes))
    times = [row["time"] for row in run_log.rows(folder / run_log.EVENTS)]
    assert min(later - earlier for earlier, later in zip(times, times[1:], strict=False)) < -3600
    commands.ended(small.python("-m", "teleflm_jax", "report", folder), 0)
    read = ledger.read(folder)
    assert len(read.sessions) == 2 and all(seconds >= 0 for session in read.sessions for seconds in session.seconds.values())
    assert sum(seconds for session in read.sessions for name, seconds in session.seconds.items() if name != "down") < 600
    happened(
        f"the clock jumps 5 hours back, 12 hours on over a kill, 12 hours back; {processes} process(es)",
        "nothing; `report` counts no negative second",
        0,
        "rows equal",
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_batch_is_skipped_by_all_and_killed_and_resumed_the_run_is_the_same(small, whole, tmp_path, script, happened, processes):
    bad = script(BAD_BATCHES.format(steps={19, 20, 40}, process=processes - 1))
    said = small.run(tmp_path / "once", processes, script=bad)
    line = next(line for line in said.splitlines() if "is skipped" in line)
    rows = commands.exact_rows(tmp_path / "once")
    assert rows[:19] == commands.exact_rows(whole(processes))[:19] and [row[0] for row in rows] == list(range(1, commands.STEPS + 1))
    assert [row["data_step"] for row in notes(tmp_path / "once", "skip")] == [19, 20, 40]
    assert len(json.loads((tmp_path / "once" / "skipped" / "40.json").read_text())["records"]) == 64
    commands.sound(tmp_path / "once")
    process = small.start(tmp_path / "killed", processes, script=bad)
    assert commands.until(process, lambda: commands.num_rows(tmp_path / "killed") > 24), process.communicate()
    commands.kill(process)
    small.run(tmp_path / "killed", processes, script=bad)
    assert commands.exact_rows(tmp_path / "killed") == rows
    told = line.replace(str(tmp_path / "once"), "…")
    happened(f"NaN in 3 batches, {processes} process(es)", f"`{told}`", 0, "sound; 60 finite rows, the same if killed in between")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_bad_weight_rewinds_and_the_run_comes_to_its_end(small, whole, tmp_path, script, happened, processes):
    folder = tmp_path / "run"
    said = small.run(folder, processes, script=script(BAD_WEIGHT.format(step=29)))
    (line,) = [line for line in said.splitlines() if "returning to the newest sound checkpoint" in line]
    (went_back,) = notes(folder, "rewound")
    assert went_back["step"] == 27
    rows, others = commands.exact_rows(folder), commands.exact_rows(whole(processes))
    assert rows[:27] == others[:27] and [row[0] for row in rows] == list(range(1, commands.STEPS + 1))
    commands.sound(folder)
    happened(f"NaN in a weight, {processes} process(es)", f"`{line}`", 0, "goes back to the newest, which is sound; 60 finite rows")


@pytest.mark.parametrize("processes", [1, 2])
def test_batches_that_stay_bad_end_the_run_with_3(small, whole, tmp_path, script, happened, processes):
    folder = tmp_path / "run"
    said = small.run(folder, processes, code=3, script=script(BAD_BATCHES.format(steps=range(31, 1000), process=processes - 1)))
    line = next(line for line in said.splitlines() if line.startswith("stopped: "))
    assert len(notes(folder, "rewind")) == 2 and len(notes(folder, "diverged")) == 1
    assert commands.sound(folder)[-1] == 30
    small.run(folder, processes, code=3, script=script(BAD_BATCHES.format(steps=range(31, 1000), process=processes - 1)))
    assert commands.sound(folder)[-1] == 30 and len(notes(folder, "rewind")) == 2
    assert commands.exact_rows(folder)[:30] == commands.exact_rows(whole(processes))[:30]
    happened(f"NaN in every batch from step 32 on, {processes} process(es)", f"`{line}`", 3, "the newest is from before it, and sound")
