"""Signals that ask a run to save and stop, and the exchange of them between its processes."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Slurm can send SIGUSR1 some time before a job's end."""


class Interrupted(Exception):
    """A stop request ended an evaluation; every process raises it at the same place."""


def on_any_process(flag: bool) -> bool:
    """Return whether the flag is set on any process; all processes call it together and get the same answer."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.bool_(flag))))


@contextlib.contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a signal has asked to stop; a second signal ends the process at once.

    That damages no checkpoint: a half-written one does not have a checkpoint's name yet.
    """
    received = []
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number, _) -> None:
        if received:
            os.write(2, b"a second signal: leaving at once; the same command resumes from the newest checkpoint\n")
            os._exit(128 + number)
        received.append(number)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
