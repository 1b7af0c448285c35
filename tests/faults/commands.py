"""Starting, watching and killing real runs of `train.py`, of one process or of several."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from teleflm_jax import checkpoint
from teleflm_jax.observability import run_log
from tests.job import BARE, ROOT

STEPS = 60
EVERY = 3
TRAIN = f"""
train.steps = {STEPS}
train.batch_size = 64
train.microbatch_size = 8
train.checkpoint_every = {EVERY}
train.eval_every = 20
train.eval_bytes = 4_000
"""
EXACT = ("step", "tokens", "loss", "grad_norm", "learning_rate", "matrix_learning_rate")
HANGING = 240
"""Seconds after which a test gives up on a process."""


class Job:
    """A run's configuration, and the ways to start it. Compiled programs are kept between starts, which changes no bit of a run."""

    def __init__(self, gin: pathlib.Path):
        self.gin, self.root = gin, gin.parent
        kept = {"JAX_COMPILATION_CACHE_DIR": str(self.root / "compiled"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        self.environment = BARE | kept | {"JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1", "JAX_PLATFORMS": "cpu"}

    def python(self, *arguments, **environment) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        command = [sys.executable, *map(str, arguments)]
        return subprocess.Popen(command, cwd=ROOT, env=self.environment | environment, start_new_session=True, **pipes)

    def start(self, folder: pathlib.Path, processes: int = 1, *more, script="train.py") -> subprocess.Popen:
        """The command of a run; `more`: bindings."""
        launch = ["-m", "teleflm_jax", "launch", "-n", processes, "--devices_per_process", 1, "--"] if processes > 1 else []
        bindings = [word for binding in more for word in ("--gin_param", binding)]
        return self.python(*launch, script, "--gin_file", self.gin, "--workdir", folder, *bindings)

    def run(self, folder: pathlib.Path, processes: int = 1, *more, code: int = 0, script="train.py") -> str:
        """Run it to its end; returns what it says on stderr."""
        return ended(self.start(folder, processes, *more, script=script), code)


def ended(process: subprocess.Popen, code: int) -> str:
    """Wait for a process, which must leave with this code and leave nobody behind; returns its stderr."""
    started = members(process)
    try:
        out, err = process.communicate(timeout=HANGING)
    except subprocess.TimeoutExpired:
        kill(process)
        raise
    assert process.returncode == code, (process.returncode, out, err)
    assert not any(map(alive, started))
    return err


def one_line(said: str) -> str:
    """The line, if it is an error as all commands put it and the only one."""
    assert said.startswith("error: got ") and "; allowed: " in said and said.count("\n") == 1, said
    return said.strip()


def members(process: subprocess.Popen) -> list[int]:
    """The process, and those that it has started."""
    try:
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    except OSError:
        children = []
    return [process.pid, *map(int, children)]


def workers(process: subprocess.Popen) -> list[int]:
    """The processes that train, in order."""
    return members(process)[1:]


def alive(pid: int) -> bool:
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(process: subprocess.Popen) -> None:
    """All of it, with -9."""
    for pid in members(process):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=HANGING)


def until(process: subprocess.Popen, happened: Callable[[], bool]) -> bool:
    """Wait for something; false if the process ended before."""
    deadline = time.monotonic() + HANGING
    while not happened():
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            kill(process)
            raise AssertionError("it does not happen")
        time.sleep(0.001)
    return True


def count(folder: pathlib.Path, event: str) -> int:
    """How often the ledger has an event; does not mind a line that is being written."""
    ledger = folder / run_log.EVENTS
    return ledger.read_bytes().count(f'"event": "{event}"'.encode()) if ledger.exists() else 0


def num_rows(folder: pathlib.Path) -> int:
    metrics = folder / run_log.METRICS
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def unfinished(folder: pathlib.Path) -> list[str]:
    """Checkpoints that are being written, or were when the writer died."""
    checkpoints = folder / checkpoint.FOLDER
    found = list(checkpoints.iterdir()) if checkpoints.exists() else []
    return [path.name for path in found if not path.name.isdecimal() and checkpoint.ASIDE not in path.name]


def exact_rows(folder: pathlib.Path) -> list[tuple]:
    return [tuple(row[name] for name in EXACT) for row in run_log.rows(folder / run_log.METRICS)]


def events(folder: pathlib.Path) -> list[str]:
    return [row["event"] for row in run_log.rows(folder / run_log.EVENTS)]


def assert_same_run(folder: pathlib.Path, whole: pathlib.Path) -> None:
    """Bit for bit the same steps and evaluations, each once, and sound checkpoints at the end."""
    assert exact_rows(folder) == exact_rows(whole)
    assert [row["step"] for row in run_log.rows(folder / run_log.METRICS)] == list(range(1, STEPS + 1))
    assert list(run_log.rows(folder / run_log.EVALS)) == list(run_log.rows(whole / run_log.EVALS))
    assert checkpoint.steps(folder / checkpoint.FOLDER)[-1] == STEPS
    sound(folder)


def sound(folder: pathlib.Path) -> list[int]:
    """Steps of the checkpoints, every one of which must be sound."""
    steps = checkpoint.numbered(folder / checkpoint.FOLDER)
    for step in steps:
        checkpoint.verify(folder / checkpoint.FOLDER, step)
    return steps


def content(folder: pathlib.Path) -> dict[str, str]:
    """A hash of each file below."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def copy(folder: pathlib.Path, to: pathlib.Path) -> pathlib.Path:
    return pathlib.Path(shutil.copytree(folder, to))
