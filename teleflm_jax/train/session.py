"""One way of a run: from a beginning, step by step, to the end, a signal, or a rewind."""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from teleflm_jax import checkpoint, checksum
from teleflm_jax.errors import UserError
from teleflm_jax.hardware import throughput
from teleflm_jax.model import size
from teleflm_jax.mup import MATRIX, VECTOR
from teleflm_jax.observability import run_log, watchdog
from teleflm_jax.optim import optimizer as update_rule
from teleflm_jax.train import diagnose, guard, restore, signals
from teleflm_jax.train import step as train_step
from teleflm_jax.train.config import due
from teleflm_jax.train.setup import GaveUp, History, Outcome, Parts, Plan, Rewind
from teleflm_jax.train.state import Counters, TrainState, to_arrays

LATE_PROBES = 3
"""In a row, before a process is called slow."""
MAX_EMPTY = 1_000
"""Batches in a row without a target that counts, before a run would draw such batches for ever."""
RECENT = 50
"""Steps from which the watchdog learns how long one takes."""


@dataclasses.dataclass(kw_only=True)
class Attempt:
    """One way from a beginning to the end or to a rewind."""

    plan: Plan
    parts: Parts
    log: run_log.RunLog
    checkpoints: checkpoint.Writer
    beginning: restore.Beginning
    history: History
    counters: Counters
    """Of steps whose figures are known."""
    draw: Callable[[], object]
    """Draws the run's curves, in the process that writes its logs."""
    memory: guard.Memory = guard.Memory()
    mark: float = 0.0
    """When the last known step was done."""
    taken: list[float] = dataclasses.field(default_factory=list)
    """Seconds of recent steps; from these, and the next two, the watchdog learns."""
    summed: list[float] = dataclasses.field(default_factory=list)
    """Seconds of recent checksums of the state."""
    evaluated: list[float] = dataclasses.field(default_factory=list)
    """Seconds of recent evaluations without benchmark tasks."""
    asked: list[float] = dataclasses.field(default_factory=list)
    """Seconds of recent evaluations with them."""
    skipped: int = 0
    """Updates in a row, up to now, that were not finite."""
    empty: int = 0
    """Batches in a row, up to now, without a target that counts."""
    risen: float = -math.inf
    """Update at which a rise was last told."""
    saved: bool = False
    """Whether a checkpoint was saved on this way."""
    waited: np.ndarray | float = 0.0
    """Seconds that each device's process has waited for data since the last probe."""
    waits: int = 0
    """Steps since then."""
    late: dict[int, int] = dataclasses.field(default_factory=dict)
    """Process -> probes in a row at which it was slow."""
    drawn: int = 0
    """Batches, those under way included."""
    compiled: bool = False

    def go_on(self, state: TrainState, batches: Iterator) -> Outcome:
        """The loop. A step's figures are read only when the next step is under way, so that the devices never wait for the host."""
        settings = self.plan.train
        self.drawn = self.counters.data_step
        if self.counters.updates >= settings.steps:
            self.parts.say(f"step {self.counters.updates} of {settings.steps} is done already; raise train.steps to go on")
        if self.counters.updates and self._is_due_for_evaluation(self.counters.updates) and not restore.agreed(self.log.evaluated):
            _, owed = self._evaluate(state)  # a signal or a kill came before its end
            if owed:
                self._leave()
                return Outcome.STOPPED
        pending, self.mark = None, time.monotonic()
        while self.counters.updates < settings.steps:
            expected = self.counters.updates + (pending is not None) + 1
            saving = expected == settings.steps or due(expected, settings.checkpoint_every)
            self.parts.dog.expect("beginning a profile", self._patience())
            self.parts.profiler.before(expected, state)
            state, current = self._advance(state, batches, expected, pending is not None, saving)
            self.parts.profiler.after(state, lambda: self.parts.dog.expect("writing a profile", self._patience()))
            if self.checkpoints.is_due():
                self.parts.dog.expect("reading the first checkpoint back", self._patience())
                self.checkpoints.read_back()
            stopping, pending = self._settle(pending, state), current
            if stopping or saving or self._is_due_for_evaluation(expected) or self._is_due_for_probe(expected):
                stopping, pending = self._settle(pending, state) or stopping, None
                if self._rest(state, stopping):
                    return Outcome.STOPPED
        self._finish()
        return Outcome.COMPLETED

    def _rest(self, state: TrainState, stopping: bool) -> bool:
        """Between two steps, with none under way: probe, save, evaluate; says whether the run is to leave now.

        It saves first: an evaluation may take hours, and a kill meanwhile must not cost the steps before it.
        """
        done = self.counters.updates
        last = done == self.plan.train.steps
        fresh = not (self.skipped or self.empty)  # else the state is that of the last rest, or of an update that was not due
        saving = fresh and (last or due(done, self.plan.train.checkpoint_every))
        owed = evaluating = fresh and self._is_due_for_evaluation(done)
        if fresh and self._is_due_for_probe(done):
            self._probe()
        stopping = signals.agreed(stopping or self.parts.asked_to_stop())
        if saving or evaluating or stopping:
            arrays, sums, taken = self._summed(state)
            if saving:
                self._save(arrays, sums, taken)
            if evaluating and not stopping:
                best, owed = self._evaluate(state)
                stopping = owed or signals.agreed(self.parts.asked_to_stop())
                saving = saving or best
            if saving or stopping:
                self._save(arrays, sums, taken)
        if stopping and (owed or not last):
            self._leave()
            return True
        self.mark = time.monotonic()
        return False

    def _summed(self, state: TrainState) -> tuple[dict, dict[str, int], float]:
        """The state as a checkpoint holds it, its checksums, and the seconds that these took; a state that is not finite is left."""
        self.parts.dog.expect(f"taking checksums after step {self.counters.updates}", guard.hang_limit(self.plan.guard, self.summed))
        began = time.monotonic()
        arrays = to_arrays(self.parts.to_logical(state))
        sums, finite = checksum.of_tree(arrays)
        if not finite:
            self._go_back("weights or optimizer state are not finite", skip_data=True)
        taken = time.monotonic() - began
        self.summed = [*self.summed, taken][-RECENT:]
        return arrays, sums, taken

    def _leave(self) -> None:
        """Wait for the checkpoint of this step, and say that the run stops here."""
        done = self.counters.updates
        self.parts.dog.expect(f"writing the checkpoint of step {done}", self._patience())
        self.checkpoints.wait()
        self.log.event("stop", step=done)
        self.parts.say(f"stopped by a signal after saving step {done}; the same command goes on from there")

    def _advance(self, state: TrainState, batches: Iterator, expected: int, ahead: bool, saving: bool) -> tuple[TrainState, dict]:
        """Begin one update; returns before the devices have done it. `ahead`: whether the one before it is not known yet.

        What each process has to say, such as that it was asked to stop, is sent along with the step, so that all learn of it at the same
        one and nothing waits for it.
        """
        plan, known = self.plan, self.counters
        self.parts.dog.expect(f"waiting for the data of step {expected}", guard.hang_limit(plan.guard, self.taken))
        began = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - began
        tokens = plan.tokens_per_step
        rates = [
            # the schedule counts updates, so that a skipped one leaves it where it was
            update_rule.rates(plan.optimizer, plan.mup, tokens=(known.updates + i) * tokens, tokens_per_step=tokens)
            for i in range(train_step.AHEAD)
        ]
        checking = saving or self._is_due_for_evaluation(expected) or due(expected, plan.guard.copies_every)
        orders = train_step.orders(
            plan.layout,
            rates={role: tuple(one[role] for one in rates) for role in rates[0]},
            updates=known.updates,
            words=(float(self.parts.asked_to_stop()), waited),
            check=checking and plan.guard.copies_every > 0,
        )
        placed = plan.layout.place_batch(batch, plan.train.batch_size)
        if due(expected, plan.guard.recompute_every):
            self._recompute(state, placed)
        joint = watchdog.joint(dict(plan.layout.mesh.shape))
        doing = f"{joint} of step {expected - ahead}" if self.compiled else "compiling the training step"
        self.parts.dog.expect(doing, guard.hang_limit(plan.guard, self.taken))
        began = time.monotonic()
        state, figures = self.parts.step(state, placed, orders)
        if not self.compiled:
            self.compiled, now = True, time.monotonic()
            jax.block_until_ready(state)
            stepped = time.monotonic()
            checksum.of_tree(to_arrays(self.parts.to_logical(state)))  # compiled now, so that the first save is as quick as the others
            summed = time.monotonic() - stepped  # compilation too, and no part of the first step
            self.log.event("compile", step=known.updates, seconds=now - began + summed)
            self.mark = now - waited + summed
        self.drawn += 1
        asked = {"checked": bool(orders.check), "batch": placed, "base": known.updates, "rates": rates, "data_wait_seconds": waited}
        return state, figures | asked

    def _settle(self, pending: dict | None, state: TrainState) -> bool:
        """Wait for a step's figures and log them, or what was wrong; says whether any process was asked to stop."""
        if pending is None:
            return False
        loss, norm, words = float(pending["loss"]), float(pending["grad_norm"]), np.asarray(pending["words"])
        done, known = time.monotonic(), self.counters
        self.parts.dog.expect(f"logging step {known.updates + 1}", self._patience())
        seconds, self.mark = done - self.mark, done
        finite, targets = math.isfinite(loss) and math.isfinite(norm), float(pending["targets"])
        updated = finite and targets != 0
        self.counters = Counters(
            updates=known.updates + updated, data_step=known.data_step + 1, tokens=known.tokens + self.plan.tokens_per_step
        )
        if pending["checked"]:
            self._refuse_odd_copies(np.asarray(pending["copies"]))
        if not updated:
            self._skip(pending, state, loss, norm, seconds) if not finite else self._pass_over(pending, seconds)
            return bool(words[:, 0].any())
        self.skipped = self.empty = 0
        self.waited, self.waits = self.waited + words[:, 1], self.waits + 1
        self.taken = [*self.taken, seconds][-RECENT:]
        rates = pending["rates"][known.updates - pending["base"]]
        speed = self.plan.tokens_per_step / seconds
        peak = self.parts.peak.flops * jax.device_count()
        row = {
            "step": self.counters.updates,
            "tokens": self.counters.tokens,
            "positions": self.plan.tokens_per_step,
            "targets": int(targets),
            "loss": loss,
            "grad_norm": norm,
            "learning_rate": rates[VECTOR],
            "matrix_learning_rate": rates[MATRIX],
            "data_wait_seconds": pending["data_wait_seconds"],
            "step_seconds": seconds,
            "tokens_per_second": speed,
            "mfu": speed * size.flops_per_token(self.plan.model)["causal"] / peak,
        }
        self.log.metrics(row)
        self.parts.report(row)
        self._judge(loss, norm)
        return bool(words[:, 0].any())

    def _skip(self, pending: dict, state: TrainState, loss: float, norm: float, seconds: float) -> None:
        """The devices have left the state as it was; find out why, and go back if that does not help."""
        self.skipped += 1
        self.parts.dog.expect("finding out what is not finite", self._patience())
        findings = self.parts.diagnose(state, pending["batch"], pending["bad"])
        why = diagnose.summary(findings)
        told = f"{self.skipped} in a row: loss {loss}, gradient norm {norm}; {why}"
        self._tell_of_skip(findings, told, seconds=seconds, loss=str(loss), grad_norm=str(norm), why=why)
        if findings["weights"]:
            self._go_back(why, skip_data=True)
        if self.skipped > self.plan.guard.max_skips:
            self._go_back(f"{self.skipped} updates in a row had no finite loss or gradient", skip_data=True)
        self.mark = time.monotonic()

    def _pass_over(self, pending: dict, seconds: float) -> None:
        """Tell of a batch without a target that counts: the devices have left the state as it was, and nothing is wrong with it."""
        self.empty += 1
        why = f"none of the batch's {pending['batch']['weights'].size:,} targets counts (all weights are 0)"
        records = self._tell_of_skip({"why": why}, why, seconds=seconds, why=why)
        if self.empty == MAX_EMPTY:
            raise UserError(
                f"got {self.empty:,} batches in a row without a target that counts, up to {records}; allowed: data whose targets count; "
                "look at that file's records, and pack or choose other data"
            )
        self.mark = time.monotonic()

    def _tell_of_skip(self, findings: Mapping[str, Any], told: str, **fields: Any) -> pathlib.Path:
        """Write down the findings and the batch's records; returns where."""
        data_step = self.counters.data_step - 1
        path = self.plan.folder / diagnose.FOLDER / f"{data_step}.json"
        if jax.process_index() == 0:
            diagnose.write(path, data_step, findings, self.plan.records(data_step, self.history))
        self.log.event("skip", step=self.counters.updates, data_step=data_step, **fields)
        self.parts.say(f"update {self.counters.updates + 1} is skipped, {told}; its records: {path}")
        return path

    def _go_back(self, reason: str, *, skip_data: bool) -> None:
        """Leave for the newest sound checkpoint, or give up; the ledger remembers, should the process die on the way."""
        self.parts.dog.expect("waiting for what is still being written", self._patience())
        before = 0 if self.saved else self.beginning.rewinds
        if before >= self.plan.guard.max_rewinds:
            self.log.event("diverged", step=self.counters.updates, reason=reason)
            raise GaveUp(f"{reason}, after going back {before} time(s) to the same checkpoint")
        what = {"data_step": self.drawn, "skip_data": skip_data, "mixture": self.history, "reason": reason}
        self.log.event("rewind", step=self.counters.updates, **what)
        self.parts.say(f"{reason}: going back to the newest sound checkpoint" + (", past the data in between" if skip_data else ""))
        raise Rewind

    def _judge(self, loss: float, norm: float) -> None:
        """Spikes are recorded and left alone; a rise is told, and heeded if that is asked for."""
        verdict = guard.judge(self.plan.guard, self.memory, loss, norm)
        self.memory, step = self.memory.with_step(loss, norm), self.counters.updates
        if verdict is None or (verdict.event == guard.RISE and step - self.risen < self.plan.guard.rise_steps):
            return
        self.log.event(verdict.event, step=step, **verdict.figures)
        if verdict.event == guard.RISE:
            self.risen, told = step, f"step {step}: {verdict.text}"
            if self.plan.guard.rewind_on_rise:
                self._go_back(told, skip_data=True)
            self.parts.say(f"{told}; guard.rewind_on_rise = True would go back and skip the data since the newest checkpoint")

    def _refuse_odd_copies(self, copies: np.ndarray) -> None:
        """Weights that groups hold alike must be alike; data are not at fault, so they are drawn again."""
        layout = self.plan.layout
        odd = guard.odd_copies(copies, tuple(layout.mesh.shape.values()), layout.processes())
        if odd:
            self._corrupted("copies of the weights differ between data-parallel groups", odd)

    def _recompute(self, state: TrainState, batch: Any) -> None:
        """Compute the batch's gradients twice; bits that differ are the hardware's doing."""
        self.parts.dog.expect("computing a step's gradients twice", self._patience())
        once, again = (jax.device_get(self.parts.fingerprint(state.model, batch)) for _ in range(2))
        odd = sorted(set(map(int, self.plan.layout.processes()[once[1] != again[1]])))
        if odd or not np.array_equal(once[0], again[0], equal_nan=True):
            self._corrupted("the same gradients, computed twice, differ", odd)

    def _corrupted(self, what: str, processes: list[int]) -> None:
        named = ", ".join(f"{process} ({self.parts.hosts[process]})" for process in processes) or "unknown"
        self.log.event("corruption", step=self.counters.updates, what=what, processes=processes)
        self._go_back(f"{what}; suspect: process {named}; leave its machine out if that comes again", skip_data=False)

    def _probe(self) -> None:
        """Measure every process's device, and name those that are slow at three probes in a row."""
        self.parts.dog.expect("measuring the devices", self._patience())
        seconds = np.asarray(multihost_utils.process_allgather(np.float32(throughput.probe()))).reshape(-1)
        waits = np.asarray(self.waited / self.waits)[np.unique(self.plan.layout.processes(), return_index=True)[1]]
        found = guard.late(self.plan.guard, seconds, waits, float(np.median(self.taken)))
        self.waited, self.waits, self.late = 0.0, 0, {process: self.late.get(process, 0) + 1 for process in found}
        for process in (process for process, times in self.late.items() if times == LATE_PROBES):
            self.log.event("slow", step=self.counters.updates, process=process, host=self.parts.hosts[process], why=found[process])
            self.parts.say(f"process {process} ({self.parts.hosts[process]}) is slow: {found[process]}")

    def _is_due_for_evaluation(self, step: int) -> bool:
        return self.plan.evaluate is not None and (self.plan.train.measures(step) or self.plan.train.asks(step))

    def _is_due_for_probe(self, step: int) -> bool:
        return jax.process_count() > 1 and due(step, self.plan.guard.probe_every)

    def _evaluate(self, state: TrainState) -> tuple[bool, bool]:
        """Run the evaluator and log what it found; says whether the step is among the best, and whether a signal ended it instead."""
        step = self.counters.updates
        taken = self.asked if self.plan.train.asks(step) else self.evaluated
        self.parts.dog.expect(f"evaluating after step {step}", guard.hang_limit(self.plan.guard, taken))
        began = time.monotonic()
        try:
            assert self.plan.evaluate is not None  # else no step is due
            figures = self.plan.evaluate(step, state.model, self._pause)
        except signals.Interrupted:
            self.log.event("interrupted", step=step, seconds=time.monotonic() - began)
            self.parts.say(f"a signal ended the evaluation after step {step}; it is done when the run goes on")
            return False, True
        epochs = {f"epochs/{domain}": passed for domain, passed in self.plan.epochs(self.counters.data_step, self.history).items()}
        self.log.evaluation({"step": step, "tokens": self.counters.tokens, **figures, **epochs})
        self.draw()
        taken.append(time.monotonic() - began)
        del taken[:-RECENT]
        self.log.event("eval", step=step, seconds=taken[-1])
        told = [f"{name} {value:.3f}" for name, value in figures.items() if name.startswith(("bpb", "suite/"))]
        self.parts.say(f"step {step}: " + "  ".join(told))
        bpb = figures.get("bpb", math.nan)
        return math.isfinite(bpb) and bool(restore.agreed(self.checkpoints.measured(step, bpb))), False

    def _pause(self) -> None:
        """What the evaluator calls again and again."""
        if signals.agreed(self.parts.asked_to_stop()):
            raise signals.Interrupted

    def _save(self, arrays: Mapping[str, Any], sums: Mapping[str, int], taken: float) -> None:
        """Begin to write a checkpoint, whose checksums have taken some seconds, unless this step has one."""
        step = self.counters.updates
        if restore.agreed(self.checkpoints.holds(step)):  # every process must save or none, and each sees the disk for itself
            return
        self.parts.dog.expect(f"beginning to save step {step}", self._patience())
        began = time.monotonic()
        record = checkpoint.Record(counters=dataclasses.asdict(self.counters), mixture=self.history, identity=self.plan.identity)
        self.checkpoints.save(step, arrays, record, sums)
        self.saved = True
        epochs = dict(self.plan.epochs(self.counters.data_step, self.history))
        self.log.event("save", step=step, seconds=taken + time.monotonic() - began, epochs=epochs)

    def _finish(self) -> None:
        """Wait for the last save, draw the curves, close the ledger."""
        self.parts.dog.expect("writing the last checkpoint", self._patience())
        began = time.monotonic()
        self.checkpoints.wait()
        self.checkpoints.prune()  # the last evaluation may have found a better one
        self.log.event("saved", step=self.counters.updates, seconds=time.monotonic() - began)
        if self.plan.evaluate is None:  # the last evaluation drew them else
            self.draw()
        self.log.event("done", step=self.counters.updates, tokens=self.counters.tokens)

    def _patience(self) -> float:
        """Seconds that anything but a step may take."""
        return guard.hang_limit(self.plan.guard, [])
