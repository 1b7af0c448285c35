"""The sub-commands of `search`, which import jax."""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

from teleflm_jax.cli import options
from teleflm_jax.observability.progress import LINE_EVERY_SECONDS, duration
from teleflm_jax.runs.config import SECTIONS, RunConfig
from teleflm_jax.search import space, worker
from teleflm_jax.search.config import SECTIONS as SEARCHING
from teleflm_jax.search.config import SearchConfig
from teleflm_jax.train import signals

STOPPED = 75
"""Exit code: stopped by a signal after saving."""


def run(args: argparse.Namespace) -> int:
    """Train trials until none is left; return the exit code."""
    config, search = _load(args)
    return _work(args, config, search)


COMMANDS = {"run": run}


def _load(args: argparse.Namespace) -> tuple[RunConfig, SearchConfig]:
    found = options.load_sections(args, SECTIONS | SEARCHING)
    search = found.pop("search")
    if not args.yes:
        space.refuse_large(search)
    return RunConfig(**found), search


def _work(args: argparse.Namespace, config: RunConfig, search: SearchConfig) -> int:
    folder, progress = options.workdir(args), _Progress(config.train.steps)
    with signals.stop_requests() as should_stop:
        summary = worker.work(config, search, folder, log=_log, progress=progress.show, should_stop=should_stop)
    counts = f"{summary.completed} completed, {summary.diverged} diverged, {summary.left} left"
    print(f"{folder}: this worker finished {summary.trained} trials; {counts}")
    return STOPPED if summary.left else 0


class _Progress:
    """Lines about the trial that is trained, ten seconds apart."""

    def __init__(self, steps: int):
        self.steps, self.last, self.rates = steps, time.monotonic(), []

    def show(self, row: Mapping[str, Any]) -> None:
        """Take a row of a trial's metrics."""
        self.rates = [*self.rates[-49:], row["step_seconds"]]
        if time.monotonic() - self.last < LINE_EVERY_SECONDS:
            return
        self.last = time.monotonic()
        left = duration((self.steps - row["step"]) * sum(self.rates) / len(self.rates))
        _log(f"{row['trial']}: step {row['step']}/{self.steps}  loss {row['loss']:.4f}  grad norm {row['grad_norm']:.3f}  left {left}")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
