"""The training loop, the same at every scale: open logs, checkpoints and data, and train from restored states until the end."""

import contextlib
import functools
import pathlib
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from teleflm_jax import checkpoint
from teleflm_jax.hardware import throughput
from teleflm_jax.observability import curves, profiler, run_log, sinks, watchdog
from teleflm_jax.observability.history import Growing
from teleflm_jax.optim import optimizer as update_rule
from teleflm_jax.optim import schedule
from teleflm_jax.train import diagnose, guard, restore, signals
from teleflm_jax.train import step as train_step
from teleflm_jax.train.session import Attempt
from teleflm_jax.train.setup import Evaluator, GaveUp, Outcome, Parts, Plan, Rewind, TrainResult
from teleflm_jax.train.state import Counters

__all__ = ["Evaluator", "Outcome", "Plan", "TrainResult", "train"]


def train(plan: Plan) -> TrainResult:
    """Train, or resume, until the last step, a stop, or a divergence. Every process calls this; the first one writes logs.

    Raises:
        UserError: the batch does not split over the devices, the folder's checkpoint is another run's, or none is sound.
    """
    settings, quiet, say = plan.train, jax.process_index() > 0, plan.log
    microbatch = train_step.microbatch(plan.model, settings, plan.layout)
    optimizer = update_rule.make(plan.optimizer, plan.mup)
    with (
        sinks.opened(plan.telemetry, plan.folder, say, quiet) as publish,
        profiler.on_request(plan.profile, plan.folder, say, handle_signal=plan.handle_signals) as profiling,
        signals.on_signals() if plan.handle_signals else contextlib.nullcontext(lambda: False) as signalled,
        watchdog.watching(plan.folder, jax.process_index(), plan.began) as dog,
    ):
        restore.refuse_small_disk(plan.folder, plan.model, plan.mup, optimizer, plan.layout)
        parts = Parts(
            step=train_step.make(optimizer, plan.layout, microbatch, settings.accumulation_dtype, plan.objective),
            to_logical=plan.layout.to_logical(restore.shapes(plan.model, plan.mup, optimizer, plan.layout)),
            fingerprint=train_step.fingerprint(plan.layout, microbatch, settings.accumulation_dtype, plan.objective),
            diagnose=diagnose.make(plan.layout, microbatch),
            peak=throughput.peak(plan.model.compute_dtype),
            hosts=throughput.hosts(),
            report=plan.progress,
            say=say,
            publish=publish,
            profiler=profiling,
            asked_to_stop=lambda: signalled() or plan.should_stop(),
            dog=dog,
        )
        said = f"{jax.device_count()} device(s), each {parts.peak.flops / 1e12:.3g} TFLOP/s at best ({parts.peak.source})"
        say(f"{said}; MFU counts causal FLOPs")
        say(schedule.end(plan.optimizer, plan.tokens_per_step, settings.steps))
        rewound = False
        while True:
            dog.expect("restoring or initialising the state", guard.hang_limit(plan.guard, []))
            began = time.monotonic()
            beginning = restore.begin(plan.folder, plan.model, plan.mup, optimizer, settings, plan.layout, plan.identity)
            plan.prepare()
            try:
                with _opened(plan, beginning, parts, rewound, began) as (run, batches):
                    outcome = run.go_on(beginning.state, batches)
                return TrainResult(outcome=outcome, step=run.counters.updates)
            except Rewind:
                rewound = True
            except GaveUp as error:
                say(f"stopped: {error}; every checkpoint is from before it; docs/reliability.md says what to try")
                return TrainResult(outcome=Outcome.DIVERGED, step=run.counters.updates, reason=str(error))


