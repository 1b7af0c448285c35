"""What runs of tests share: tracing, measuring the device and drawing cost more than the twenty steps of a run."""

import contextlib
import functools
from collections.abc import Callable, Iterator

import pytest

from teleflm_jax.hardware import throughput
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


@contextlib.contextmanager
def shared_traces() -> Iterator[None]:
    """Make one optimizer, one step and one initial state's program and shapes for all runs with equal settings.

    `passes.gradients` is one of the settings of a step, since a test may break it.
    """

    def of_state(model, mup, optimizer, *rest):
        return model, repr(mup), id(optimizer), *rest

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "peak", functools.cache(throughput.peak))
        patch.setattr(loop, "make_optimizer", once(loop.make_optimizer, lambda config, mup: repr((config, mup))))
        patch.setattr(
            train_step, "make", once(train_step.make, lambda optimizer, *settings: (id(optimizer), settings, train_step.passes.gradients))
        )
        patch.setattr(restore, "shapes", once(restore.shapes, of_state))
        patch.setattr(restore, "initializer", once(restore.initializer, lambda *settings: of_state(*settings[:-1])))
        yield
