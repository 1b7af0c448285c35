"""What hangs is ended, and what only waits is not; each in a process of its own, since that process ends."""

import signal
import subprocess
import sys
import time

import pytest

from teleflm_jax.distributed.processes import HUNG
from teleflm_jax.observability import run_log, watchdog
from tests.job import BARE

HANG = """
import pathlib, sys, time
from teleflm_jax.observability import watchdog
folder, limit, watchdog.STOPPED_SECONDS = pathlib.Path(sys.argv[1]), float(sys.argv[3]), 1.0
with watchdog.watching(folder, int(sys.argv[2]), time.monotonic()) as dog:
    dog.expect("waiting for the collectives of step 7", limit)
    print("ready", flush=True)
    def deep_inside():
        time.sleep(600)
    deep_inside()
"""
STOP = """
import signal, sys, time
from teleflm_jax.train import signals
with signals.stop_requests() as asked:
    print("ready", flush=True)
    while not asked():
        time.sleep(0.01)
    print("asked", flush=True)
    time.sleep(600)
"""


def test_a_hang_is_written_down_and_ended_with_70(tmp_path):
    ended = subprocess.run([sys.executable, "-c", HANG, tmp_path, "0", "0.5"], env=BARE, capture_output=True, text=True, timeout=120)
    assert ended.returncode == HUNG
    assert "process 0 hangs: waiting for the collectives of step 7" in ended.stderr and "the same command resumes" in ended.stderr
    (report,) = (tmp_path / watchdog.FOLDER).iterdir()
    assert "deep_inside" in report.read_text() and "step 7" in report.read_text()
    (event,) = run_log.rows(tmp_path / run_log.EVENTS)
    assert event["event"] == "hang" and event["stacks"] == str(report)


def test_a_folder_that_cannot_be_written_does_not_keep_it(tmp_path):
    (tmp_path / watchdog.FOLDER).write_text("in the way")
    ended = subprocess.run([sys.executable, "-c", HANG, tmp_path, "1", "0.5"], env=BARE, capture_output=True, text=True, timeout=120)
    assert ended.returncode == HUNG


def test_a_process_that_was_stopped_itself_is_not_blamed(tmp_path):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([sys.executable, "-c", HANG, tmp_path, "1", "2.5"], env=BARE, **pipes) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3.0)
        process.send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        assert process.wait(120) == HUNG
    assert time.monotonic() - resumed > 0.5  # what it was stopped for does not count


def test_nothing_happens_where_each_thing_takes_less_than_its_limit(tmp_path, monkeypatch):
    left = []
    monkeypatch.setattr(watchdog.os, "_exit", left.append)
    with watchdog.watching(tmp_path, 0, 0.0) as dog:
        for step in range(7):
            dog.expect(f"step {step}", 2.0)
            time.sleep(0.35)
    assert not left and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_the_first_signal_asks_and_the_second_leaves_at_once(first):
    process = subprocess.Popen([sys.executable, "-c", STOP], env=BARE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(first)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM and "the same command resumes" in said
