"""Training from one restored state: step by step until completion, a stop, or a rewind."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from teleflm_jax import checksum
from teleflm_jax.hardware import throughput
from teleflm_jax.model import size
from teleflm_jax.mup import MATRIX, VECTOR
from teleflm_jax.observability import watchdog
from teleflm_jax.optim.optimizer import learning_rates
from teleflm_jax.train import evaluation, guard, incidents, restore, saving, signals, stragglers
from teleflm_jax.train import step as train_step
from teleflm_jax.train.config import due
from teleflm_jax.train.context import Context
from teleflm_jax.train.deadlines import STEP
from teleflm_jax.train.setup import Outcome
from teleflm_jax.train.state import Counters, TrainState, to_arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepInFlight:
    """A step that the devices may still be computing."""

    outputs: Mapping[str, Any]
    """From `step.make`."""
    batch: Mapping[str, jax.Array]
    known_updates: int
    """Updates that were known to be done when it was launched."""
    rates: list[dict[str, float]]
    """By role: the rates after `known_updates` and after one more."""
    data_wait_seconds: float
    checks_copies: bool


@dataclasses.dataclass(kw_only=True)
class Session:
    """Train from one restored state until completion, stop or rewind."""

    context: Context
    counters: Counters
    """Counters of the steps whose figures are known."""
    draw: Callable[[], object]
    """Draws the run's curves, in the process that writes its logs."""
    guard_state: guard.GuardState
    straggler_state: stragglers.StragglerState = stragglers.StragglerState()
    drawn: int
    """Batches drawn, those in flight included."""
    mark: float = 0.0
    """Time at which the last known step was done."""
    compiled: bool = False

    def run(self, state: TrainState, batches: Iterator) -> Outcome:
        """Train. A step's figures are read only when the next step is in flight, so that the devices never wait for the host."""
        context, setup, settings = self.context, self.context.setup, self.context.plan.train
        if self.counters.updates >= settings.steps:
            setup.log(f"step {self.counters.updates} of {settings.steps} is done already; raise train.steps to continue")
        if self._owes_evaluation() and evaluation.evaluate(context, self.counters, state.model, self.draw).interrupted:
            saving.stop(context, self.counters.updates)
            return Outcome.STOPPED
        pending, self.mark = None, time.monotonic()
        while self.counters.updates < settings.steps:
            expected = self.counters.updates + (pending is not None) + 1
            context.deadlines.expect("beginning a profile")
            setup.profiler.before(expected, state)
            state, launched = self._launch(state, batches, expected, ahead=pending is not None)
            setup.profiler.after(state, lambda: context.deadlines.expect("writing a profile"))
            saving.read_back(context)
            stopping, pending = self._consume_metrics(pending, state), launched
            if stopping or self._pauses_after(expected):
                stopping, pending = self._consume_metrics(pending, state) or stopping, None
                if self._at_boundary(state, stopping):
                    return Outcome.STOPPED
        saving.finish(context, self.counters.updates)
        if context.plan.evaluate is None:  # otherwise the last evaluation has drawn them
            self.draw()
        context.log.event("done", step=self.counters.updates, tokens=self.counters.tokens)
        return Outcome.COMPLETED

    def _owes_evaluation(self) -> bool:
        """Return whether the restored step's evaluation is missing, because a stop or a kill came before its end."""
        step = self.counters.updates
        return bool(step and evaluation.is_due(self.context.plan, step) and not restore.from_first_process(self.context.log.evaluated))

    def _pauses_after(self, step: int) -> bool:
        """Return whether anything is due after the step for which no other step may be in flight."""
        plan = self.context.plan
        return saving.is_due(plan, step) or evaluation.is_due(plan, step) or self._is_due_for_probe(step)

    def _is_due_for_probe(self, step: int) -> bool:
        return jax.process_count() > 1 and due(step, self.context.plan.guard.probe_every)

    def _at_boundary(self, state: TrainState, stopping: bool) -> bool:
        """Probe, save and evaluate while no step is in flight; return whether the run stops now.

        Saving comes first: an evaluation may take hours, and a kill meanwhile must not cost the steps before it.
        """
        context, done = self.context, self.counters.updates
        last = done == context.plan.train.steps
        fresh = self.guard_state.settled  # otherwise the state is that of the last boundary, or of an update that was not due
        saves = fresh and saving.is_due(context.plan, done)
        owed = evaluates = fresh and evaluation.is_due(context.plan, done)
        if fresh and self._is_due_for_probe(done):
            self._probe()
        stopping = signals.on_any_process(stopping or context.setup.stop_requested())
        if saves or evaluates or stopping:
            taken = saving.snapshot(context, done, state)
            if not taken.finite:
                self._rewind("weights or optimizer state are not finite", skip_data=True)
            if saves:
                self._save(taken)
            if evaluates and not stopping:
                found = evaluation.evaluate(context, self.counters, state.model, self.draw)
                owed, saves = found.interrupted, saves or found.best
                stopping = owed or signals.on_any_process(context.setup.stop_requested())
            if saves or stopping:
                self._save(taken)
        if stopping and (owed or not last):
            saving.stop(context, done)
            return True
        self.mark = time.monotonic()
        return False

    def _save(self, taken: saving.Snapshot) -> None:
        if saving.save(self.context, self.counters, taken):
            self.guard_state = self.guard_state.after_save()

    def _launch(self, state: TrainState, batches: Iterator, expected: int, *, ahead: bool) -> tuple[TrainState, StepInFlight]:
        """Launch one update without waiting for the devices. `ahead`: the figures of the update before it are not known yet.

        Each process's signals, such as a request to stop, are sent along with the step: all learn of them at the same step, and nothing
        waits for it.
        """
        context, plan, known = self.context, self.context.plan, self.counters
        context.deadlines.expect(f"waiting for the data of step {expected}", STEP)
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        rates = self._rates()
        checks_copies = plan.guard.copies_every > 0 and (
            saving.is_due(plan, expected) or evaluation.is_due(plan, expected) or due(expected, plan.guard.copies_every)
        )
        inputs = train_step.step_inputs(
            plan.layout,
            plan.optimizer,
            plan.mup,
            rates={role: tuple(candidate[role] for candidate in rates) for role in rates[0]},
            updates=known.updates,
            host_signals=(float(context.setup.stop_requested()), waited),
            check_copies=checks_copies,
        )
        placed = plan.layout.place_batch(batch, plan.train.batch_size)
        if due(expected, plan.guard.recompute_every):
            odd = incidents.odd_gradients(context, state, placed)
            if odd is not None:
                self._corrupted("the same gradients, computed twice, differ", odd)
        waiting = f"{watchdog.joint(dict(plan.layout.mesh.shape))} of step {expected - ahead}"
        context.deadlines.expect(waiting if self.compiled else "compiling the training step", STEP)
        began = time.monotonic()
        state, outputs = context.setup.step(state, placed, inputs)
        if not self.compiled:
            self._first_step(state, began, waited)
        self.drawn += 1
        return state, StepInFlight(
            outputs=outputs,
            batch=placed,
            known_updates=known.updates,
            rates=rates,
            data_wait_seconds=waited,
            checks_copies=checks_copies,
        )

    def _rates(self) -> list[dict[str, float]]:
        """Return the rates by role after the known updates and after one more: a skipped update leaves the schedule where it was."""
        plan, tokens = self.context.plan, self.context.plan.tokens_per_step
        return [
            learning_rates(plan.optimizer, plan.mup, tokens=(self.counters.updates + i) * tokens, tokens_per_step=tokens)
            for i in range(train_step.RATE_CANDIDATES)
        ]

    def _first_step(self, state: TrainState, began: float, waited: float) -> None:
        """Wait for the first step and compile the checksums, so that the first save is as fast as the others; log these seconds."""
        self.compiled, now = True, time.monotonic()
        jax.block_until_ready(state)
        stepped = time.monotonic()
        checksum.of_tree(to_arrays(self.context.setup.to_canonical(state)))
        summed = time.monotonic() - stepped  # is compilation as well, and no part of the first step
        self.context.log.event("compile", step=self.counters.updates, seconds=now - began + summed)
        self.mark = now - waited + summed

    def _consume_metrics(self, pending: StepInFlight | None, state: TrainState) -> bool:
        """Wait for a step's figures, log them and act on them; return whether any process asks to stop."""
        if pending is None:
            return False
        outputs, known, plan = pending.outputs, self.counters, self.context.plan
        loss, norm, received = float(outputs["loss"]), float(outputs["grad_norm"]), np.asarray(outputs["host_signals"])
        done = time.monotonic()
        self.context.deadlines.expect(f"logging step {known.updates + 1}")
        seconds, self.mark = done - self.mark, done
        seen = guard.Observation(step=known.updates, loss=loss, grad_norm=norm, targets=float(outputs["targets"]))
        seen = seen if seen.skipped else dataclasses.replace(seen, step=known.updates + 1)
        self.counters = Counters(updates=seen.step, data_step=known.data_step + 1, tokens=known.tokens + plan.tokens_per_step)
        if pending.checks_copies and (odd := incidents.odd_copies(self.context, np.asarray(outputs["copies"]))):
            self._corrupted("copies of the weights differ between data-parallel groups", odd)
        if not seen.skipped:
            self.straggler_state = self.straggler_state.with_step(received[:, 1])
            self.context.deadlines.took(STEP, seconds)
            row = self._row(pending, seen, seconds)
            self.context.log.metrics(row)
            self.context.setup.progress(row)
        self.guard_state, decision = guard.observe(plan.guard, self.guard_state, seen)
        self._act(decision, pending, seen, state, seconds)
        return bool(received[:, 0].any())

    def _row(self, pending: StepInFlight, seen: guard.Observation, seconds: float) -> dict[str, Any]:
        """Return the step's row of metrics.jsonl."""
        plan = self.context.plan
        rates = pending.rates[seen.step - 1 - pending.known_updates]
        speed = plan.tokens_per_step / seconds
        peak = self.context.setup.peak.flops * jax.device_count()
        return {
            "step": seen.step,
            "tokens": self.counters.tokens,
            "positions": plan.tokens_per_step,
            "targets": int(seen.targets),
            "loss": seen.loss,
            "grad_norm": seen.grad_norm,
            "learning_rate": rates[VECTOR],
            "matrix_learning_rate": rates[MATRIX],
            "data_wait_seconds": pending.data_wait_seconds,
            "step_seconds": seconds,
            "tokens_per_second": speed,
            "mfu": speed * size.flops_per_token(plan.model)["causal"] / peak,
        }

    def _act(self, decision: guard.Decision, pending: StepInFlight, seen: guard.Observation, state: TrainState, seconds: float) -> None:
        """Report what the guard has decided about a step, and return to the newest checkpoint if it says so."""
        context, rewind = self.context, decision.rewind
        if seen.skipped == guard.NOT_FINITE:
            flags, skipped = pending.outputs["not_finite"], self.guard_state.skipped
            broken = incidents.report_not_finite(context, self.counters, seen, skipped, state, pending.batch, flags, seconds)
            rewind = broken or rewind
        elif seen.skipped == guard.NO_TARGET:
            incidents.report_no_target(context, self.counters, self.guard_state.empty, pending.batch["weights"].size, seconds)
        elif anomaly := decision.anomaly:
            context.log.event(anomaly.event, step=seen.step, **anomaly.figures)
            if anomaly.event == guard.RISE and not rewind:
                context.setup.log(
                    f"step {seen.step}: {anomaly.text}; guard.rewind_on_rise = True would return to the newest "
                    "checkpoint and skip the data since"
                )
        if rewind:
            self._rewind(rewind, skip_data=True)
        if seen.skipped:
            self.mark = time.monotonic()

    def _corrupted(self, what: str, processes: list[int]) -> None:
        """Return to the newest checkpoint and draw the same data again, which are not at fault."""
        self._rewind(incidents.report_corruption(self.context, self.counters.updates, what, processes), skip_data=False)

    def _rewind(self, reason: str, *, skip_data: bool) -> None:
        incidents.rewind(self.context, self.counters.updates, self.drawn, self.guard_state, reason, skip_data=skip_data)

    def _probe(self) -> None:
        """Measure every process's devices, and name the processes that were late at several probes in a row."""
        context, hosts = self.context, self.context.setup.hosts
        context.deadlines.expect("measuring the devices")
        probes = np.asarray(multihost_utils.process_allgather(np.float32(throughput.probe()))).reshape(-1)
        usual = float(np.median(context.deadlines.durations[STEP]))
        self.straggler_state, named = stragglers.observe(
            context.plan.guard, self.straggler_state, probes, context.plan.layout.processes(), usual
        )
        for process, why in named.items():
            context.log.event("slow", step=self.counters.updates, process=process, host=hosts[process], why=why)
            context.setup.log(f"process {process} ({hosts[process]}) is slow: {why}")
