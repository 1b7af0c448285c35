"""One optimizer update: gradients over the mesh, then the optimizer; and gradients alone, to compare them bit by bit."""

import functools
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
from teleflm_jax.model.transformer import Multipliers, Transformer
from teleflm_jax.mup import Mup
from teleflm_jax.objectives import cross_entropy
from teleflm_jax.objectives.objective import Objective
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.optim.optimizer import adam, make_optimizer
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import TrainState, weights_of

SIZES = ("num_heads", "num_kv_heads", "d_ff", "num_layers", "context_length")
"""Sizes of a model that a mesh splits."""
HOST_SIGNALS = ("stop", "data_wait_seconds")
"""Numbers that each process sends along with every step: whether it should stop, and how long it has waited for the batch."""
PROGRAMS = 8
"""Compiled functions of one kind that a process keeps, for further runs of the same shape."""
RATE_CANDIDATES = 2
"""Rates passed to a step, since the host does not know yet whether the update before it was skipped."""


class StepInputs(NamedTuple):
    """Inputs of a step beside state and batch. Runs of one shape that differ in them share a compiled step."""

    rates: Mapping[str, Any]
    """Role -> float32 [RATE_CANDIDATES]: rates after `updates` updates and after one more."""
    multipliers: Multipliers
    """float32."""
    clip_norm: Any
    """float32."""
    weight_decay: Any
    """float32."""
    updates: Any
    """int32: updates that are known to be done."""
    host_signals: Any
    """float32 [devices, HOST_SIGNALS], from `Layout.place_per_device`; every process receives all of it."""
    check_copies: Any
    """bool: compute the checksums of the weights' copies."""


Step = Callable[[TrainState, passes.Batch, StepInputs], tuple[TrainState, dict[str, Any]]]
"""(state, batch, inputs) -> (state, outputs); `make` names the outputs."""
Fingerprint = Callable[[Transformer, passes.Batch, Multipliers], tuple[jax.Array, jax.Array]]
"""(model, batch, multipliers) -> (loss, uint32 [devices])."""


def step_inputs(
    layout: Layout,
    optimizer: OptimizerConfig,
    mup: Mup,
    *,
    rates: Mapping[str, tuple[float, ...]],
    updates: int,
    host_signals: tuple[float, ...],
    check_copies: bool,
) -> StepInputs:
    """Make a step's inputs from plain numbers."""
    return StepInputs(
        rates={role: np.array(values, np.float32) for role, values in rates.items()},
        multipliers=Multipliers(*map(np.float32, Multipliers.of(mup))),
        clip_norm=np.float32(optimizer.clip_norm),
        weight_decay=np.float32(optimizer.weight_decay),
        updates=np.int32(updates),
        host_signals=layout.place_per_device(host_signals),
        check_copies=np.bool_(check_copies),
    )


def microbatch(model: ModelConfig, train: TrainConfig, layout: Layout) -> int:
    """Return the number of sequences that a data-parallel group processes at a time.

    Raises:
        UserError: the mesh cannot split model or batch, or training does not support the model's compute dtype.
    """
    refuse_float16(model)
    rules.refuse_misfit(layout, **{name: getattr(model, name) for name in SIZES})
    return rules.microbatch(train.batch_size, train.microbatch_size, layout)


def refuse_float16(model: ModelConfig) -> None:
    """Raise a `UserError` if the model, such as an imported one, would compute its gradients in float16."""
    if model.compute_dtype == "float16":
        raise UserError(
            "got model.compute_dtype='float16' for training; allowed: bfloat16, float32, since small gradients are zero in float16 unless "
            "the loss is scaled; set model.compute_dtype = 'bfloat16'"
        )


