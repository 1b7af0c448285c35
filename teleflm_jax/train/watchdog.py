"""A thread that ends a process whose step hangs, so that a scheduler can start it anew; one live but stuck process would hold all others.

JAX's own heartbeats do not notice a process that lives and is stuck, and a collective may wait for ever.
"""

import contextlib
import faulthandler
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from sharding.processes import HUNG

FOLDER = "hangs"
"""In a run's folder."""
WRITING_SECONDS = 10.0
"""For the report: the disk may be what hangs."""
LOOK_SECONDS = 0.25
STOPPED_SECONDS = 5.0
"""A look that comes so late was not late for want of a processor."""


class Watchdog:
    """Told what the process begins to wait for, and for how long that may take; from `watching`."""

    def __init__(self, report: Callable[[str, float], None]):
        self._report = report
        self._doing, self._began, self._limit = "starting", time.monotonic(), math.inf
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)

    def expect(self, doing: str, limit: float) -> None:
        """From now on the process is `doing` something that may take `limit` seconds."""
        self._doing, self._began, self._limit = doing, time.monotonic(), limit

    def _look(self) -> None:
        looked = time.monotonic()
        while not self._over.wait(LOOK_SECONDS):
            now = time.monotonic()
            if now - looked > STOPPED_SECONDS:  # this process was stopped itself, as schedulers do to suspend a job
                self._began += now - looked
            looked, doing, waited = now, self._doing, now - self._began
            if waited > self._limit and doing == self._doing:
                self._report(doing, waited)
                os._exit(HUNG)


@contextlib.contextmanager
def watching(folder: pathlib.Path, process: int, note: Callable[[str, float, str], None]) -> Iterator[Watchdog]:
    """Watch until the context ends.

    Args:
        folder: of the run; all threads' stacks are written to FOLDER/hangs/.
        process: this one's number.
        note: called with what hung, seconds and the stacks' path; may write to the log.
    """

    def report(doing: str, seconds: float) -> None:
        path = folder / FOLDER / f"process-{process}-{time.time_ns()}.txt"
        print(
            f"process {process} hangs: {doing}, for {seconds:.0f} s now; stacks go to {path}; it leaves with {HUNG}, and the same command "
            "goes on from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )

        def write() -> None:
            path.parent.mkdir(exist_ok=True)
            with path.open("w", encoding="utf-8") as file:
                file.write(f"process {process}, pid {os.getpid()}, {doing}, for {seconds:.1f} s\n\n")
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
            note(doing, seconds, str(path))

        writing = threading.Thread(target=write, daemon=True)
        writing.start()
        writing.join(WRITING_SECONDS)
        sys.stderr.flush()

    dog = Watchdog(report)
    dog._thread.start()
    try:
        yield dog
    finally:
        dog._over.set()
        dog._thread.join()
