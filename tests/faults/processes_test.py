"""Several processes, of which one stops, dies, never comes or is asked to leave."""

import os
import pathlib
import re
import signal
import socket
import time

import pytest

from tests.faults import commands

pytestmark = pytest.mark.faults


def under_way(small, folder: pathlib.Path, *more):
    """Two processes, some steps after their first checkpoint."""
    process = small.start(folder, 2, *more)
    assert commands.until(process, lambda: commands.count(folder, "save") > 0 and commands.num_rows(folder) > 8), process.communicate()
    return process


def test_a_process_that_is_stopped_ends_all_with_70_after_the_stacks_are_written(small, whole, tmp_path, happened):
    hanging = ("guard.hang_floor_seconds = 5", "guard.hang_factor = 1", "guard.hang_other_seconds = 60")
    process = under_way(small, tmp_path / "run", *hanging)
    stopped = commands.workers(process)[1]
    os.kill(stopped, signal.SIGSTOP)
    said = commands.ended(process, 70)
    assert not commands.alive(stopped)
    last = said.splitlines()[-1]
    assert (
        last
        == "process 0 ended a start or a step that had hung (70), so all were ended; the same command resumes from the newest checkpoint"
    )
    (hung,) = [line for line in said.splitlines() if line.startswith("process 0 hangs: ")]
    (stacks,) = (tmp_path / "run" / "hangs").iterdir()
    assert str(stacks) in hung and "session.py" in stacks.read_text()
    commands.sound(tmp_path / "run")
    small.run(tmp_path / "run", 2, *hanging)
    commands.assert_same_run(tmp_path / "run", whole(2))
    happened("SIGSTOP of one of 2 processes", f"`{re.sub(r' /[^;]*', ' …', hung)}`, `{last}`", 70, "sound; rows equal")


def test_one_that_is_killed_ends_all_and_the_same_command_goes_on(small, whole, tmp_path, happened):
    process = under_way(small, tmp_path / "run")
    os.kill(commands.workers(process)[0], signal.SIGKILL)
    said = commands.ended(process, 137)
    last = said.splitlines()[-1]
    assert last == "process 0 was killed by signal 9, so all were ended; the same command resumes from the newest checkpoint"
    small.run(tmp_path / "run", 2)
    commands.assert_same_run(tmp_path / "run", whole(2))
    happened("kill -9 of one of 2 processes", f"`{last}`", 137, "sound; rows equal")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_to_one_saves_all_and_a_second_one_leaves_at_once(small, whole, tmp_path, happened, name):
    number, folder = getattr(signal, name), tmp_path / "run"
    process = under_way(small, folder)
    os.kill(commands.workers(process)[1], number)
    said = commands.ended(process, 75)
    line = said.splitlines()[-1]
    assert re.fullmatch(r"stopped by a signal after saving step \d+; the same command resumes from there", line), said
    assert commands.sound(folder)[-1] == commands.num_rows(folder) < commands.STEPS
    happened(f"{name} to one of 2 processes", f"`{line}`", 75, "the last step saved; rows equal")
    process = small.start(folder, 2)
    assert commands.until(process, lambda: commands.count(folder, "compile") > 1), process.communicate()
    before = commands.sound(folder)[-1]
    worker = commands.workers(process)[1]
    while commands.alive(worker):  # those that come before the first is heard count as one
        os.kill(worker, number)
        time.sleep(0.02)
    said = commands.ended(process, 128 + number)
    assert "a second signal: leaving at once; the same command resumes from the newest checkpoint" in said
    assert commands.sound(folder)[-1] >= before
    small.run(folder, 2)
    commands.assert_same_run(folder, whole(2))
    happened(f"{name} twice to one of 2", "`a second signal: leaving at once; the same command …`", 128 + number, "sound; rows equal")


def test_a_second_signal_to_launch_leaves_at_once(small, whole, tmp_path, happened):
    folder = tmp_path / "run"
    process = under_way(small, folder)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    said = commands.ended(process, 143)
    commands.sound(folder)
    small.run(folder, 2)
    commands.assert_same_run(folder, whole(2))
    happened("SIGTERM twice to launch", f"`{said.splitlines()[-1]}`", 143, "sound; rows equal")


def test_launch_that_is_killed_takes_its_processes_along(small, whole, tmp_path, happened):
    folder = tmp_path / "run"
    process = under_way(small, folder)
    started = commands.members(process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=commands.HANGING)
    deadline = time.monotonic() + 30
    while any(map(commands.alive, started)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(commands.alive, started)) and commands.num_rows(folder) < commands.STEPS
    commands.sound(folder)
    small.run(folder, 2)
    commands.assert_same_run(folder, whole(2))
    happened("kill -9 of launch alone", "nothing", 137, "sound; its processes leave too; rows equal")


def test_the_one_that_never_comes_is_named(small, tmp_path, happened):
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    place = ["--coordinator", f"localhost:{port}", "--num_processes", 3]
    command = ["train.py", "--gin_file", small.gin, "--workdir", tmp_path / "run", *place, "--process_id"]
    both = [small.python(*command, i, TELEFLM_START_TIMEOUT="5") for i in (0, 2)]
    first, other = (commands.ended(process, 70) for process in both)
    first = commands.one_line(first)
    assert other.startswith("error: process 0 ended the start: got 2 of 3 processes") and other.count("\n") == 1
    assert "got 2 of 3 processes after 5 s; missing: process 1; allowed: all of them" in first
    assert not (tmp_path / "run").exists()
    happened("1 of 3 processes never comes", f"`{first}`", 70, "none yet")
