"""Training loop, the same at every scale: open logs, checkpoints and data, and train from restored states until the end."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from teleflm_jax import checkpoint
from teleflm_jax.data.mixture import History
from teleflm_jax.hardware import throughput
from teleflm_jax.model.transformer import Multipliers
from teleflm_jax.observability import curves, profiler, run_log, sinks, watchdog
from teleflm_jax.observability.history import Logs
from teleflm_jax.optim import schedule
from teleflm_jax.train import diagnose, guard, restore, signals
from teleflm_jax.train import step as train_step
from teleflm_jax.train.context import Context
from teleflm_jax.train.deadlines import Deadlines
from teleflm_jax.train.session import Session
from teleflm_jax.train.setup import Evaluator, GaveUp, Outcome, Plan, Rewind, Setup, TrainResult
from teleflm_jax.train.state import Counters

__all__ = ["Evaluator", "Outcome", "Plan", "TrainResult", "train"]


def train(plan: Plan) -> TrainResult:
    """Train, or resume, until the last step, a stop, or a divergence. Every process calls this; the first one writes logs.

    Raises:
        UserError: the batch does not split over the devices, the folder's checkpoint is another run's, or none is sound.
    """
    settings, quiet = plan.train, jax.process_index() > 0
    microbatch = train_step.microbatch(plan.model, settings, plan.layout)
    with (
        sinks.opened(plan.telemetry, plan.folder, plan.log, quiet) as publish,
        profiler.on_request(plan.profile, plan.folder, plan.log, handle_signal=plan.handle_signals) as profiling,
        signals.stop_requests() if plan.handle_signals else contextlib.nullcontext(lambda: False) as signalled,
        watchdog.watching(plan.folder, jax.process_index(), plan.began) as dog,
    ):
        restore.refuse_small_disk(plan.folder, plan.model, plan.layout)
        setup = Setup(
            step=train_step.make(plan.optimizer, plan.layout, microbatch, settings.accumulation_dtype, plan.objective),
            to_canonical=plan.layout.to_canonical(restore.shapes(plan.model, plan.layout)),
            fingerprint=train_step.fingerprint(plan.layout, microbatch, settings.accumulation_dtype, plan.objective),
            diagnose=diagnose.make(plan.layout, microbatch, Multipliers.of(plan.mup)),
            peak=throughput.peak(plan.model.compute_dtype),
            hosts=throughput.hosts(),
            progress=plan.progress,
            log=plan.log,
            publish=publish,
            profiler=profiling,
            stop_requested=lambda: signalled() or plan.should_stop(),
            deadlines=Deadlines(config=plan.guard, watchdog=dog),
        )
        described = f"{jax.device_count()} device(s), each {setup.peak.flops / 1e12:.3g} TFLOP/s at best ({setup.peak.source})"
        plan.log(f"{described}; MFU counts causal FLOPs")
        plan.log(schedule.end(plan.optimizer, plan.tokens_per_step, settings.steps))
        rewound = False
        while True:
            setup.deadlines.expect("restoring or initialising the state")
            began = time.monotonic()
            restored = restore.restore(plan.folder, plan.model, plan.mup, settings, plan.layout, plan.identity)
            plan.prepare()
            try:
                with _session(plan, restored, setup, rewound, began) as (session, batches):
                    outcome = session.run(restored.state, batches)
                return TrainResult(outcome=outcome, step=session.counters.updates)
            except Rewind:
                rewound = True
                setup.deadlines.durations.clear()
            except GaveUp as error:
                plan.log(f"stopped: {error}; all checkpoints are from before it; docs/reliability.md lists remedies")
                return TrainResult(outcome=Outcome.DIVERGED, step=session.counters.updates, reason=str(error))


@contextlib.contextmanager
def _session(plan: Plan, restored: restore.Restored, setup: Setup, rewound: bool, began: float) -> Iterator[tuple[Session, Iterator]]:
    """Open logs, checkpoints and data at the restored step, and log where the run starts."""
    settings, counters = plan.train, restored.counters
    retention = checkpoint.Retention(last=settings.keep_last, every=settings.keep_every, best=settings.keep_best)
    history = plan.mixture(restored.mixture, counters.data_step)
    changed = bool(restored.mixture) and history != restored.mixture
    with (
        contextlib.closing(
            run_log.open_log(plan.folder, counters.updates, began=plan.began, quiet=jax.process_index() > 0, publish=setup.publish)
        ) as log,
        checkpoint.writer(plan.folder / checkpoint.FOLDER, retention, run_log.bits_per_byte(plan.folder)) as checkpoints,
        plan.batches(counters.data_step, history) as batches,
    ):
        context = Context(plan=plan, setup=setup, log=log, checkpoints=checkpoints, history=history)
        if rewound:
            log.event("rewound", step=counters.updates, data_step=counters.data_step, seconds=time.monotonic() - began, **_lost(log))
            plan.log(f"returned to step {counters.updates}; data continue at batch {counters.data_step}")
        else:
            _log_start(context, restored)
        for step, reason in restored.set_aside:
            log.event("damaged", step=step, reason=reason)
            plan.log(
                f"the checkpoint of step {step} is damaged ({reason}); it was set aside, and the run resumes from step {counters.updates}"
            )
        if changed:
            log.event("mixture", step=counters.updates, data_step=counters.data_step, proportions=dict(history[-1][1]))
            plan.log(f"the mixture changes from batch {counters.data_step} on: {dict(history[-1][1])}")
        logs = Logs(folder=plan.folder)
        if first := jax.process_index() == 0:
            logs.metrics()  # a line that is not a row raises before the first step
            logs.evals()
        # losses of another mixture are not comparable
        state = guard.GuardState(memory=guard.RecentSteps() if changed else _recent_figures(plan.folder), rewinds=restored.rewinds)
        draw = functools.partial(curves.draw, logs) if first else lambda: None
        yield Session(context=context, counters=counters, draw=draw, guard_state=state, drawn=counters.data_step, compiled=rewound), batches


def _lost(log: run_log.RunLog) -> dict[str, float]:
    """Return the number and the seconds of the steps after the restored one, which are done again."""
    return {"lost_steps": len(log.dropped), "lost_seconds": sum(row.get("step_seconds", 0.0) for row in log.dropped)}


def _log_start(context: Context, restored: restore.Restored) -> None:
    """Log the start of the run, of a branch, or of a run that resumes."""
    plan, log, counters = context.plan, context.log, restored.counters
    log.event(
        "resume" if counters.updates and not restored.branched_from else "start",
        step=counters.updates,
        seconds=time.monotonic() - plan.began,
        **_lost(log),
        branched_from=restored.branched_from,
        previous_elapsed=log.dropped[-1].get("elapsed") if log.dropped else None,
        devices=jax.device_count(),
        peak_flops=context.setup.peak.flops,
        peak_source=context.setup.peak.source,
        steps=plan.train.steps,
        decay_step=schedule.decay_step(plan.optimizer, plan.tokens_per_step),
        epochs=plan.epochs(counters.data_step, context.history),
    )
    if restored.branched_from:
        plan.log(f"branches from {restored.branched_from}: step, tokens, data and optimizer state continue from there")
    _log_epochs(plan, counters, context.history)


def _log_epochs(plan: Plan, counters: Counters, history: History) -> None:
    """Log the passes through each domain so far, and at the end of the run if no update is skipped."""
    ahead = plan.epochs(counters.data_step + max(0, plan.train.steps - counters.updates), history)
    passed = [f"{name} {epochs:.2f} to {ahead[name]:.2f}" for name, epochs in plan.epochs(counters.data_step, history).items()]
    if passed:
        plan.log(f"epochs by domain, from step {counters.updates:,} to {plan.train.steps:,}: {', '.join(passed)}")


def _recent_figures(folder: pathlib.Path) -> guard.RecentSteps:
    """Return the figures of the last steps from the first process's log."""
    rows = run_log.last(folder / run_log.METRICS, guard.WINDOW) if jax.process_index() == 0 else []
    table = np.full((guard.WINDOW, 2), np.nan, np.float32)
    for i, row in enumerate(rows):
        table[i] = row["loss"], row["grad_norm"]
    table = np.asarray(multihost_utils.broadcast_one_to_all(table), np.float64)
    table = table[~np.isnan(table[:, 0])]
    return guard.RecentSteps(tuple(table[:, 0].tolist()), tuple(table[:, 1].tolist()))
