"""The training loop: batches in, updates, logs, evaluations and checkpoints out; the same at every scale."""

import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharding import rules
from teleflm_jax import checkpoint
from teleflm_jax.model import size
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.mup import MATRIX, VECTOR, Mup
from teleflm_jax.optim import optimizer as update_rule
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.train import curves, hardware, progress, run_log, start, stop
from teleflm_jax.train import step as train_step
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import Counters, TrainState, to_arrays

DONE, DIVERGED, STOPPED = 0, 3, 75
"""Exit codes of a run."""

Evaluator = Callable[[int, Transformer], dict[str, float]]
"""(step, model) -> figures by name; the weighted bits per byte under `bpb`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """All that a run needs; `train` adds nothing of its own."""

    folder: pathlib.Path
    model: ModelConfig
    mup: Mup
    optimizer: OptimizerConfig
    train: TrainConfig
    layout: rules.Layout
    batches: Callable[[int], contextlib.AbstractContextManager[Iterator[Mapping[str, np.ndarray]]]]
    """Opens an iterator over this process's rows of batch(first), batch(first + 1), …"""
    evaluate: Evaluator | None = None


def train(plan: Plan) -> int:
    """Run, or go on with, the training that the plan describes, until its last step or a signal.

    Every process of a run calls this. All compute and save; the first one writes logs and speaks.

    Returns:
        The exit code: done, diverged (a loss or gradient that is not finite; the newest checkpoint is from before it), or stopped.

    Raises:
        UserError: the batch does not split over the devices, or the folder's checkpoint is of another shape.
    """
    settings = plan.train
    microbatch = train_step.microbatch(plan.model, settings, plan.layout)
    optimizer = update_rule.make(plan.optimizer, plan.mup)
    began, quiet = time.perf_counter(), jax.process_index() > 0
    state, counters = start.state(plan.folder, plan.model, plan.mup, optimizer, settings, plan.layout)
    restored = counters.updates
    retention = checkpoint.Retention(last=settings.keep_last, every=settings.keep_every, best=settings.keep_best)
    with (
        contextlib.closing(run_log.open_log(plan.folder, restored, quiet=quiet)) as log,
        checkpoint.writer(plan.folder / checkpoint.FOLDER, retention) as checkpointer,
        plan.batches(counters.data_step) as batches,
        progress.shown(restored, settings.steps, quiet=quiet) as (report, say),
        stop.on_signals() as asked_to_stop,
    ):
        peak = hardware.peak()
        log.event(
            "resume" if restored else "start",
            step=restored,
            seconds=time.perf_counter() - began,
            devices=jax.device_count(),
            peak_flops=peak.flops,
            peak_source=peak.source,
        )
        say(f"{jax.device_count()} device(s), each {peak.flops / 1e12:.3g} TFLOP/s at best ({peak.source}); MFU counts causal FLOPs")
        step = train_step.make(optimizer, plan.layout, microbatch, settings.accumulation_dtype)
        to_logical = plan.layout.to_logical(start.shapes(plan.model, plan.mup, optimizer, plan.layout))
        run = _Run(
            plan=plan,
            to_logical=to_logical,
            step=step,
            peak_flops=peak.flops * jax.device_count(),
            log=log,
            report=report,
            say=say,
            checkpointer=checkpointer,
        )
        try:
            return run.go_on(state, counters, batches, asked_to_stop)
        except _Diverged as error:
            log.event("diverged", **error.args[0])
            say(f"stopped: {error.args[0]}; nothing was saved after it; start anew in another --workdir with lower rates")
            return DIVERGED


