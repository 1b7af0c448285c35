"""Restoring the state that a run starts from: its own newest sound checkpoint, another run's, or initial weights."""

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from sharding.rules import Layout
from teleflm_jax import checkpoint, mup
from teleflm_jax.errors import UserError
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.observability import run_log
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import Counters, TrainState, factors, from_arrays, new_state, scaled_state, to_arrays, with_weights

PROGRAMS = 8
"""Compiled functions that a process keeps, for further runs of the same shape."""
NONE = -1
"""Step number that means no checkpoint."""
DATA = "data/"
"""Prefix of the names of packed data in a checkpoint's identity."""
COMPUTE = "model.compute_dtype"
"""Entry of an identity in which another run's weights may differ, since they are float32 whatever it computed in."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restored:
    """State that a run starts from."""

    state: TrainState
    """In the runtime layout."""
    counters: Counters
    mixture: tuple = ()
    """`data.mixture.History` of the checkpoint; empty for a new run."""
    rewinds: int = 0
    """Number of times that the run has returned to this checkpoint."""
    set_aside: tuple[tuple[int, str], ...] = ()
    """Newer checkpoints that are damaged: step and reason."""
    branched_from: str | None = None
    """`RUN@step` of the parent, where a branch has no checkpoint of its own yet."""


@functools.lru_cache(maxsize=PROGRAMS)
def shapes(model: ModelConfig, layout: Layout) -> TrainState:
    """Return the canonical shapes of the state, with the shardings that checkpoints are saved and loaded in."""
    any_mup = mup.at_width(mup.MupConfig(), model.d_model)  # no shape depends on it
    return layout.stored(jax.eval_shape(lambda: new_state(model, any_mup, seed=0)))


def restore(
    folder: pathlib.Path,
    model: ModelConfig,
    width: mup.Mup,
    train: TrainConfig,
    layout: Layout,
    identity: Mapping[str, Any],
) -> Restored:
    """Restore the newest sound checkpoint of the folder, or else start from `train.init_from` or at step 0; all processes call it together.

    Newer checkpoints that are damaged are renamed once a sound one is loaded. If the run has rewound since that checkpoint was saved,
    data continue after what the rewind skipped.

    Raises:
        UserError: a checkpoint, or the one that `train.init_from` names, is another model's or tokenizer's; no checkpoint is sound.
    """
    canonical = shapes(model, layout)
    checkpoints, damaged = folder / checkpoint.FOLDER, []
    candidates = checkpoint.numbered(checkpoints)
    while (step := from_first_process(max(candidates, default=NONE))) != NONE:
        candidates = [older for older in candidates if older < step]
        try:
            arrays, record = checkpoint.restore(checkpoints, step, to_arrays(canonical), identity)
        except checkpoint.Damaged as error:
            damaged.append((step, error.reason))
            continue
        if record.counters.keys() != vars(Counters()).keys():
            damaged.append((step, "its record lacks a counter"))
            continue
        _set_aside(checkpoints, [number for number, _ in damaged])
        rewound = _rewound(folder, step)
        return Restored(
            state=layout.to_runtime(from_arrays(arrays, canonical)),
            counters=_drawn(Counters(**record.counters), rewound["data_step"], train, model),
            mixture=tuple((since, dict(weights)) for since, weights in rewound["mixture"] or record.mixture),
            rewinds=rewound["times"],
            set_aside=tuple(damaged),
        )
    if damaged:
        raise UserError(
            f"got no sound checkpoint in {checkpoints}: {'; '.join(f'{step} ({reason})' for step, reason in damaged)}; "
            "allowed: one that is whole; restore one from a copy, or start a new run in another folder; nothing was changed"
        )
    if train.init_optimizer:
        return _branch(folder, model, train, layout, canonical, identity)
    rewound = _rewound(folder, 0)
    fresh = _fresh(model, width, train, layout, canonical, identity)
    counters = _drawn(Counters(), rewound["data_step"], train, model)
    mixture = tuple((since, dict(weights)) for since, weights in rewound["mixture"])
    return Restored(state=fresh, counters=counters, mixture=mixture, rewinds=rewound["times"])


def _branch(
    folder: pathlib.Path,
    model: ModelConfig,
    train: TrainConfig,
    layout: Layout,
    canonical: TrainState,
    identity: Mapping[str, Any],
) -> Restored:
    """Load all that the parent's checkpoint holds, as though it were the run's own."""
    assert train.init_from is not None  # the run has a parent
    other, step = other_run(train.init_from)
    arrays, record = checkpoint.restore(other / checkpoint.FOLDER, step, to_arrays(canonical), identity)
    refuse_unfit_parent(record, train, model)
    rewound = _rewound(folder, step)
    return Restored(
        state=layout.to_runtime(from_arrays(arrays, canonical)),
        counters=_drawn(Counters(**record.counters), rewound["data_step"], train, model),
        mixture=tuple((since, dict(weights)) for since, weights in rewound["mixture"] or record.mixture),
        rewinds=rewound["times"],
        branched_from=train.init_from,
    )


def refuse_unfit_parent(record: checkpoint.Record, train: TrainConfig, model: ModelConfig) -> None:
    """Raise a `UserError` if a branch cannot continue from the checkpoint with this record."""
    if not any(name.startswith("optimizer/") for name in record.arrays) or record.counters.keys() != vars(Counters()).keys():
        raise UserError(
            f"got train.init_optimizer=True with train.init_from={train.init_from!r}, which has no optimizer state, as imported models do; "
            "allowed: a checkpoint that training saved; remove train.init_optimizer to start with a new optimizer"
        )
    parent, tokens_per_step = Counters(**record.counters), train.batch_size * model.context_length
    if parent.tokens != parent.data_step * tokens_per_step:
        raise UserError(
            f"got train.batch_size={train.batch_size} with train.init_optimizer=True, {tokens_per_step:,} tokens a step, where "
            f"{train.init_from} drew {parent.tokens // parent.data_step:,}; allowed: the same, since schedule and data order count steps; "
            "change train.batch_size, or remove train.init_optimizer"
        )
    if parent.updates >= train.steps:
        raise UserError(
            f"got train.steps={train.steps} with train.init_optimizer=True, where {train.init_from} is at step {parent.updates}; "
            "allowed: more, since a branch counts from its parent's step 0; raise train.steps"
        )


def _fresh(
    model: ModelConfig,
    width: mup.Mup,
    train: TrainConfig,
    layout: Layout,
    canonical: TrainState,
    identity: Mapping[str, Any],
) -> TrainState:
    fresh = initializer(model, layout)(factors(width), jax.random.key(train.seed))
    if train.init_from is None:
        return fresh
    other, step = other_run(train.init_from)
    same = {name: value for name, value in identity.items() if not name.startswith(DATA) and name != COMPUTE}
    weights, _ = checkpoint.restore(other / checkpoint.FOLDER, step, {"model": to_arrays(canonical)["model"]}, same)
    return TrainState(model=layout.to_runtime(with_weights(canonical.model, weights["model"])), optimizer=fresh.optimizer)


@functools.lru_cache(maxsize=PROGRAMS)
def initializer(model: ModelConfig, layout: Layout) -> Callable[[Mapping[str, Any], jax.Array], TrainState]:
    """Return the jitted function that makes a new state in the runtime layout."""
    build = lambda factors, key: layout.to_runtime(scaled_state(model, factors, key))  # noqa: E731
    return jax.jit(build, out_shardings=layout.shardings(shapes(model, layout)))


def _drawn(counters: Counters, data_step: int, train: TrainConfig, model: ModelConfig) -> Counters:
    """Return the counters with the data after what a rewind skipped."""
    if data_step <= counters.data_step:
        return counters
    return dataclasses.replace(counters, data_step=data_step, tokens=data_step * train.batch_size * model.context_length)


def _rewound(folder: pathlib.Path, step: int) -> dict[str, Any]:
    """Return what the ledger says of rewinds since the run saved `step`: how many `times`, to which `data_step` and `mixture`."""
    found = {"times": 0, "data_step": 0, "mixture": []}
    for event in run_log.rows(folder / run_log.EVENTS) if jax.process_index() == 0 else ():
        if event.get("event") == "save" and event.get("step") == step:
            found = {"times": 0, "data_step": 0, "mixture": []}
        elif event.get("event") == "rewind":
            found["times"] += 1
            if event.get("skip_data"):
                found |= {"data_step": event.get("data_step"), "mixture": event.get("mixture")}
    if type(found["data_step"]) is not int or not checkpoint.is_history(found["mixture"]):
        raise UserError(f"got {folder / run_log.EVENTS}, whose last rewind names no data to continue with; allowed: what the run wrote")
    text = np.frombuffer(json.dumps(found).encode(), np.uint8)
    told = np.zeros(from_first_process(len(text)), np.uint8)
    told[: len(text)] = text[: len(told)]
    return json.loads(bytes(np.asarray(multihost_utils.broadcast_one_to_all(told))))


def _set_aside(folder: pathlib.Path, steps: list[int]) -> None:
    for step in steps if jax.process_index() == 0 else ():
        checkpoint.set_aside(folder, step)
    if steps:
        from_first_process(0)  # no process opens the folder before that is done


def from_first_process(value: int | bool) -> int:
    """Return the first process's value on all processes, since a shared disk may show the others an older state."""
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def other_run(init_from: str) -> tuple[pathlib.Path, int]:
    """Split `RUN@step` into a run's folder and a step; raise a `UserError` if it has no checkpoint of that step."""
    run, at, step = init_from.rpartition("@")
    if not at or not step.isdecimal():
        raise UserError(
            f"got train.init_from={init_from!r}; allowed: a run's folder, @ and a step, such as runs/base@1000; change train.init_from"
        )
    try:
        return pathlib.Path(run), checkpoint.choose(pathlib.Path(run) / checkpoint.FOLDER, int(step))
    except UserError as error:
        raise UserError(f"{error} (train.init_from={init_from!r})") from error


def refuse_small_disk(folder: pathlib.Path, model: ModelConfig, layout: Layout) -> None:
    """Raise a `UserError` if the first process's disk has no room for a checkpoint."""
    state_bytes = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(shapes(model, layout)))
    free = shutil.disk_usage(folder).free
    if from_first_process(free < state_bytes):
        raise UserError(
            f"got {free / 1e9:.1f} GB of free disk for {folder}; allowed: at least one checkpoint, {state_bytes / 1e9:.1f} GB; "
            "free some space or use another folder"
        )
