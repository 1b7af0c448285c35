"""The forward and backward pass of a training step: the loss of a batch and its gradient."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from sharding import pipeline, zero
from sharding.rules import BATCH, PER_DEVICE, ROWS, STAGES, Layout
from teleflm_jax import checksum
from teleflm_jax.model.attention import kernel
from teleflm_jax.model.transformer import Block, Multipliers, Transformer, Traversal, rematerialised
from teleflm_jax.objectives import cross_entropy
from teleflm_jax.objectives.objective import Objective
from teleflm_jax.passes.indexing import at, length, put, replace
from teleflm_jax.passes.layer_vjp import BackwardLayer, ForwardLayer, split_vjp
from teleflm_jax.passes.stage import Batch, Stage, stage


class _Transfers(NamedTuple):
    """Transfers of ZeRO 3 that run at the same time as a layer, so that no layer waits for them; empty otherwise."""

    forward: Any = ()
    """Gathered weights of the forward pass's next layer."""
    backward: Any = ()
    """Gathered weights of the backward pass's next layer."""
    gradient: Any = ()
    """(gradient, index) of the backward pass's last layer, not yet added to its accumulator."""


class _Carry(NamedTuple):
    """Arrays that the schedule's loop updates in place."""

    residuals: list[jax.Array]
    """[slots, layers of a unit, …]."""
    totals: Transformer
    """Accumulators of gradients."""
    loss: jax.Array
    transfers: _Transfers


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Task:
    """Inputs and functions that all units of a training step on one device share."""

    stage: Stage
    objective: Objective
    dtype: str
    """Dtype of the accumulators."""
    forward_layer: ForwardLayer
    backward_layer: BackwardLayer
    """From `split_vjp`."""


class Gradients(Protocol):
    """A function of global arrays that returns the loss of a batch, its gradient and checksums; from `gradients`."""

    def __call__(
        self, model: Transformer, batch: Batch, check: jax.Array | bool = False, multipliers: Multipliers | None = None
    ) -> tuple[jax.Array, Transformer, jax.Array, jax.Array]:
        """Return `(loss, gradient, copies, targets)`.

        The loss is the mean over targets, by weight. `copies`, uint32 of each device, are checksums of the working weights that other
        data-parallel groups hold too; 0 if `check` is false. `targets` is the sum of the weights of the whole update. If it is 0, loss
        and gradient are 0. `multipliers` are by default the model's own.
        """
        ...


def gradients(
    layout: Layout,
    microbatch_size: int,
    accumulation_dtype: str = "float32",
    objective: Objective = cross_entropy.loss_and_gradients,
) -> Gradients:
    """Return the function that computes loss and gradient of a whole update.

    Sums are divided by the targets only at the end, so that every split into microbatches and groups gives what one large batch gives.

    Args:
        layout: the mesh and its use; model and gradient are in the runtime layout.
        microbatch_size: rows that one data-parallel group takes at a time.
        accumulation_dtype: of the gradients' sums over microbatches and groups.
        objective: the function to minimise. It is given the microbatch with all keys that the batch has.
    """

    def function(model: Transformer, batch: Batch, check: jax.Array | bool = False, multipliers: Multipliers | None = None):
        specs = layout.specs(model)

        def inner(model: Transformer, batch: Batch, check: jax.Array | bool, multipliers: Multipliers) -> tuple:
            here = stage(layout, model, multipliers, batch, microbatch_size)
            return _device_gradients(here, batch, check, accumulation_dtype, objective)

        out = (P(), specs, PER_DEVICE, P())
        mapped = jax.shard_map(inner, mesh=layout.mesh, in_specs=(specs, BATCH, P(), P()), out_specs=out, check_vma=False)
        return mapped(model, batch, check, multipliers or model.multipliers)

    return function


