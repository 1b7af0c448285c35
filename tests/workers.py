"""Ends a test run whose worker processes no longer work: one that died, or all that fell silent.

pytest-xdist waits for ever where a worker dies and a process that it forked keeps its pipe open, or where a worker is stopped. Here a dead
worker ends the run, with the failures so far, and so does a silence that is longer than any test may last.
"""

import contextlib
import os
import signal
import threading
import time

import pytest

GRACE_SECONDS = 20.0
"""For the other workers to end the tests that they are in, once the run is to end; after it they are killed."""
CLOSING_SECONDS = 15.0
"""For the controlling process to print its summary after that; then it is ended as well."""
SPARE_SECONDS = 60.0
"""How much longer than a test's time limit no worker may report anything."""
EXIT_CODE = 3
"""pytest's own code for an internal error."""


class Watch:
    """A plugin of the process that starts the workers."""

    def __init__(
        self,
        test_seconds: float,
        spare_seconds: float = SPARE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        closing_seconds: float = CLOSING_SECONDS,
    ):
        self._silence = test_seconds + spare_seconds if test_seconds else float("inf")
        self._grace, self._closing = grace_seconds, closing_seconds
        self._pids: dict[str, int] = {}
        self._heard = time.monotonic()
        self._finished = threading.Event()

    def pytest_sessionstart(self):
        """Start to watch."""
        threading.Thread(target=self._watch, name="watch of the workers", daemon=True).start()

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self):
        """Stop to watch: all is printed."""
        self._finished.set()

    def pytest_xdist_newgateway(self, gateway):
        """Give a process that is to be a worker a group of its own, which holds what its tests start, and note its number."""
        self._pids[gateway.id] = gateway.remote_exec("import os; os.setpgrp(); channel.send(os.getpid())").receive()
        self._heard = time.monotonic()

    def pytest_testnodedown(self, node, error):
        """Forget a worker that ended in order."""
        if not error:
            self._pids.pop(node.gateway.id, None)

    def pytest_xdist_node_collection_finished(self):
        """Note a sign of life."""
        self._heard = time.monotonic()

    def pytest_runtest_logstart(self):
        """Note a sign of life."""
        self._heard = time.monotonic()

    def pytest_runtest_logreport(self):
        """Note a sign of life."""
        self._heard = time.monotonic()

    def _watch(self):
        while not self._finished.wait(1.0):
            dead = {name: pid for name, pid in list(self._pids.items()) if not _is_running(pid)}
            if dead:
                for pid in dead.values():
                    _kill(pid, signal.SIGKILL)  # its children hold its pipe open, so that xdist does not see its end
                return self._end(f"worker {', '.join(dead)} died")
            if time.monotonic() - self._heard > self._silence:
                return self._end(f"no worker has reported anything for {self._silence:.0f} s")

    def _end(self, why: str):
        self._say(f"{why}: the run ends within {self._grace + self._closing:.0f} s")
        if self._finished.wait(self._grace):
            return
        for pid in self._pids.values():
            if _is_running(pid):
                os.kill(pid, signal.SIGABRT)  # pytest's handler prints the stacks
        if self._finished.wait(self._closing / 3):
            return
        for pid in self._pids.values():
            _kill(pid, signal.SIGKILL)
        if not self._finished.wait(self._closing * 2 / 3):
            self._say(f"{why}, and the summary cannot be had")
            os._exit(EXIT_CODE)

    def _say(self, line: str):
        os.write(2, f"\n{line}\n".encode())


def _kill(pid: int, number: signal.Signals):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def _is_running(pid: int) -> bool:
    """Look at a child without taking its exit status from whoever waits for it."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:  # somebody has waited for it
        return False
