"""Sandbox for programs that a model wrote: each is judged by confined processes (`confined/`)."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence

from teleflm_jax.errors import UserError

SECONDS = 5.0
"""Limit of wall time, and about the same of CPU time; HumanEval's own runner allows 3."""
MEMORY_BYTES = 1 << 30
GRACE_SECONDS = 10.0
"""Time for starting and exiting, before a process that should have ended is killed."""
_CONFINED = pathlib.Path(__file__).with_name("confined")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A program and its test."""

    program: str
    """Untrusted source text."""
    entry_point: str
    """Name of the function that it defines."""
    prompt: str
    """Imports and helpers that the test calls, and the function's signature; part of the problem."""
    test: str
    """Source that defines `check(function)`; part of the problem."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of judging a program."""

    passed: bool
    """True if the test finished without an exception."""
    why: str
    """`passed`, or the reason of the failure."""
    left_open: tuple[str, ...] = ()
    """Restrictions that this machine does not support."""


def run(task: Task, *, seconds: float = SECONDS, memory_bytes: int = MEMORY_BYTES) -> Verdict:
    """Run one Python program and, in another process, its test.

    Both run in an empty folder without environment, network, output, further processes or privileges. Arguments and results pass between
    them as plain values (`confined/values.py`), so nothing that the program does to its own process changes the verdict.

    Args:
        task: the program and its test.
        seconds: limit of wall time for both.
        memory_bytes: limit of address space for each.
    """
    problem = json.dumps(dataclasses.asdict(task)).encode()
    with tempfile.TemporaryDirectory(prefix="program-") as folder:
        os.chmod(folder, 0o755)  # as root, the program runs as another user
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_CONFINED), str(seconds), str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={},
            cwd=folder,
            start_new_session=True,
        )
        try:
            told, _ = process.communicate(problem, timeout=seconds + GRACE_SECONDS)
            found = json.loads(told)
        except subprocess.TimeoutExpired:
            found = {"passed": False, "why": "did not end", "open": []}
        except ValueError:
            found = {"passed": False, "why": "the process that watched both was ended", "open": []}
        finally:
            _end(process)
    return Verdict(passed=found["passed"], why=found["why"], left_open=tuple(found["open"]))


def refuse_broken() -> None:
    """Raise a `UserError` if correct programs would fail, as on a machine that does not support this sandbox."""
    right = Task(program="def same(x):\n    return x", entry_point="same", prompt="", test="def check(f):\n    assert f(1) == 1")
    verdict = run(right, seconds=GRACE_SECONDS)
    if not verdict.passed:
        raise UserError(
            f"got a machine on which programs cannot be confined ({verdict.why}); allowed: Linux with Python's own files readable; measure "
            "humaneval elsewhere, or leave it out of suite.tasks"
        )


def run_all(tasks: Sequence[Task], pause: Callable[[], None] = lambda: None) -> list[Verdict]:
    """Run programs, one per core at a time.

    `pause` is called after each; if it raises, programs that have not started are cancelled.
    """
    with concurrent.futures.ThreadPoolExecutor(max_workers=len(os.sched_getaffinity(0))) as pool:
        running, verdicts = [pool.submit(run, task) for task in tasks], []
        try:
            for one in running:
                verdicts.append(one.result())
                pause()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return verdicts


def _end(process: subprocess.Popen) -> None:
    """Kill the process group and reap the process."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.communicate()
