"""Traces of a few steps on request: by `profile.steps`, or by a signal to the running process."""

import contextlib
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax

from teleflm_jax.observability.config import ProfileConfig

FOLDER = "profile"
"""Folder in a run's folder, with one folder a trace, as xprof and TensorBoard's profile plugin read it."""

SIGNAL = signal.SIGUSR2
STEPS_ON_SIGNAL = 3


@contextlib.contextmanager
def on_request(config: ProfileConfig, folder: pathlib.Path, log: Callable[[str], None], *, handle_signal: bool) -> Iterator["Profiler"]:
    """Yield a profiler that the loop informs of each step.

    Args:
        config: steps that are known in advance.
        folder: the run's.
        log: takes a message.
        handle_signal: trace the next steps also when the process gets `SIGNAL`; only the main thread can.
    """
    profiler = Profiler(config.steps, folder, log)
    before = signal.signal(SIGNAL, profiler.request) if handle_signal else None
    try:
        yield profiler
    finally:
        if handle_signal:
            signal.signal(SIGNAL, before)
        profiler.close()


class Profiler:
    """Starts and ends traces between steps; after a failure it logs a message and the run continues."""

    def __init__(self, wanted: tuple[int, int] | None, folder: pathlib.Path, log: Callable[[str], None]):
        self._wanted, self._requested = wanted, False
        self._folder, self._log = folder, log
        self._left, self._target, self._unwritten = 0, folder, False
        self._step = contextlib.ExitStack()

    def request(self, *_: Any) -> None:
        """Request a trace of the next steps; handler of a signal."""
        self._requested = True

    def before(self, step: int, state: Any) -> None:
        """Start a trace if one is due; call it before a step with the state that the step starts from."""
        if not self._left and (count := self._due(step)):
            jax.block_until_ready(state)  # keeps the steps before out of the trace
            self._start(step, count)
        if self._left:
            self._step.enter_context(jax.profiler.StepTraceAnnotation("train", step_num=step))

    def after(self, state: Any, warn: Callable[[], None] = lambda: None) -> None:
        """End a trace that is over: call `warn`, then wait for the state. Call it after a step is launched, with the state it returns."""
        self._step.close()
        if self._left == 1:
            warn()
            jax.block_until_ready(state)
            self._stop()
        self._left = max(0, self._left - 1)

    def close(self) -> None:
        """End a trace that the end of the run cuts short."""
        self._step.close()
        if self._left:
            self._stop()
        elif self._wanted:
            self._log(f"no profile: profile.steps={self._wanted} are not among the steps of this run")

    def _due(self, step: int) -> int:
        """Return the number of steps to trace from this one on; each request counts once."""
        if self._wanted and self._wanted[0] <= step <= self._wanted[1]:
            last, self._wanted = self._wanted[1], None
            return last - step + 1
        count, self._requested = STEPS_ON_SIGNAL * self._requested, False
        return count

    def _start(self, step: int, count: int) -> None:
        if self._unwritten:  # jax keeps such a trace, and starts no other before it is written
            self._stop()
        part = f"-process-{jax.process_index()}" if jax.process_count() > 1 else ""
        self._target = self._folder / FOLDER / f"step-{step}{part}"
        try:
            self._target.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._target)
        except Exception as error:
            self._log(f"no profile in {self._target}: {error}; the run continues")
            return
        self._left = count

    def _stop(self) -> None:
        self._unwritten = True
        try:
            jax.profiler.stop_trace()
        except Exception as error:
            self._log(f"no profile in {self._target}: {error}; the run continues")
            return
        self._unwritten = False
        self._log(f"profile in {self._target}; to look at it: pip install xprof; xprof --logdir {self._target.parent}")
