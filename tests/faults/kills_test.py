"""Deaths without a warning, at random instants."""

import os
import pathlib
import random
import signal
import time

import pytest

from teleflm_jax import checkpoint
from tests.faults import commands

pytestmark = pytest.mark.faults

KILLS = int(os.environ.get("FAULT_KILLS", "50"))
STARTUP, STEPS, SAVE = "start-up", "steps", "a save"


def strike(process, folder: pathlib.Path, draw: random.Random, startup: float) -> float:
    """Wait for the instant that was drawn: anywhere in the start-up, in a span of steps with a save, or in the writing of a checkpoint.

    Returns the seconds that the start-up took, as far as it came.
    """
    moment, began, before = draw.choice((STARTUP, STEPS, SAVE)), time.monotonic(), commands.count(folder, "compile")
    if moment == STARTUP:
        time.sleep(draw.uniform(0, startup))
        return startup
    if not commands.until(process, lambda: commands.count(folder, "compile") > before):
        return startup
    startup = time.monotonic() - began
    if moment == SAVE:
        commands.until(process, lambda: commands.unfinished(folder))
    time.sleep(draw.uniform(0, 0.15 if moment == SAVE else 0.4))
    return startup


def newest(folder: pathlib.Path) -> int:
    """The newest checkpoint, which must be sound."""
    steps = checkpoint.numbered(folder / checkpoint.FOLDER)
    if not steps:
        return 0
    checkpoint.verify(folder / checkpoint.FOLDER, steps[-1])
    return steps[-1]


@pytest.mark.parametrize("processes, victims", [(1, "all"), (2, "all"), (2, "one")])
def test_killed_at_random_instants_a_run_ends_in_the_very_rows(small, whole, tmp_path, happened, processes, victims):
    kills = KILLS if processes == 1 else (KILLS + 1) // 2
    draw, startup, runs, landed = random.Random(f"{processes} {victims}"), 4.0, 0, dict.fromkeys((STARTUP, STEPS, SAVE), 0)
    folder = tmp_path / "0"
    while sum(landed.values()) < kills:
        before, compiled = newest(folder), commands.count(folder, "compile")
        process = small.start(folder, processes)
        startup = strike(process, folder, draw, startup)
        if process.poll() is not None:  # done before the instant came: another run
            commands.ended(process, 0)
            commands.assert_same_run(folder, whole(processes))
            runs += 1
            folder = tmp_path / str(runs)
            continue
        if victims == "all" or len(commands.workers(process)) < processes:
            commands.kill(process)
        else:
            os.kill(draw.choice(commands.workers(process)), signal.SIGKILL)
            started = commands.members(process)
            _, said = process.communicate(timeout=commands.HANGING)
            assert process.returncode not in (0, 75), said
            assert not any(map(commands.alive, started))
        assert newest(folder) >= before
        into = STARTUP if commands.count(folder, "compile") == compiled else SAVE if commands.unfinished(folder) else STEPS
        landed[into] += 1
    small.run(folder, processes)
    commands.assert_same_run(folder, whole(processes))
    assert "damaged" not in commands.events(folder)
    assert kills < 10 or all(landed.values()), landed
    of = "the process" if processes == 1 else f"{'all' if victims == 'all' else 'one'} of {processes} processes"
    where = ", ".join(f"{number} in {moment}" for moment, number in landed.items())
    sees = "nothing" if victims == "all" else "`process N was killed by signal 9, so all were ended; the same command resumes …`"
    happened(f"kill -9 of {of}, {kills} times in {runs + 1} run(s): {where}", sees, 137, "newest sound after every kill; rows equal")