@contextlib.contextmanager
def _opened(plan: Plan, beginning: restore.Beginning, parts: Parts, rewound: bool, began: float) -> Iterator[tuple[Attempt, Iterator]]:
    """Open logs, checkpoints and data for a restored state, and log the start."""
    settings, counters = plan.train, beginning.counters
    retention = checkpoint.Retention(last=settings.keep_last, every=settings.keep_every, best=settings.keep_best)
    history = plan.mixture(beginning.mixture, counters.data_step)
    changed = bool(beginning.mixture) and history != beginning.mixture
    with (
        contextlib.closing(
            run_log.open_log(plan.folder, counters.updates, began=plan.began, quiet=jax.process_index() > 0, publish=parts.publish)
        ) as log,
        checkpoint.writer(plan.folder / checkpoint.FOLDER, retention, run_log.bits_per_byte(plan.folder)) as checkpoints,
        plan.batches(counters.data_step, history) as batches,
    ):
        lost = {"lost_steps": len(log.dropped), "lost_seconds": sum(row.get("step_seconds", 0.0) for row in log.dropped)}
        if rewound:
            log.event("rewound", step=counters.updates, data_step=counters.data_step, seconds=time.monotonic() - began, **lost)
            parts.say(f"went back to step {counters.updates}; data go on at batch {counters.data_step}")
        else:
            log.event(
                "resume" if counters.updates and not beginning.branched_from else "start",
                step=counters.updates,
                seconds=time.monotonic() - plan.began,
                **lost,
                branched_from=beginning.branched_from,
                previous_elapsed=log.dropped[-1].get("elapsed") if log.dropped else None,
                devices=jax.device_count(),
                peak_flops=parts.peak.flops,
                peak_source=parts.peak.source,
                steps=settings.steps,
                decay_step=schedule.decay_step(plan.optimizer, plan.tokens_per_step),
                epochs=plan.epochs(counters.data_step, history),
            )
            if beginning.branched_from:
                parts.say(f"branches from {beginning.branched_from}: step, tokens, data and optimizer state go on from there")
            _tell_of_epochs(plan, counters, history, parts.say)
        for step, reason in beginning.set_aside:
            log.event("damaged", step=step, reason=reason)
            parts.say(
                f"the checkpoint of step {step} is damaged ({reason}); it was set aside, and the run goes on from step {counters.updates}"
            )
        if changed:
            log.event("mixture", step=counters.updates, data_step=counters.data_step, proportions=dict(history[-1][1]))
            parts.say(f"the mixture changes from batch {counters.data_step} on: {dict(history[-1][1])}")
        logs = Growing(folder=plan.folder)
        if first := jax.process_index() == 0:
            logs.history()  # a damaged line raises before the first step
            logs.evals()
        draw = functools.partial(curves.draw, logs) if first else lambda: None
        known = {"draw": draw, "beginning": beginning, "history": history, "counters": counters, "compiled": rewound}
        # losses of another mixture are not comparable
        memory = guard.Memory() if changed else _remembered(plan.folder)
        yield Attempt(plan=plan, parts=parts, log=log, checkpoints=checkpoints, memory=memory, **known), batches


def _tell_of_epochs(plan: Plan, counters: Counters, history: tuple, say: Callable[[str], None]) -> None:
    """Log the epochs of each domain so far, and at the end if no update is skipped."""
    ahead = plan.epochs(counters.data_step + max(0, plan.train.steps - counters.updates), history)
    passed = [f"{name} {epochs:.2f} to {ahead[name]:.2f}" for name, epochs in plan.epochs(counters.data_step, history).items()]
    if passed:
        say(f"epochs by domain, from step {counters.updates:,} to {plan.train.steps:,}: {', '.join(passed)}")


def _remembered(folder: pathlib.Path) -> guard.Memory:
    """Return loss and gradient norm of the previous steps from the first process's log."""
    rows = run_log.last(folder / run_log.METRICS, guard.WINDOW) if jax.process_index() == 0 else []
    table = np.full((guard.WINDOW, 2), np.nan, np.float32)
    for i, row in enumerate(rows):
        table[i] = row["loss"], row["grad_norm"]
    table = np.asarray(multihost_utils.broadcast_one_to_all(table), np.float64)
    table = table[~np.isnan(table[:, 0])]
    return guard.Memory(tuple(table[:, 0].tolist()), tuple(table[:, 1].tolist()))
