"""The interface of the training loop: the plan that its caller gives, the parts that are built once from it, and the result."""

import contextlib
import dataclasses
import enum
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
from teleflm_jax.objectives import cross_entropy
from teleflm_jax.objectives.objective import Objective
from teleflm_jax.observability import profiler, run_log, watchdog
from teleflm_jax.observability.config import ProfileConfig, TelemetryConfig
from teleflm_jax.observability.progress import Report
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.train.config import GuardConfig, TrainConfig
from teleflm_jax.train.state import TrainState

Evaluator = Callable[[int, Transformer, Callable[[], None]], dict[str, float]]
"""(step, model, pause) -> values by name; the weighted bits per byte under `bpb`.

It calls `pause` about once a second or more often, equally often on each process, and does not catch its exceptions.
"""
History = tuple
"""`data.mixture.History`."""


class Outcome(enum.StrEnum):
    """Reason why a training returned."""

    COMPLETED = "completed"
    """The last step is done."""
    STOPPED = "stopped"
    """A signal or the caller asked for it; the state is saved, and the same call resumes."""
    DIVERGED = "diverged"
    """The guard gave up; every checkpoint is from before the divergence."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainResult:
    """Result of a training that ran to its end."""

    outcome: Outcome
    step: int
    """Optimizer updates done when it returned."""
    reason: str = ""
    """Of a divergence, what the guard found."""


class Rewind(Exception):
    """Raised to make the run go back to its newest sound checkpoint."""


class GaveUp(Exception):
    """Raised when going back has not helped."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """Everything that the loop needs."""

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
    """Return the history from a data step on, given a checkpoint's history (empty: a new run)."""
    records: Callable[[int, History], list] = lambda data_step, history: []
    """Return the origin of each row of batch(data_step), as JSON."""
    epochs: Callable[[int, History], Mapping[str, float]] = lambda data_step, history: {}
    """Return the epochs of each domain that the batches before data_step make, under a mixture history."""
    objective: Objective = cross_entropy.loss_and_gradients
    """The function to minimise."""
    evaluate: Evaluator | None = None
    prepare: Callable[[], None] = lambda: None
    """Called by every process after the state is restored, before anything is written."""
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Identity that checkpoints carry: the model's shape, the tokenizer, the data."""
    began: float = dataclasses.field(default_factory=time.monotonic)
    """When the start of the run began, by the monotonic clock."""
    log: Callable[[str], None] = lambda message: None
    """Takes messages for people, also from other threads."""
    progress: Report = lambda row: None
    """Takes each row of metrics.jsonl."""
    should_stop: Callable[[], bool] = lambda: False
    """Asked between steps; True on any process makes the run save and return."""
    handle_signals: bool = False
    """Handle signals that ask to stop or to profile; only the main thread can."""

    @property
    def tokens_per_step(self) -> int:
        """Tokens of one step over all processes, padding included."""
        return self.train.batch_size * self.model.context_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parts:
    """Parts that are built once and outlive a rewind."""

    step: Callable
    to_canonical: Callable[[TrainState], TrainState]
    """Converts the state from the layout of steps to that of checkpoints."""
    fingerprint: Callable
    diagnose: Callable
    peak: throughput.Peak
    hosts: list[str]
    """Name of each process's machine."""
    report: Report
    say: Callable[[str], None]
    publish: run_log.Publish
    profiler: profiler.Profiler
    asked_to_stop: Callable[[], bool]
    dog: watchdog.Watchdog
