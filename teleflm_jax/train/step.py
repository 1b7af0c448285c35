"""One optimizer update: gradients over the mesh (`passes/`), then the update rule; and the same twice, to compare bits."""

import typing
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sharding import rules
from sharding.rules import Layout
from teleflm_jax import checksum, passes
from teleflm_jax.errors import UserError
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.objectives import cross_entropy
from teleflm_jax.objectives.objective import Objective
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import TrainState, weights_of

SIZES = ("num_heads", "num_kv_heads", "d_ff", "num_layers", "context_length")
"""Of a model, that a mesh splits."""
WORDS = ("stop", "data_wait_seconds")
"""What each process says with every step: whether it was asked to stop, and how long it waited for the batch."""
AHEAD = 2
"""Rates that a step is given: the host does not know yet whether the update before it was skipped."""


class Orders(NamedTuple):
    """What the host tells a step."""

    rates: Mapping[str, Any]
    """Role -> float32 [AHEAD]: rates after `updates` updates and after one more."""
    updates: Any
    """int32: updates that are known to be done."""
    words: Any
    """float32 [devices, WORDS], from `Layout.place_words`; all processes get to know all of it."""
    check: Any
    """bool: compute the checksums of the weights' copies."""


def orders(layout: Layout, *, rates: Mapping[str, tuple[float, ...]], updates: int, words: tuple[float, ...], check: bool) -> Orders:
    """Orders from plain numbers."""
    return Orders(
        rates={role: np.array(values, np.float32) for role, values in rates.items()},
        updates=np.int32(updates),
        words=layout.place_words(words),
        check=np.bool_(check),
    )


def microbatch(model: ModelConfig, train: TrainConfig, layout: Layout) -> int:
    """Sequences that a data-parallel group takes at a time.

    Raises:
        UserError: model or batch do not split over the mesh, or the model computes in a dtype that is not trained in.
    """
    refuse_float16(model)
    rules.refuse_misfit(layout, **{name: getattr(model, name) for name in SIZES})
    return rules.microbatch(train.batch_size, train.microbatch_size, layout)


def refuse_float16(model: ModelConfig) -> None:
    """Raise a `UserError` for a model, such as an imported one, whose gradients would be computed in float16."""
    if model.compute_dtype == "float16":
        raise UserError(
            "got model.compute_dtype='float16' for training; allowed: bfloat16, float32, since small gradients are zero in float16 unless "
            "the loss is scaled; set model.compute_dtype = 'bfloat16'"
        )


def make(
    optimizer: optax.GradientTransformationExtraArgs,
    layout: Layout,
    microbatch_size: int,
    accumulation_dtype: str = "float32",
    objective: Objective = cross_entropy.loss_and_gradients,
) -> Callable:
    """Compile-ready `step(state, batch, orders) -> (state, figures)`; the old state's memory is reused.

    Where the loss or the gradient's norm is not finite, or no target counts, the state comes back as it was, decided on the devices.
    Figures: `loss`, `grad_norm`; `targets`, the sum of their weights; `words` of all processes; `copies`, a checksum of each device
    (`passes.gradients`); `bad`, for each weight whether its gradient is not finite (stacked weights: one for each layer, in physical
    order), computed only where the update is skipped.

    Args:
        optimizer: from `optim.optimizer.make`.
        layout: the mesh and its use; batches arrive split over its `data` axis, the state in physical form.
        microbatch_size: rows that one data-parallel group takes at a time.
        accumulation_dtype: of the sums of gradients.
        objective: the function to minimise.
    """
    gradients = passes.gradients(layout, microbatch_size, accumulation_dtype, objective)

    def step(state: TrainState, batch: passes.Batch, orders: Orders):
        loss, gradient, copies, targets = gradients(state.model, batch, orders.check)
        norm = optax.tree.norm(gradient)
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & (targets != 0)
        index = optax.tree.get(state.optimizer, "count") - orders.updates
        rates = {role: jnp.take(values, index, mode="clip") for role, values in orders.rates.items()}
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, typing.cast(optax.Params, state.model), rates=rates)
        new = TrainState(model=jax.tree.map(jnp.add, state.model, updates), optimizer=optimizer_state)
        new = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, state)
        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: not_finite(gradient)))
        bad = jax.lax.cond(good, lambda: none, lambda: not_finite(gradient))
        return jax.lax.with_sharding_constraint(new, layout.shardings(new)), {
            "loss": loss,
            "grad_norm": norm,
            "targets": targets,
            "words": jax.lax.with_sharding_constraint(orders.words, layout.replicated()),
            "copies": jax.lax.with_sharding_constraint(copies, layout.replicated()),
            "bad": jax.lax.with_sharding_constraint(bad, layout.replicated()),
        }

    return jax.jit(step, donate_argnums=0)


def not_finite(tree: Any) -> dict:
    """For each weight whether it has a value that is not finite, bool; stacked weights: [layers], in physical order."""
    flags = rules.map_with_axes(lambda x, axes: ~jnp.isfinite(x).all(axis=tuple(range(x.ndim - len(axes), x.ndim))), tree)
    return weights_of(flags)


def fingerprint(
    layout: Layout,
    microbatch_size: int,
    accumulation_dtype: str = "float32",
    objective: Objective = cross_entropy.loss_and_gradients,
) -> Callable:
    """`(model, batch) -> (loss, uint32 [devices])`: checksums of each device's gradients; two calls must agree to the last bit."""
    gradients = passes.gradients(layout, microbatch_size, accumulation_dtype, objective)

    def one(gradient):
        return jnp.asarray(sum(checksum.of_device(x) for x in jax.tree.leaves(gradient)))[None]

    def function(model, batch):
        loss, gradient, *_ = gradients(model, batch)
        specs = layout.specs(gradient)
        sums = jax.shard_map(one, mesh=layout.mesh, in_specs=(specs,), out_specs=rules.PER_DEVICE, check_vma=False)(gradient)
        return loss, jax.lax.with_sharding_constraint(sums, layout.replicated())

    return jax.jit(function)
