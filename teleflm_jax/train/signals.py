"""Signals that ask a run to save and leave, and agreement on them between its processes."""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""SIGUSR1 is what Slurm is asked to send ahead of a job's end."""


class Interrupted(Exception):
    """A signal ended an evaluation; every process raises it at the same place."""


def agreed(asked: bool) -> bool:
    """Whether any process was asked to stop. All processes call it together and learn the same."""
    if jax.process_count() == 1:
        return asked
    return bool(np.any(multihost_utils.process_allgather(np.bool_(asked))))


@contextlib.contextmanager
def on_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first signal into a question that the loop asks with each step; a second one ends the process at once.

    That harms no checkpoint: what is half-written does not have a checkpoint's name yet.
    """
    received = []
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def note(number, _) -> None:
        if received:
            os.write(2, b"a second signal: leaving at once; the same command goes on from the newest checkpoint\n")
            os._exit(128 + number)
        received.append(number)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
