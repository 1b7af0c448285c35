"""Runs here share what is traced for one shape and draw no curves: tracing and drawing cost more than the twenty steps of a run."""

from collections.abc import Callable, Iterator

import pytest

from teleflm_jax.observability import curves
from teleflm_jax.train import loop, restore
from teleflm_jax.train import step as train_step


def once(function: Callable, key: Callable) -> Callable:
    """A function that is called once for each key of its arguments, which stay, so that no other object takes their ids."""
    found = {}

    def call(*arguments):
        wanted = key(*arguments)
        if wanted not in found:
            found[wanted] = function(*arguments), arguments
        return found[wanted][0]

    return call


@pytest.fixture(scope="package", autouse=True)
def shared_traces() -> Iterator[None]:
    """Make one optimizer, one step and one set of shapes for all runs with equal settings.

    `passes.gradients` is one of the settings of a step, since a test may break it.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "make_optimizer", once(loop.make_optimizer, lambda config, mup: repr((config, mup))))
        patch.setattr(
            train_step, "make", once(train_step.make, lambda optimizer, *settings: (id(optimizer), settings, train_step.passes.gradients))
        )
        patch.setattr(
            restore, "shapes", once(restore.shapes, lambda model, mup, optimizer, layout: (model, repr(mup), id(optimizer), layout))
        )
        yield


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Draw nothing; the run that `uninterrupted` makes for a whole module comes before this."""
    monkeypatch.setattr(curves, "draw", lambda logs: None)
