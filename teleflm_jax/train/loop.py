"""The training loop: batches in, updates, logs, evaluations and checkpoints out; the same at every scale."""

import contextlib
import socket
import time
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import multihost_utils

from teleflm_jax import checkpoint, checksum
from teleflm_jax.optim import optimizer as update_rule
from teleflm_jax.train import diagnose, guard, hardware, profile, progress, run_log, start, stop, telemetry, watchdog
from teleflm_jax.train import step as train_step
from teleflm_jax.train.attempt import DIVERGED, DONE, STOPPED, Attempt, Evaluator, GaveUp, Parts, Plan, Rewind
from teleflm_jax.train.state import to_arrays

__all__ = ["DIVERGED", "DONE", "STOPPED", "Evaluator", "Plan", "train"]

HOST_NAME_BYTES = 64


def train(plan: Plan) -> int:
    """Run, or go on with, the training that the plan describes, until its last step or a signal.

    Every process of a run calls this. All compute and save; the first one writes logs and speaks.

    Returns:
        The exit code: done, diverged (the guard gave up; the newest checkpoint is from before it), or stopped.

    Raises:
        UserError: the batch does not split over the devices, the folder's checkpoint is another run's, or none is sound.
    """
    settings, quiet = plan.train, jax.process_index() > 0
    microbatch = train_step.microbatch(plan.model, settings, plan.layout)
    optimizer = update_rule.make(plan.optimizer, plan.mup)
    log_hang = lambda doing, seconds, path: run_log.note(plan.folder, "hang", plan.began, doing=doing, seconds=seconds, stacks=path)  # noqa: E731
    with (
        progress.shown(settings.steps, quiet=quiet) as (report, say),
        telemetry.opened(plan.telemetry, plan.folder, say, quiet) as publish,
        profile.on_request(plan.profile, plan.folder, say) as profiler,
        stop.on_signals() as asked_to_stop,
        watchdog.watching(plan.folder, jax.process_index(), log_hang) as dog,
    ):
        parts = Parts(
            step=train_step.make(optimizer, plan.layout, microbatch, settings.accumulation_dtype),
            to_logical=plan.layout.to_logical(start.shapes(plan.model, plan.mup, optimizer, plan.layout)),
            fingerprint=train_step.fingerprint(plan.layout, microbatch, settings.accumulation_dtype),
            diagnose=diagnose.make(plan.layout, microbatch),
            peak=hardware.peak(),
            hosts=_hosts(),
            report=report,
            say=say,
            publish=publish,
            profiler=profiler,
            asked_to_stop=asked_to_stop,
            dog=dog,
        )
        said = f"{jax.device_count()} device(s), each {parts.peak.flops / 1e12:.3g} TFLOP/s at best ({parts.peak.source})"
        say(f"{said}; MFU counts causal FLOPs")
        rewound = False
        while True:
            dog.expect("restoring or initialising the state", guard.hang_limit(plan.guard, []))
            began = time.monotonic()
            beginning = start.begin(plan.folder, plan.model, plan.mup, optimizer, settings, plan.layout, plan.identity)
            checksum.of_tree(to_arrays(parts.to_logical(beginning.state)))  # compiled now, so that the first save is as quick as the others
            try:
                with _opened(plan, beginning, parts, rewound, began) as (run, batches):
                    return run.go_on(beginning.state, batches)
            except Rewind:
                rewound = True
            except GaveUp as error:
                say(f"stopped: {error}; every checkpoint is from before it; docs/reliability.md says what to try")
                return DIVERGED


@contextlib.contextmanager
def _opened(plan: Plan, beginning: start.Beginning, parts: Parts, rewound: bool, began: float) -> Iterator[tuple[Attempt, Iterator]]:
    """Open logs, checkpoints and data at the beginning, and tell of it."""
    settings, counters = plan.train, beginning.counters
    retention = checkpoint.Retention(last=settings.keep_last, every=settings.keep_every, best=settings.keep_best)
    history = plan.mixture(beginning.mixture, counters.data_step)
    with (
        contextlib.closing(
            run_log.open_log(plan.folder, counters.updates, began=plan.began, quiet=jax.process_index() > 0, publish=parts.publish)
        ) as log,
        checkpoint.writer(plan.folder / checkpoint.FOLDER, retention) as checkpoints,
        plan.batches(counters.data_step, history) as batches,
    ):
        lost = {"lost_steps": len(log.dropped), "lost_seconds": sum(row.get("step_seconds", 0.0) for row in log.dropped)}
        if rewound:
            log.event("rewound", step=counters.updates, data_step=counters.data_step, seconds=time.monotonic() - began, **lost)
            parts.say(f"went back to step {counters.updates}; data go on at batch {counters.data_step}")
        else:
            log.event(
                "resume" if counters.updates else "start",
                step=counters.updates,
                seconds=time.monotonic() - plan.began,
                **lost,
                previous_elapsed=log.dropped[-1].get("elapsed") if log.dropped else None,
                devices=jax.device_count(),
                peak_flops=parts.peak.flops,
                peak_source=parts.peak.source,
            )
        for step, reason in beginning.set_aside:
            log.event("damaged", step=step, reason=reason)
            parts.say(
                f"the checkpoint of step {step} is damaged ({reason}); it was set aside, and the run goes on from step {counters.updates}"
            )
        if beginning.mixture and history != beginning.mixture:
            log.event("mixture", step=counters.updates, data_step=counters.data_step, proportions=dict(history[-1][1]))
            parts.say(f"the mixture changes from batch {counters.data_step} on: {dict(history[-1][1])}")
        yield (
            Attempt(plan=plan, parts=parts, log=log, checkpoints=checkpoints, beginning=beginning, history=history, counters=counters),
            batches,
        )


def _hosts() -> list[str]:
    """The machine of each process."""
    name = np.zeros(HOST_NAME_BYTES, np.uint8)
    own = socket.gethostname().encode()[:HOST_NAME_BYTES]
    name[: len(own)] = np.frombuffer(own, np.uint8)
    names = np.asarray(multihost_utils.process_allgather(name)).reshape(-1, HOST_NAME_BYTES)
    return [bytes(row[row > 0]).decode(errors="replace") for row in names]
