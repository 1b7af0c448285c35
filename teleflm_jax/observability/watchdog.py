"""Thread that ends a process whose step hangs, so that a scheduler can restart it: one stuck process would block all others.

JAX's heartbeats do not notice a process that is alive but stuck, and a collective may wait for ever.
"""

import contextlib
import faulthandler
import math
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from teleflm_jax.distributed.processes import HUNG
from teleflm_jax.observability import run_log

FOLDER = "hangs"
"""Folder of reports in a run's folder."""
WRITING_SECONDS = 10.0
"""Time for the report, since the disk itself may hang."""
LOOK_SECONDS = 0.25
STOPPED_SECONDS = 5.0
"""Delay of a look after which the process itself was stopped, and not only short of a processor."""


class Watchdog:
    """Watchdog of the operation that the process waits for and of its duration; from `watching`."""

    def __init__(self, report: Callable[[str, float], None]):
        self._report = report
        self._state = "starting", time.monotonic(), math.inf  # replaced as a whole, by one thread; read by the other
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watchdog", daemon=True)

    def expect(self, doing: str, limit: float) -> None:
        """Announce that the process starts `doing` something that may take `limit` seconds."""
        self._state = doing, time.monotonic(), limit

    def _look(self) -> None:
        looked, excused = time.monotonic(), 0.0
        known = self._state
        while not self._over.wait(LOOK_SECONDS):
            now, state = time.monotonic(), self._state
            excused = 0.0 if state is not known else excused
            if now - looked > STOPPED_SECONDS:  # the process itself was stopped, as schedulers do to suspend a job
                excused += now - looked
            looked, known = now, state
            doing, began, limit = state
            if now - began - excused > limit and state is self._state:
                try:
                    self._report(doing, now - began)
                finally:
                    os._exit(HUNG)


def joint(mesh: Mapping[str, int]) -> str:
    """Return a description of what all processes wait for together in a step on a mesh of these sizes."""
    sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.items() if size > 1)
    return f"waiting for the collectives over {sizes}" if sizes else "waiting for the device"


@contextlib.contextmanager
def watching(folder: pathlib.Path, process: int, began: float) -> Iterator[Watchdog]:
    """Watch until the context ends.

    Args:
        folder: the run's; the stacks of all threads are written to FOLDER/hangs/, and the first process writes an event.
        process: index of this process.
        began: start of the process by the monotonic clock.
    """

    def write(doing: str, seconds: float) -> None:
        path = folder / FOLDER / f"process-{process}-{time.time_ns()}.txt"
        print(
            f"process {process} hangs: {doing}, for {seconds:.0f} s now; stacks go to {path}; it exits with {HUNG}, and the same command "
            "resumes from the newest checkpoint",
            file=sys.stderr,
            flush=True,
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.write(f"process {process}, pid {os.getpid()}, {doing}, for {seconds:.1f} s\n\n")
            file.flush()
            faulthandler.dump_traceback(file, all_threads=True)
        if process == 0:
            run_log.note(folder, "hang", began, doing=doing, seconds=seconds, stacks=str(path))

    def report(doing: str, seconds: float) -> None:
        writing = threading.Thread(target=write, args=(doing, seconds), daemon=True)  # its disk, or the reader of stderr, may hang
        writing.start()
        writing.join(WRITING_SECONDS)

    dog = Watchdog(report)
    dog._thread.start()
    try:
        yield dog
    finally:
        dog._over.set()
        dog._thread.join()
