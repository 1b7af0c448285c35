"""Traces of a few steps, on request: by `profile.steps`, or by a signal to the running process."""

import contextlib
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax

from teleflm_jax.observability.config import ProfileConfig

FOLDER = "profile"
"""In a run's folder: one folder a trace, as xprof and TensorBoard's profile plugin read it."""

SIGNAL = signal.SIGUSR2
STEPS_ON_SIGNAL = 3


@contextlib.contextmanager
def on_request(config: ProfileConfig, folder: pathlib.Path, say: Callable[[str], None], *, handle_signal: bool) -> Iterator["Profiler"]:
    """Yield a profiler that the loop informs of each step.

    Args:
        config: the steps that are known beforehand.
        folder: the run's.
        say: prints a message.
        handle_signal: trace the next steps also when the process gets `SIGNAL`; only the main thread can.
    """
    profiler = Profiler(config.steps, folder, say)
    before = signal.signal(SIGNAL, profiler.ask) if handle_signal else None
    try:
        yield profiler
    finally:
        if handle_signal:
            signal.signal(SIGNAL, before)
        profiler.close()


class Profiler:
    """Starts and ends traces between steps; one that fails is a message, and the run goes on."""

    def __init__(self, wanted: tuple[int, int] | None, folder: pathlib.Path, say: Callable[[str], None]):
        self._wanted, self._asked = wanted, False
        self._folder, self._say = folder, say
        self._left, self._target, self._unwritten = 0, folder, False
        self._step = contextlib.ExitStack()

    def ask(self, *_: Any) -> None:
        """Trace the next steps; a signal's handler."""
        self._asked = True

    def before(self, step: int, state: Any) -> None:
        """Call before a step is begun; `state` is what it begins with, which may still be on its way."""
        if not self._left and (count := self._due(step)):
            jax.block_until_ready(state)  # the steps before stay out of the trace
            self._start(step, count)
        if self._left:
            self._step.enter_context(jax.profiler.StepTraceAnnotation("train", step_num=step))

    def after(self, state: Any, warn: Callable[[], None] = lambda: None) -> None:
        """Call once the step is under way; `state` is what it makes, and is waited for where the trace ends; `warn` is called first."""
        self._step.close()
        if self._left == 1:
            warn()
            jax.block_until_ready(state)
            self._stop()
        self._left = max(0, self._left - 1)

    def close(self) -> None:
        """End a trace that the run's end cuts short."""
        self._step.close()
        if self._left:
            self._stop()
        elif self._wanted:
            self._say(f"no profile: profile.steps={self._wanted} are none of the steps of this run")

    def _due(self, step: int) -> int:
        """How many steps to trace from this one on; each request counts once."""
        if self._wanted and self._wanted[0] <= step <= self._wanted[1]:
            last, self._wanted = self._wanted[1], None
            return last - step + 1
        count, self._asked = STEPS_ON_SIGNAL * self._asked, False
        return count

    def _start(self, step: int, count: int) -> None:
        if self._unwritten:  # jax holds on to such a trace, and begins no other before it is written
            self._stop()
        part = f"-process-{jax.process_index()}" if jax.process_count() > 1 else ""
        self._target = self._folder / FOLDER / f"step-{step}{part}"
        try:
            self._target.mkdir(parents=True, exist_ok=True)
            jax.profiler.start_trace(self._target)
        except Exception as error:
            self._say(f"no profile in {self._target}: {error}; the run goes on")
            return
        self._left = count

    def _stop(self) -> None:
        self._unwritten = True
        try:
            jax.profiler.stop_trace()
        except Exception as error:
            self._say(f"no profile in {self._target}: {error}; the run goes on")
            return
        self._unwritten = False
        self._say(f"profile in {self._target}; to look at it: pip install xprof; xprof --logdir {self._target.parent}")
