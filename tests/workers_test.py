"""A run of tests whose worker dies or hangs ends by itself, with a failure, whatever the cause."""

import os
import pathlib
import subprocess
import sys

import pytest

from tests import workers

ROOT = pathlib.Path(__file__).resolve().parents[1]
CONFTEST = """
import pytest
from tests import workers

@pytest.hookimpl(trylast=True)
def pytest_configure(config):
    if config.pluginmanager.hasplugin("dsession"):
        limit = float(config.getini("faulthandler_timeout"))
        config.pluginmanager.register(workers.Watch(limit, spare_seconds=5.0, grace_seconds=1.0, closing_seconds={closing}))
"""
SETTINGS = """
[pytest]
addopts = --max-worker-restart=0
faulthandler_timeout = {limit}
faulthandler_exit_on_timeout = true
"""
LONG_SECONDS = 300
"""Longer than a run may last here: what sleeps so long is taken for something that never ends."""


def run(folder, body, limit, closing=workers.CLOSING_SECONDS):
    (folder / "conftest.py").write_text(CONFTEST.format(closing=closing))
    (folder / "pytest.ini").write_text(SETTINGS.format(limit=limit))
    (folder / "test_one.py").write_text(f"import os, signal, threading, time\ndef test_first(): pass\ndef test_it():\n    {body}\n")
    command = [sys.executable, "-m", "pytest", "-n", "1", "-q", "-p", "no:cacheprovider", "test_one.py"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_XDIST_WORKER", None)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONG_SECONDS / 2)


FORK = f"os.fork() or time.sleep({LONG_SECONDS})"


@pytest.mark.parametrize("death", ["os.kill(os.getpid(), signal.SIGKILL)", "os._exit(0)"])
def test_a_worker_that_dies_fails_the_run_though_its_child_holds_the_pipe(tmp_path, death):
    done = run(tmp_path, f"{FORK}; {death}", limit=LONG_SECONDS)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "worker gw0 died" in done.stderr and "1 failed, 1 passed" in done.stdout


def test_a_test_that_hangs_is_ended_with_the_stacks_of_its_threads(tmp_path):
    done = run(tmp_path, f"threading.Thread(target=time.sleep, args=({LONG_SECONDS},)).start(); time.sleep({LONG_SECONDS})", limit=1)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Timeout (0:00:01)!" in done.stderr and done.stderr.count("most recent call first") == 2 + 1  # execnet has a thread of its own
    assert "in test_it" in done.stderr and "1 failed, 1 passed" in done.stdout


def test_silence_of_all_workers_fails_the_run(tmp_path):
    done = run(tmp_path, "os.kill(os.getpid(), signal.SIGSTOP)", limit=1, closing=4.5)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no worker has reported anything for 6 s" in done.stderr and "1 failed, 1 passed" in done.stdout
