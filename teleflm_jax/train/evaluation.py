"""Evaluations during training."""

import dataclasses
import math
import time
from collections.abc import Callable

from teleflm_jax.model.transformer import Transformer
from teleflm_jax.train import restore, signals
from teleflm_jax.train.context import Context
from teleflm_jax.train.deadlines import EVALUATION, TASKS
from teleflm_jax.train.setup import Plan
from teleflm_jax.train.state import Counters, complete


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Outcome of an evaluation."""

    best: bool = False
    """The step is among the best, so that a checkpoint of it is kept."""
    interrupted: bool = False
    """A stop request ended it; it has no figures and is repeated when the run resumes."""


def is_due(plan: Plan, step: int) -> bool:
    """Return whether an evaluation is due after a step."""
    return plan.evaluate is not None and (plan.train.evaluates_text(step) or plan.train.evaluates_tasks(step))


def evaluate(context: Context, counters: Counters, model: Transformer, draw: Callable[[], object]) -> Evaluated:
    """Run the evaluator, log its figures and draw the curves; all processes call it together."""
    plan, step = context.plan, counters.updates
    assert plan.evaluate is not None  # else no step is due
    kind = TASKS if plan.train.evaluates_tasks(step) else EVALUATION
    context.deadlines.expect(f"evaluating after step {step}", kind)
    began = time.monotonic()

    def pause() -> None:
        if signals.on_any_process(context.setup.stop_requested()):
            raise signals.Interrupted

    try:
        figures = plan.evaluate(step, complete(model, plan.mup), pause)
    except signals.Interrupted:
        context.log.event("interrupted", step=step, seconds=time.monotonic() - began)
        context.setup.log(f"a signal ended the evaluation after step {step}; it is repeated when the run resumes")
        return Evaluated(interrupted=True)
    epochs = {f"epochs/{domain}": passed for domain, passed in plan.epochs(counters.data_step, context.history).items()}
    context.log.evaluation({"step": step, "tokens": counters.tokens, **figures, **epochs})
    draw()
    seconds = time.monotonic() - began
    context.deadlines.took(kind, seconds)
    context.log.event("eval", step=step, seconds=seconds)
    described = [f"{name} {value:.3f}" for name, value in figures.items() if name.startswith(("bpb", "suite/"))]
    context.setup.log(f"step {step}: " + "  ".join(described))
    bpb = figures.get("bpb", math.nan)
    return Evaluated(best=math.isfinite(bpb) and bool(restore.from_first_process(context.checkpoints.measured(step, bpb))))
