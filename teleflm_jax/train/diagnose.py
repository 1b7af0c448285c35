"""Where numbers first went wrong in a step whose loss or gradient is not finite."""

import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharding.rules import Layout
from teleflm_jax import atomic_write, checksum, passes
from teleflm_jax.train import step as train_step
from teleflm_jax.train.state import TrainState

FOLDER = "skipped"
"""In a run's folder: a file for each update that was skipped."""
LISTED = 6
"""Names in a message; the file has all."""


def make(layout: Layout, microbatch_size: int) -> Callable[[TrainState, Any, Any], dict]:
    """A function `(state, batch, bad) -> findings` that all processes call together.

    The state is as a later step left it: at most one update has been added since. So `gradients`, found in the step itself, is exact;
    `first_layer` and `rows` say what the batch does to the present weights, and are empty where it does nothing bad: then the fault has
    passed, which points at the hardware rather than at weights or data.
    """
    forward = passes.health(layout, microbatch_size)
    weights_not_finite = jax.jit(
        lambda state: (train_step.not_finite(state.model), jax.tree.map(lambda x: ~jnp.isfinite(x).all(), state.optimizer)),
        out_shardings=layout.replicated(),
    )

    def findings(state: TrainState, batch: Any, bad: Any) -> dict:
        weights, moments = jax.device_get(weights_not_finite(state))
        layers, losses = jax.device_get(forward(state.model, batch))
        order = layout.layer_order(len(layers))
        bad_layers = sorted(int(order[place]) for place in np.flatnonzero(layers))
        return {
            "gradients": _named(jax.device_get(bad), layout),
            "weights": _named(weights, layout) + (["optimizer"] if any(jax.tree.leaves(moments)) else []),
            "first_layer": bad_layers[0] if bad_layers else None,
            "rows": np.flatnonzero(~np.isfinite(losses).all(axis=1)).tolist(),
        }

    return findings


def _named(flags: Mapping, layout: Layout) -> list[str]:
    """Weights with a set flag, as `blocks/attention/query of layer 3`, by layer."""
    found = []
    for path, flag in jax.tree_util.tree_leaves_with_path(flags):
        name = checksum.name(path)
        if np.ndim(flag):
            order = layout.layer_order(len(flag))
            found += [(int(order[place]), f"{name} of layer {order[place]}") for place in np.flatnonzero(flag)]
        elif flag:
            found.append((-1, name))
    return [name for _, name in sorted(found)]


def write(path: pathlib.Path, data_step: int, findings: Mapping[str, Any], records: Sequence) -> None:
    """Write the findings and where each row of the batch comes from, as JSON."""
    path.parent.mkdir(exist_ok=True)
    facts = {"data_step": data_step, **findings, "records": list(records)}
    atomic_write.write(path, json.dumps(facts, ensure_ascii=False, indent=1).encode())


def summary(findings: Mapping[str, Any]) -> str:
    """The findings in words, for a message."""
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
