"""Interface of the training loop: the plan that its caller passes, what is built from it once, and the result."""

import contextlib
import dataclasses
import enum
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from sharding import rules
from teleflm_jax.data.mixture import History
from teleflm_jax.hardware import throughput
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.mup import Mup
from teleflm_jax.objectives import cross_entropy
from teleflm_jax.objectives.objective import Objective
from teleflm_jax.observability import profiler, run_log
from teleflm_jax.observability.config import ProfileConfig, TelemetryConfig
from teleflm_jax.observability.progress import Report
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.train.config import GuardConfig, TrainConfig
from teleflm_jax.train.deadlines import Deadlines
from teleflm_jax.train.state import TrainState
from teleflm_jax.train.step import Fingerprint, Step

Evaluator = Callable[[int, Transformer, Callable[[], None]], dict[str, float]]
"""(step, model, pause) -> values by name; the weighted bits per byte under `bpb`.

It calls `pause` about once a second or more often, equally often on each process, and does not catch its exceptions.
"""


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
    """Finding of the guard, if the run diverged."""


class Rewind(Exception):
    """Raised to return to the newest sound checkpoint."""


class GaveUp(Exception):
    """Raised to end the run, since returning to the newest checkpoint has not helped."""


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
    """Returns the history from a data step on, given a checkpoint's history (empty: a new run)."""
    records: Callable[[int, History], list] = lambda data_step, history: []
    """Returns the origin of each row of batch(data_step) as JSON."""
    epochs: Callable[[int, History], Mapping[str, float]] = lambda data_step, history: {}
    """Returns the passes of the batches before data_step through each domain, under a mixture history."""
    objective: Objective = cross_entropy.loss_and_gradients
    """Function to minimise."""
    evaluate: Evaluator | None = None
    prepare: Callable[[], None] = lambda: None
    """Called by every process once the state is restored, before anything is written."""
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Owner of the checkpoints: the model's shape, the tokenizer, the data."""
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
class Setup:
    """Functions and connections that are built once and outlive a rewind."""

    step: Step
    """Training step, from `step.make`."""
    to_canonical: Callable[[TrainState], TrainState]
    """Converts the state from the layout of steps to that of checkpoints."""
    fingerprint: Fingerprint
    """Checksums of gradients, from `step.fingerprint`."""
    diagnose: Callable[[TrainState, Any, Any], dict]
    """Search for the cause of a skipped update, from `diagnose.make`."""
    peak: throughput.Peak
    hosts: list[str]
    """Name of each process's machine."""
    progress: Report
    log: Callable[[str], None]
    """Takes messages for people."""
    publish: run_log.Publish
    profiler: profiler.Profiler
    stop_requested: Callable[[], bool]
    """Returns whether a signal or the caller has asked this process to stop."""
    deadlines: Deadlines