def make(
    optimizer: OptimizerConfig,
    layout: Layout,
    microbatch_size: int,
    accumulation_dtype: str = "float32",
    objective: Objective = cross_entropy.loss_and_gradients,
) -> jax.stages.Wrapped:
    """Return the jitted `step(state, batch, inputs) -> (state, outputs)`, which reuses the old state's memory.

    Calls that differ only in what `StepInputs` holds return the same function, so that further runs in a process do not compile it again.

    If the loss or the gradient's norm is not finite, or no target counts, the devices return the state unchanged.
    Outputs: `loss`, `grad_norm`; `targets`, the sum of their weights; `host_signals` of all processes; `copies`, a checksum of each device
    (`passes.gradients`); `not_finite`, for each weight whether its gradient is not finite (stacked weights: one flag a layer, in runtime
    order), computed only if the update is skipped.

    Args:
        optimizer: its betas and epsilon are constants of the step.
        layout: the mesh and its use; batches arrive split over its `data` axis, the state in the runtime layout.
        microbatch_size: rows that one data-parallel group processes at a time.
        accumulation_dtype: dtype of the sums of gradients.
        objective: the function to minimise.
    """
    return _make(layout, microbatch_size, accumulation_dtype, objective, **adam(optimizer))


@functools.lru_cache(maxsize=PROGRAMS)
def _make(layout: Layout, microbatch_size: int, accumulation_dtype: str, objective: Objective, **adam: float) -> jax.stages.Wrapped:
    gradients = passes.gradients(layout, microbatch_size, accumulation_dtype, objective)
    optimizer = make_optimizer(**adam)

    def step(state: TrainState, batch: passes.Batch, inputs: StepInputs):
        loss, gradient, copies, targets = gradients(state.model, batch, inputs.check_copies, inputs.multipliers)
        norm = optax.tree.norm(gradient)
        good = jnp.isfinite(loss) & jnp.isfinite(norm) & (targets != 0)
        index = optax.tree.get(state.optimizer, "count") - inputs.updates
        rates = {role: jnp.take(values, index, mode="clip") for role, values in inputs.rates.items()}
        given = {"rates": rates, "clip_norm": inputs.clip_norm, "weight_decay": inputs.weight_decay}
        updates, optimizer_state = optimizer.update(
            typing.cast(optax.Updates, gradient), state.optimizer, typing.cast(optax.Params, state.model), **given
        )
        new = TrainState(model=jax.tree.map(jnp.add, state.model, updates), optimizer=optimizer_state)
        new = jax.tree.map(lambda new, old: jnp.where(good, new, old), new, state)
        none = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(lambda: not_finite(gradient)))
        bad = jax.lax.cond(good, lambda: none, lambda: not_finite(gradient))
        return jax.lax.with_sharding_constraint(new, layout.shardings(new)), {
            "loss": loss,
            "grad_norm": norm,
            "targets": targets,
            "host_signals": jax.lax.with_sharding_constraint(inputs.host_signals, layout.replicated()),
            "copies": jax.lax.with_sharding_constraint(copies, layout.replicated()),
            "not_finite": jax.lax.with_sharding_constraint(bad, layout.replicated()),
        }

    return jax.jit(step, donate_argnums=0)


def not_finite(tree: Any) -> dict:
    """Return for each weight whether it has a value that is not finite: bool, for stacked weights [layers] in runtime order."""
    flags = rules.map_with_axes(lambda x, axes: ~jnp.isfinite(x).all(axis=tuple(range(x.ndim - len(axes), x.ndim))), tree)
    return weights_of(flags)


@functools.lru_cache(maxsize=PROGRAMS)
def fingerprint(
    layout: Layout,
    microbatch_size: int,
    accumulation_dtype: str = "float32",
    objective: Objective = cross_entropy.loss_and_gradients,
) -> Callable:
    """Return the jitted `(model, batch, multipliers) -> (loss, uint32 [devices])`: checksums of each device's gradients."""
    gradients = passes.gradients(layout, microbatch_size, accumulation_dtype, objective)

    def one(gradient):
        return jnp.asarray(sum(checksum.of_device(x) for x in jax.tree.leaves(gradient)))[None]

    def function(model, batch, multipliers):
        loss, gradient, *_ = gradients(model, batch, multipliers=multipliers)
        specs = layout.specs(gradient)
        sums = jax.shard_map(one, mesh=layout.mesh, in_specs=(specs,), out_specs=rules.PER_DEVICE, check_vma=False)(gradient)
        return loss, jax.lax.with_sharding_constraint(sums, layout.replicated())

    return jax.jit(function)