class _Diverged(Exception):
    """A loss or gradient norm is not finite; carries the step's row."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    """What stays the same from step to step."""

    plan: Plan
    to_logical: Callable[[TrainState], TrainState]
    """From the form that steps work on to the one that is saved."""
    step: Callable
    peak_flops: float
    log: run_log.RunLog
    report: progress.Report
    say: Callable[[str], None]
    checkpointer: Any

    def go_on(self, state: TrainState, counters: Counters, batches: Iterator, asked_to_stop: Callable[[], bool]) -> int:
        """The loop. A step's figures are read only when the next step is under way, so that the devices never wait for the host."""
        settings = self.plan.train
        if counters.updates >= settings.steps:
            self.say(f"step {counters.updates} of {settings.steps} is done already; raise train.steps to go on")
        if counters.updates and self.due_for_evaluation(counters) and not start.agreed(self.is_evaluated(counters)):
            self.evaluate(state, counters)  # a signal came between that step and its evaluation
        pending, mark = None, time.perf_counter()
        while counters.updates < settings.steps:
            state, counters, current = self.advance(state, counters, batches, asked_to_stop)
            mark = self.record(pending, mark)
            stopping, last = pending is not None and bool(pending["stop"]), counters.updates == settings.steps
            pending = current
            saving = last or stopping or _due(counters.updates, settings.checkpoint_every)
            if saving or self.due_for_evaluation(counters):
                self.record(pending, mark)
                self.refuse_non_finite(state, counters)
                stopping = stopping or bool(pending["stop"])
                evaluating = self.due_for_evaluation(counters) and (last or not stopping)
                bpb = self.evaluate(state, counters) if evaluating else None
                if saving or stopping or self.is_among_the_best(bpb):
                    self.save(state, counters, bpb)
                pending, mark = None, time.perf_counter()
            if stopping and not last:
                self.checkpointer.wait()
                self.log.event("stop", step=counters.updates)
                self.say(f"stopped by a signal after saving step {counters.updates}; the same command goes on from there")
                return STOPPED
        self.finish(counters)
        return DONE

    def advance(
        self, state: TrainState, counters: Counters, batches: Iterator, asked_to_stop: Callable[[], bool]
    ) -> tuple[TrainState, Counters, dict]:
        """Begin one update; returns before the devices have done it.

        The row's `loss`, `grad_norm` and `stop` are still on their way. The last says whether any process was asked to stop: sent along
        with the step, so that all learn of it at the same one and nothing waits for it.
        """
        began = time.perf_counter()
        batch = next(batches)
        waited = time.perf_counter() - began
        tokens = self.plan.train.batch_size * batch["tokens"].shape[1]
        rates = update_rule.rates(self.plan.optimizer, self.plan.mup, tokens=counters.tokens, tokens_per_step=tokens)
        layout = self.plan.layout
        placed, asked = layout.place_batch(batch, self.plan.train.batch_size), layout.place_flags(asked_to_stop())
        state, figures = self.step(state, placed, {role: np.float32(rate) for role, rate in rates.items()}, asked)
        counters = Counters(updates=counters.updates + 1, data_step=counters.data_step + 1, tokens=counters.tokens + tokens)
        row = {
            "step": counters.updates,
            "tokens": counters.tokens,
            **figures,
            "learning_rate": rates[VECTOR],
            "matrix_learning_rate": rates[MATRIX],
        }
        return state, counters, {**row, "data_wait_seconds": waited}

    def record(self, row: dict | None, mark: float) -> float:
        """Wait for a step's figures and log them; returns when it was done. `mark` is when the step before it was."""
        if row is None:
            return mark
        row = {name: value for name, value in row.items() if name != "stop"} | {name: float(row[name]) for name in ("loss", "grad_norm")}
        done = time.perf_counter()
        if not (math.isfinite(row["loss"]) and math.isfinite(row["grad_norm"])):
            raise _Diverged({"step": row["step"], "loss": str(row["loss"]), "grad_norm": str(row["grad_norm"])})
        speed = self.plan.train.batch_size * self.plan.model.context_length / (done - mark)
        mfu = speed * size.flops_per_token(self.plan.model)["causal"] / self.peak_flops
        row |= {"step_seconds": done - mark, "tokens_per_second": speed, "mfu": mfu}
        self.log.metrics(row)
        self.report(row)
        return done

    def refuse_non_finite(self, state: TrainState, counters: Counters) -> None:
        """A broken update is neither evaluated nor saved: the loss that is logged is from before it."""
        if not all_finite(state):
            raise _Diverged({"step": counters.updates, "state": "weights or optimizer state not finite"})

    def due_for_evaluation(self, counters: Counters) -> bool:
        """Whether the held-out sets are measured after this step."""
        settings = self.plan.train
        due = counters.updates == settings.steps or _due(counters.updates, settings.eval_every)
        return self.plan.evaluate is not None and due

    def is_evaluated(self, counters: Counters) -> bool:
        """Whether the log has this step's evaluation; only the first process, which writes it, looks."""
        evaluated = (row["step"] for row in run_log.rows(self.plan.folder / run_log.EVALS))
        return jax.process_index() == 0 and counters.updates in evaluated

    def is_among_the_best(self, bpb: float | None) -> bool:
        """Whether a checkpoint with this figure would be one of the best that are kept."""
        better = [kept for kept in checkpoint.metrics(self.checkpointer) if bpb is not None and kept <= bpb]
        return bpb is not None and len(better) < self.plan.train.keep_best

    def evaluate(self, state: TrainState, counters: Counters) -> float | None:
        """Run the evaluator and log what it found; returns the weighted bits per byte."""
        began = time.perf_counter()
        figures = self.plan.evaluate(counters.updates, state.model)
        self.log.evaluation({"step": counters.updates, "tokens": counters.tokens, **figures})
        self.log.event("eval", step=counters.updates, seconds=time.perf_counter() - began)
        self.draw()
        self.say(
            f"step {counters.updates}: " + "  ".join(f"{name} {value:.3f}" for name, value in figures.items() if name.startswith("bpb"))
        )
        return figures.get("bpb")

    def save(self, state: TrainState, counters: Counters, bpb: float | None) -> None:
        """Begin to write a checkpoint."""
        began = time.perf_counter()
        checkpoint.save(self.checkpointer, counters.updates, to_arrays(self.to_logical(state)), dataclasses.asdict(counters), bpb)
        self.log.event("save", step=counters.updates, seconds=time.perf_counter() - began)

    def finish(self, counters: Counters) -> None:
        """Wait for the last save, draw the curves, close the ledger."""
        self.checkpointer.wait()
        if self.plan.evaluate is None:  # the last evaluation drew them else
            self.draw()
        self.log.event("done", step=counters.updates, tokens=counters.tokens)

    def draw(self) -> None:
        """Draw the curves of the run so far."""
        if jax.process_index() == 0:
            curves.draw(self.plan.folder)


@jax.jit
def all_finite(state: TrainState) -> jax.Array:
    """Whether every float of the state is finite."""
    floats = [leaf for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)]
    return jnp.all(jnp.stack([jnp.isfinite(leaf).all() for leaf in floats]))


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0
