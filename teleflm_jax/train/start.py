"""Where a run begins: fresh weights, another run's weights, or its own newest checkpoint."""

import dataclasses
import pathlib
import shutil

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils

from sharding.rules import Layout
from teleflm_jax import checkpoint
from teleflm_jax.errors import UserError
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.mup import Mup
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import Counters, TrainState, from_arrays, new_state, to_arrays, with_weights

NONE = -1
"""No checkpoint."""


def shapes(model: ModelConfig, mup: Mup, optimizer: optax.GradientTransformation, layout: Layout) -> TrainState:
    """The state's logical shapes, with the shardings that checkpoints are saved and loaded in."""
    return layout.stored(jax.eval_shape(lambda: new_state(model, mup, optimizer, seed=0)))


def state(
    folder: pathlib.Path, model: ModelConfig, mup: Mup, optimizer: optax.GradientTransformation, train: TrainConfig, layout: Layout
) -> tuple[TrainState, Counters]:
    """The state to go on from, in the layout's physical form: the newest checkpoint of FOLDER if there is one, else step 0.

    Raises:
        UserError: the checkpoint, or the one that `train.init_from` names, has other arrays than this model; the disk is too full for one.
    """
    logical = shapes(model, mup, optimizer, layout)
    _refuse_small_disk(folder, sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(logical)))
    checkpoints = folder / checkpoint.FOLDER
    checkpoint.refuse_damaged(checkpoints)
    step = agreed(max(checkpoint.steps(checkpoints), default=NONE))
    if step != NONE:
        arrays, counters = checkpoint.restore(checkpoints, step, to_arrays(logical))
        return layout.physical(from_arrays(arrays, logical)), _counters(checkpoints / str(step), counters)
    build = lambda: layout.physical(new_state(model, mup, optimizer, train.seed))  # noqa: E731
    fresh = jax.jit(build, out_shardings=layout.shardings(logical))()
    if train.init_from is None:
        return fresh, Counters()
    other, step = other_run(train.init_from)
    weights, _ = checkpoint.restore(other / checkpoint.FOLDER, step, {"model": to_arrays(logical)["model"]})
    borrowed = layout.physical(with_weights(logical.model, weights["model"]))
    return TrainState(model=borrowed, optimizer=fresh.optimizer), Counters()


def agreed(found: int) -> int:
    """What the first process found, told to all: a shared disk may show the others an older state."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(found)))


def _counters(path: pathlib.Path, saved: dict) -> Counters:
    names = [field.name for field in dataclasses.fields(Counters)]
    if (
        sorted(saved) != sorted(names)
        or not all(type(saved[name]) is int and saved[name] >= 0 for name in names)
        or str(saved["updates"]) != path.name
    ):
        raise UserError(
            f"got the checkpoint {path} without its counters; allowed: a whole one; restore it, or remove it to go on from an older one"
        )
    return Counters(**saved)


def other_run(init_from: str) -> tuple[pathlib.Path, int]:
    """Split `RUN@step` into a run's folder and a step of which it has a checkpoint; raises a `UserError` if there is none."""
    run, at, step = init_from.rpartition("@")
    if not at or not step.isdecimal():
        raise UserError(
            f"got train.init_from={init_from!r}; allowed: a run's folder, @ and a step, such as runs/base@1000; change train.init_from"
        )
    return pathlib.Path(run), checkpoint.choose(pathlib.Path(run) / checkpoint.FOLDER, int(step))


def _refuse_small_disk(folder: pathlib.Path, state_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < state_bytes:
        raise UserError(
            f"got {free / 1e9:.1f} GB of free disk for {folder}; allowed: at least one checkpoint, {state_bytes / 1e9:.1f} GB; "
            "free some space or choose another --workdir"
        )
