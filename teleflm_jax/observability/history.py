"""A run's logs as columns of numbers of eight bytes each, so that the millions of steps of a long run are read in one pass."""

import array
import dataclasses
import math
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from teleflm_jax.observability import run_log
from teleflm_jax.observability.run_log import EVALS, METRICS

Columns = Mapping[str, np.ndarray]
"""Column of metrics.jsonl -> one number a row; NaN where an older trainer wrote none."""

COLUMNS = (
    "step",
    "tokens",
    "positions",
    "targets",
    "loss",
    "grad_norm",
    "learning_rate",
    "data_wait_seconds",
    "step_seconds",
    "tokens_per_second",
    "mfu",
    "elapsed",
)
POINTS = 4_000
"""Points of a drawn curve: more than the columns of a screen, and few enough to draw quickly."""

_LARGEST = 1e300


@dataclasses.dataclass(kw_only=True)
class Logs:
    """Logs of a run in training; every row is read once, as it appears."""

    folder: pathlib.Path
    rows: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Rows of evals.jsonl that have been read."""
    columns: dict[str, array.array] = dataclasses.field(default_factory=lambda: {name: array.array("d") for name in COLUMNS})
    known: dict[str, int] = dataclasses.field(default_factory=lambda: {METRICS: 0, EVALS: 0})
    """Bytes read of each file."""

    def metrics(self) -> Columns:
        """Return the columns of metrics.jsonl, which are empty if there is no file.

        Raises:
            UserError: a line is not a row of this log.
        """
        for row in self._new(METRICS):
            for name, column in self.columns.items():
                column.append(number(row.get(name)))
        return {name: np.array(column, np.float64) for name, column in self.columns.items()}

    def evals(self) -> list[dict[str, Any]]:
        """Return the rows of evals.jsonl; raise errors as `metrics` does."""
        self.rows.extend(self._new(EVALS))
        return self.rows

    def _new(self, name: str) -> Iterator[dict[str, Any]]:
        for end, row in run_log.read_on(self.folder / name, self.known[name]):
            yield row
            self.known[name] = end


def read(folder: pathlib.Path) -> Columns:
    """Return the columns of a folder's metrics.jsonl; raise errors as `Logs.metrics` does."""
    return Logs(folder=folder).metrics()


def number(value: object) -> float:
    """Return a value of a log as a finite number; NaN for anything else."""
    return float(value) if isinstance(value, int | float) and -_LARGEST < value < _LARGEST else math.nan


def downsample(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `points` points of a curve that look the same: the lowest and the highest of each interval of rows.

    Every spike remains.
    """
    if len(x) <= points:
        return x, y
    starts = np.linspace(0, len(x), points // 2 + 1).astype(int)
    chosen = [start + index for start, end in zip(starts, starts[1:], strict=False) for index in _ends(y[start:end])]
    return x[chosen], y[chosen]


def _ends(values: np.ndarray) -> list[int]:
    """Return the indices of the lowest and the highest value, in order."""
    return sorted((int(values.argmin()), int(values.argmax())))


def running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last twentieth of the steps so far, for each step."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - np.maximum(1, len(values) // 20))
    return (sums[end] - sums[start]) / (end - start)