def _device_gradients(here: Stage, batch: Batch, check: jax.Array | bool, dtype: str, objective: Objective):
    """Run one device's part of the step."""
    layout, config = here.layout, here.weights.config
    run = lambda block, x_BTD, rope, segments_BT: block(x_BTD, rope, kernel(config, segments_BT), layout.group)  # noqa: E731
    forward_layer, backward_layer = split_vjp(rematerialised(run, config.remat))
    task = _Task(stage=here, objective=objective, dtype=dtype, forward_layer=forward_layer, backward_layer=backward_layer)
    forward, backward = (lambda *arguments: _forward(task, *arguments)), (lambda *arguments: _backward(task, *arguments))
    _, totals, loss, transfers = pipeline.run(here.schedule, forward, backward, _initial(task), here.handed_over)
    if zero.gathers_layers(layout):
        totals = replace(totals, blocks=_accumulate(task, totals.blocks, transfers.gradient, 0, None)[0])
    targets = jax.lax.psum(batch["weights"].sum(), ROWS)
    divisor = jnp.where(targets == 0, 1, targets)  # without targets, loss and gradient are zeros rather than 0 / 0
    gradient = jax.tree.map(lambda x: x / divisor, zero.finish(layout, totals))
    return jax.lax.psum(loss, (*ROWS, *STAGES)) / divisor, gradient, _copies(layout, here.weights, check), targets


def _initial(task: _Task) -> _Carry:
    """Return empty residuals and accumulators, and under ZeRO 3 the first layers' weights."""
    here = task.stage
    any_unit = pipeline.Unit(on=True, chunk=0, next_chunk=0, microbatch=0, slot=0, first=True, last=True)
    of_one = jax.eval_shape(lambda: task.forward_layer(here.fetch(0), here.handed_over, here.constants(any_unit))[1])
    residuals = [jnp.zeros((here.schedule.slots, here.chunk_layers, *r.shape), r.dtype) for r in of_one]
    transfers = _Transfers()
    if zero.gathers_layers(here.layout):
        first, last = here.fetch(0), here.fetch(length(here.weights.blocks) - 1)
        transfers = _Transfers(forward=first, backward=last, gradient=(jax.tree.map(jnp.zeros_like, first), 0))
    totals = zero.accumulators(here.layout, here.weights, task.dtype)
    return _Carry(residuals=residuals, totals=totals, loss=jnp.zeros(()), transfers=transfers)


def _forward(task: _Task, carry: _Carry, unit: pipeline.Unit, x_BTD: jax.Array) -> tuple[_Carry, jax.Array]:
    """Run a forward unit and keep its residuals; the final norm belongs to the backward unit, which differentiates it."""
    here, count = task.stage, task.stage.chunk_layers
    constants = here.constants(unit)

    def layer(blocks, j, x_BTD, kept):
        del blocks  # `fetch_ahead` reads them
        residuals, ready = kept
        following = jnp.where(j + 1 < count, unit.chunk * count + j + 1, unit.next_chunk * count)
        block, ready = here.fetch_ahead(ready, unit.chunk * count + j, following)
        y_BTD, new = task.forward_layer(block, x_BTD, constants)
        return y_BTD, (put(residuals, new, unit.slot, j), ready)

    traversal = Traversal(
        layer=layer,
        num_layers=pipeline.trip_count(unit.on, count),
        kept=(carry.residuals, carry.transfers.forward),
        embed=here.input(unit, x_BTD),
        final=lambda final, x_BTD: x_BTD,
        group=here.layout.group,
        multipliers=here.multipliers,
    )
    y_BTD, (residuals, ready) = here.weights.forward(here.microbatch(unit)["tokens"], traversal)
    return carry._replace(residuals=residuals, transfers=carry.transfers._replace(forward=ready)), y_BTD


