"""What a run is made of: the plan that its caller gives, and the parts that are made of it once."""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from sharding import rules
from teleflm_jax.hardware import throughput
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.mup import Mup
from teleflm_jax.observability import profiler, progress, run_log, watchdog
from teleflm_jax.observability.config import ProfileConfig, TelemetryConfig
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.train.config import GuardConfig, TrainConfig
from teleflm_jax.train.state import TrainState

DONE, DIVERGED, STOPPED = 0, 3, 75
"""Exit codes of a run."""
Evaluator = Callable[[int, Transformer, Callable[[], None]], dict[str, float]]
"""(step, model, pause) -> figures by name; the weighted bits per byte under `bpb`.

It calls `pause` about once a second or more often, as often on each process, and lets through what that raises.
"""
History = tuple
"""`data.mixture.History`."""


class Rewind(Exception):
    """The run goes back to its newest sound checkpoint."""


class GaveUp(Exception):
    """Going back has not helped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a run needs; `train` adds nothing of its own."""

    folder: pathlib.Path
    model: ModelConfig
    mup: Mup
    optimizer: OptimizerConfig
    train: TrainConfig
    guard: GuardConfig = GuardConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    profile: ProfileConfig = ProfileConfig()
    layout: rules.Layout
    batches: Callable[[int, History], contextlib.AbstractContextManager[Iterator[Mapping[str, np.ndarray]]]]
    """Opens an iterator over this process's rows of batch(first), batch(first + 1), … under a mixture history."""
    mixture: Callable[[History, int], History] = lambda saved, data_step: saved
    """The history to go on with from a data step, of a checkpoint's history (empty: a fresh run)."""
    records: Callable[[int, History], list] = lambda data_step, history: []
    """Where each row of batch(data_step) comes from, as JSON."""
    epochs: Callable[[int, History], Mapping[str, float]] = lambda data_step, history: {}
    """Passes of the batches before data_step through each domain, under a mixture history."""
    evaluate: Evaluator | None = None
    prepare: Callable[[], None] = lambda: None
    """Called by every process once it is known what to go on from, before anything is written."""
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What checkpoints belong to: the model's shape, the tokenizer, the data."""
    began: float = dataclasses.field(default_factory=time.monotonic)
    """When the process did, by the monotonic clock."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step over all processes, padding included."""
        return self.train.batch_size * self.model.context_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """What is made once, and outlives a rewind."""

    step: Callable
    to_logical: Callable[[TrainState], TrainState]
    """From the form that steps work on to the one that is saved."""
    fingerprint: Callable
    diagnose: Callable
    peak: throughput.Peak
    hosts: list[str]
    """Name of each process's machine."""
    report: progress.Report
    say: Callable[[str], None]
    publish: run_log.Publish
    profiler: profiler.Profiler
    asked_to_stop: Callable[[], bool]
    dog: watchdog.Watchdog
