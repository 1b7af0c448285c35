"""Runs here share the step of one shape and draw no curves: tracing one and drawing the other cost more than twenty steps."""

from collections.abc import Iterator

import pytest

from teleflm_jax.observability import curves
from teleflm_jax.train import loop
from teleflm_jax.train import step as train_step


@pytest.fixture(scope="package", autouse=True)
def shared_steps() -> Iterator[None]:
    """Make one step for all runs with equal settings; `passes.gradients` is among them, since a test may break it."""
    optimizers, steps, make_optimizer, make_step = {}, {}, loop.make_optimizer, train_step.make

    def optimizer(config, rules):
        key = repr((config, rules))
        if key not in optimizers:
            optimizers[key] = make_optimizer(config, rules)
        return optimizers[key]

    def step(optimizer, *settings):
        key = (id(optimizer), settings, train_step.passes.gradients)
        if key not in steps:
            steps[key] = optimizer, make_step(optimizer, *settings)  # the optimizer stays, so that no other has its id
        return steps[key][1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_optimizer", optimizer)
        patch.setattr(train_step, "make", step)
        yield


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Draw nothing; the run that `uninterrupted` makes for a whole module comes before this."""
    monkeypatch.setattr(curves, "draw", lambda logs: None)
