"""Search for the cause of a loss or gradient that is not finite."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharding.rules import Layout
from teleflm_jax import atomic_write, checksum, passes
from teleflm_jax.model.transformer import Multipliers
from teleflm_jax.train import step as train_step
from teleflm_jax.train.state import TrainState

FOLDER = "skipped"
"""Folder in a run's folder, with a file for each skipped update."""
LISTED = 6
"""Most names in a message; the file has all."""


def make(layout: Layout, microbatch_size: int, multipliers: Multipliers) -> Callable[[TrainState, Any, Any], dict]:
    """Return the function `(state, batch, flags) -> findings`, which all processes call together.

    `flags` come from the step, so that `gradients` is exact. The state may be one update later; `first_layer` and `rows` describe the batch
    under the present weights, and are empty if everything is finite now: then the fault was transient, which points at hardware rather than
    at weights or data.
    """
    forward = passes.health(layout, microbatch_size)
    weights_not_finite = jax.jit(
        lambda state: (train_step.not_finite(state.model), jax.tree.map(lambda x: ~jnp.isfinite(x).all(), state.optimizer)),
        out_shardings=layout.replicated(),
    )

    def findings(state: TrainState, batch: Any, flags: Any) -> dict:
        weights, moments = jax.device_get(weights_not_finite(state))
        layers, losses = jax.device_get(forward(state.model, batch, multipliers))
        order = layout.layer_order(len(layers))
        bad_layers = sorted(int(order[index]) for index in np.flatnonzero(layers))
        return {
            "gradients": _named(jax.device_get(flags), layout),
            "weights": _named(weights, layout) + (["optimizer"] if any(jax.tree.leaves(moments)) else []),
            "first_layer": bad_layers[0] if bad_layers else None,
            "rows": np.flatnonzero(~np.isfinite(losses).all(axis=1)).tolist(),
        }

    return findings


def _named(flags: Mapping, layout: Layout) -> list[str]:
    """Return the weights whose flag is set, as `blocks/attention/query of layer 3`, by layer."""
    found = []
    for path, flag in jax.tree_util.tree_leaves_with_path(flags):
        name = checksum.name(path)
        if np.ndim(flag):
            order = layout.layer_order(len(flag))
            found += [(int(order[index]), f"{name} of layer {order[index]}") for index in np.flatnonzero(flag)]
        elif flag:
            found.append((-1, name))
    return [name for _, name in sorted(found)]


def write(path: pathlib.Path, data_step: int, findings: Mapping[str, Any], records: Sequence) -> None:
    """Write the findings and the origin of each row of the batch as JSON."""
    path.parent.mkdir(exist_ok=True)
    facts = {"data_step": data_step, **findings, "records": list(records)}
    atomic_write.write(path, json.dumps(facts, ensure_ascii=False, indent=1).encode())


def summary(findings: Mapping[str, Any]) -> str:
    """Describe the findings for a message."""
    if findings["weights"]:
        return f"weights are not finite: {_some(findings['weights'])}"
    words = [f"gradients of {_some(findings['gradients'])}"] if findings["gradients"] else []
    if findings["first_layer"] is not None:
        words.append(f"the first layer whose output is not finite is {findings['first_layer']}")
    if findings["rows"]:
        words.append(f"rows {_some([str(row) for row in findings['rows']])} of the batch")
    if findings["first_layer"] is None and not findings["rows"]:
        words.append("the batch is harmless when it is tried again, which points at hardware")
    return "; ".join(words)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