def _backward(task: _Task, carry: _Carry, unit: pipeline.Unit, y_BTD: jax.Array, dy_BTD: jax.Array) -> tuple[_Carry, jax.Array]:
    """Run a backward unit: objective, layers in reverse order, embedding; add their gradients to the accumulators."""
    here, count = task.stage, task.stage.chunk_layers
    residuals, totals, loss, transfers = carry
    totals, loss, dy_BTD = pipeline.run_if(unit.last, _objective(task, unit, y_BTD), (totals, loss, dy_BTD))
    constants = here.constants(unit)

    @jax.named_scope("layers")
    def layer(i, held):
        dy_BTD, blocks, ready, pending = held
        j = count - 1 - i
        index = unit.chunk * count + j
        block, ready = here.fetch_ahead(ready, index, jnp.where(j > 0, index - 1, unit.next_chunk * count + count - 1))
        dblock, dx_BTD = task.backward_layer(block, at(residuals, unit.slot, j), constants, dy_BTD)
        blocks, pending = _accumulate(task, blocks, pending, index, dblock)
        return dx_BTD, blocks, ready, pending

    held = (dy_BTD, totals.blocks, transfers.backward, transfers.gradient)
    dx_BTD, blocks, ready, pending = jax.lax.fori_loop(0, pipeline.trip_count(unit.on, count), layer, held)
    totals = pipeline.run_if(unit.first, _embedding(task, unit, dx_BTD), replace(totals, blocks=blocks))
    return _Carry(residuals, totals, loss, transfers._replace(backward=ready, gradient=pending)), dx_BTD


def _accumulate(task: _Task, blocks: Block, pending: Any, index: Any, dblock: Any) -> tuple[Block, Any]:
    """Add the gradient of layer `index` to its accumulator; under ZeRO 3 it is reduce-scattered while the next layer's is computed."""
    layout = task.stage.layout
    if zero.gathers_layers(layout):
        (dblock, index), pending = pending, (dblock, index)
    return put(blocks, zero.add_layer(layout, at(blocks, index), dblock), index), pending


def _objective(task: _Task, unit: pipeline.Unit, y_BTD: jax.Array) -> Callable[[Any], Any]:
    """Return a function that adds the loss, and the gradients of final norm and head, and replaces dy by the gradient of y."""
    here = task.stage

    @jax.named_scope("head")
    def function(held):
        totals, loss, _ = held
        final = lambda norm, y_BTD: replace(here.weights, final_norm=norm).final(y_BTD, here.layout.group, here.multipliers)  # noqa: E731
        z_BTD, pull = jax.vjp(final, here.weights.final_norm, y_BTD)
        value, dz_BTD, total_DV = task.objective(z_BTD, here.head, here.microbatch(unit), totals.head[...])
        dnorm, dy_BTD = pull(dz_BTD)
        head = jax.tree.map(lambda _: total_DV, totals.head)
        totals = replace(totals, head=head, final_norm=zero.add(here.layout, totals.final_norm, dnorm))
        return totals, loss + value, dy_BTD

    return function


def _embedding(task: _Task, unit: pipeline.Unit, dx_BTD: jax.Array) -> Callable[[Any], Any]:
    """Return a function that adds the embedding's gradient: the transpose of `Transformer.embed`.

    The rows that are looked up are added in place, since `jax.vjp` of the lookup would make a second table, in the compute dtype.
    """
    here = task.stage

    @jax.named_scope("embedding")
    def function(totals):
        group, weights, width = here.layout.group, here.weights, here.layout.width
        rows_BT, here_BT = group.local_rows(here.microbatch(unit)["tokens"], weights.embedding.shape[0])
        looked_up = jax.ShapeDtypeStruct((*rows_BT.shape, width), dx_BTD.dtype)
        (dx,) = jax.linear_transpose(lambda x: weights.scale_embedded(x, here_BT, group, here.multipliers), looked_up)(dx_BTD)
        return replace(totals, embedding=jax.tree.map(lambda x: x.at[rows_BT, :width].add(dx.astype(x.dtype)), totals.embedding))

    return function


def _copies(layout: Layout, weights: Transformer, check: jax.Array | bool) -> jax.Array:
    """Return this device's checksum of working weights; devices that differ only in their data-parallel group must have the same."""
    held = zero.whole(layout, weights)
    total = lambda: sum(checksum.of_device(x) for x in held)  # noqa: E731
    return jax.lax.cond(check, total, lambda: jnp.uint32(0))[None] if layout.data > 1 else jnp.zeros(1, jnp.uint32)
