"""Forward and backward passes over the mesh: from a batch to its loss and gradients, or to the loss of every token.

One program for every mesh: weights are gathered as ZeRO asks (`sharding/zero.py`), microbatches go through the pipeline's schedule
(`sharding/pipeline.py`; without a pipeline it is plain gradient accumulation), and each layer's backward pass runs by hand: `jax.vjp`
of one layer, its residuals without the weights kept per unit, gradients added in place to their accumulators. Deriving the backward pass
through the schedule instead would accumulate in the compute dtype, keep every microbatch and send gradients every tick.

Here D and V may be this device's shard of the width or the vocabulary.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from sharding import mesh, pipeline, zero
from sharding.rules import BATCH, Layout
from teleflm_jax import checksum
from teleflm_jax.model.attention import kernel
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.layers import rotation
from teleflm_jax.model.transformer import Block, Transformer, finish, rematerialised
from teleflm_jax.objectives import cross_entropy

Batch = Mapping[str, jax.Array]
"""`tokens`, `targets`, `segments` int32 and `weights` float32, each [B, T] (docs/architecture.md)."""


class _Ahead(NamedTuple):
    """What ZeRO 3 sends while a layer runs, so that no layer waits for it; empty otherwise."""

    forward: Any = ()
    """Weights of the layer that runs next."""
    backward: Any = ()
    sending: Any = ()
    """(Gradient of the layer that ran last, its place), not yet added."""


def gradients(layout: Layout, microbatch_size: int, accumulation_dtype: str = "float32") -> Callable:
    """`(model, batch, check) -> (loss, gradient, copies, targets)` on global arrays: mean loss in nats per weighted target, its gradient.

    `copies`, uint32 of each device, are checksums of the weights that the step works with and that other groups hold as well; 0 where
    `check` is false. Sums are divided by `targets`, the weights of the whole update, only at the end, so that any split into microbatches
    and groups gives what one large batch gives. Without a target that counts, loss and gradient are 0.

    Args:
        layout: the mesh and its use; the model is in physical form, and so is the gradient.
        microbatch_size: rows that one data-parallel group takes at a time.
        accumulation_dtype: of the gradients' sums over microbatches and groups.
    """

    def function(model: Transformer, batch: Batch, check: jax.Array | bool = False):
        specs = layout.specs(model)
        inner = lambda *arguments: _gradients(*arguments, layout, microbatch_size, accumulation_dtype)  # noqa: E731
        out = (P(), specs, P(mesh.AXES), P())
        mapped = jax.shard_map(inner, mesh=layout.mesh, in_specs=(specs, BATCH, P()), out_specs=out, check_vma=False)
        return mapped(model, batch, check)

    return function


@functools.lru_cache(maxsize=8)
def token_losses(layout: Layout) -> Callable:
    """`(model, tokens [B, T], targets [B, T]) -> float32 [B, T]` in nats, each row one document; every process gets all of it.

    B is a multiple of data x pipe. Kept by layout, so that the next checkpoint of a run is measured without compiling again.
    """

    def function(model: Transformer, tokens_BT: jax.Array, targets_BT: jax.Array) -> jax.Array:
        one = jnp.ones(tokens_BT.shape, jnp.int32)
        inner = lambda *arguments: _token_losses(*arguments, layout, tokens_BT.shape[0] // layout.data // layout.pipe)[0]  # noqa: E731
        specs = (layout.specs(model), BATCH, BATCH, BATCH)
        found = jax.shard_map(inner, mesh=layout.mesh, in_specs=specs, out_specs=BATCH, check_vma=False)(model, tokens_BT, targets_BT, one)
        return jax.lax.with_sharding_constraint(found, layout.replicated())

    return jax.jit(function)


def health(layout: Layout, microbatch_size: int) -> Callable:
    """`(model, batch) -> (bool [layers], float32 [B, T])`: layers whose output is not finite, in physical order, and each token's loss.

    For a batch whose training step was not finite. Every process gets all of it.
    """

    def function(model: Transformer, batch: Batch):
        inner = lambda *arguments: _token_losses(*arguments, layout, microbatch_size, watch=True)  # noqa: E731
        specs = (layout.specs(model), BATCH, BATCH, BATCH)
        mapped = jax.shard_map(inner, mesh=layout.mesh, in_specs=specs, out_specs=(BATCH, P("pipe")), check_vma=False)
        losses_BT, bad = mapped(model, batch["tokens"], batch["targets"], batch["segments"])
        return jax.lax.with_sharding_constraint((bad, losses_BT), layout.replicated())

    return jax.jit(function)


def _gradients(model: Transformer, batch: Batch, check: jax.Array, layout: Layout, microbatch_size: int, dtype: str):
    """What one device does."""
    config, group, width = model.config, layout.tensor, layout.width
    rows = jax.tree.map(lambda x: x.reshape(-1, microbatch_size, *x.shape[1:]), dict(batch))
    schedule = pipeline.Schedule(stages=layout.pipe, chunks=layout.interleave, microbatches=rows["tokens"].shape[0])
    weights = zero.working(layout, model, config.compute_dtype)
    turn = rotation(jnp.arange(rows["tokens"].shape[2])[None], config)
    run = lambda block, x_BTD, turn, segments_BT: block(x_BTD, turn, kernel(config, segments_BT), group)  # noqa: E731
    forward_layer, backward_layer = _by_hand(rematerialised(run, config.remat))
    per_chunk = _length(weights.blocks) // schedule.chunks
    fetch = lambda place: zero.layer(layout, _at(weights.blocks, place))  # noqa: E731

    def of_microbatch(unit):
        return _at(rows, unit.microbatch)

    def constants(unit):
        return turn, _at(rows["segments"], unit.microbatch) if config.document_attention else None

    def take(ready, place, following):
        """The weights of the layer at `place`; under ZeRO 3 those `following` it are gathered while that layer runs."""
        return (ready, fetch(following)) if zero.gathers_layers(layout) else (fetch(place), ready)

    def give(blocks, sending, place, dblock):
        """Add the gradient of the layer at `place`; under ZeRO 3 it is reduce-scattered while the next layer's is made."""
        if zero.gathers_layers(layout):
            (dblock, place), sending = sending, (dblock, place)
        return _put(blocks, zero.add_layer(layout, _at(blocks, place), dblock), place), sending

    def forward(carry, unit, x_BTD):
        residuals, totals, loss, ahead = carry
        x_BTD = _input(layout, weights, unit, of_microbatch(unit)["tokens"], x_BTD)
        known = constants(unit)

        @jax.named_scope("layers")
        def layer(j, held):
            x_BTD, residuals, ready = held
            following = jnp.where(j + 1 < per_chunk, unit.chunk * per_chunk + j + 1, unit.next_chunk * per_chunk)
            block, ready = take(ready, unit.chunk * per_chunk + j, following)
            y_BTD, new = forward_layer(block, x_BTD, known)
            return y_BTD, _put(residuals, new, unit.slot, j), ready

        held = (x_BTD, residuals, ahead.forward)
        y_BTD, residuals, ready = jax.lax.fori_loop(0, pipeline.turns(unit.on, per_chunk), layer, held)
        return (residuals, totals, loss, ahead._replace(forward=ready)), y_BTD

    def head(unit, y_BTD):
        """Loss, and the gradient of the last layer's output; adds the head's own."""

        @jax.named_scope("head")
        def function(held):
            totals, loss, _ = held
            batch = of_microbatch(unit)
            z_BTD, pull = jax.vjp(lambda norm, y: group.whole(finish(norm, model.output_multiplier, y)), weights.final_norm, y_BTD)
            start_DV = totals.head[...]
            value, dz_BTD, total_DV = cross_entropy.loss_and_gradients(
                z_BTD, _head(weights, layout), batch["targets"], batch["weights"], start_DV
            )
            dnorm, dy_BTD = pull(dz_BTD)
            head = jax.tree.map(lambda _: total_DV, totals.head)
            totals = _with(totals, head=head, final_norm=zero.add(layout, totals.final_norm, dnorm))
            return totals, loss + value, dy_BTD

        return function

    def embedding(unit, dx_BTD):
        """Adds the embedding's gradient."""

        @jax.named_scope("embedding")
        def function(totals):
            rows_BT, here_BT = group.rows(of_microbatch(unit)["tokens"], weights.embedding.shape[0])
            dx = group.unsplit(dx_BTD * model.input_multiplier)
            dx = jnp.where(here_BT[..., None], dx, 0).astype(dtype)
            return _with(totals, embedding=jax.tree.map(lambda x: x.at[rows_BT, :width].add(dx), totals.embedding))

        return function

    def backward(carry, unit, y_BTD, dy_BTD):
        residuals, totals, loss, ahead = carry
        totals, loss, dy_BTD = pipeline.when(unit.last, head(unit, y_BTD), (totals, loss, dy_BTD))
        known = constants(unit)

        @jax.named_scope("layers")
        def layer(i, held):
            dy_BTD, blocks, ready, sending = held
            j = per_chunk - 1 - i
            place = unit.chunk * per_chunk + j
            block, ready = take(ready, place, jnp.where(j > 0, place - 1, unit.next_chunk * per_chunk + per_chunk - 1))
            dblock, dx_BTD = backward_layer(block, _at(residuals, unit.slot, j), known, dy_BTD)
            blocks, sending = give(blocks, sending, place, dblock)
            return dx_BTD, blocks, ready, sending

        held = (dy_BTD, totals.blocks, ahead.backward, ahead.sending)
        dx_BTD, blocks, ready, sending = jax.lax.fori_loop(0, pipeline.turns(unit.on, per_chunk), layer, held)
        totals = pipeline.when(unit.first, embedding(unit, dx_BTD), _with(totals, blocks=blocks))
        return (residuals, totals, loss, ahead._replace(backward=ready, sending=sending)), dx_BTD

    x_BTD = _between(layout, config, rows["tokens"].shape[1:])
    any_unit = pipeline.Unit(on=True, chunk=0, next_chunk=0, microbatch=0, slot=0, first=True, last=True)
    one = jax.eval_shape(lambda: forward_layer(zero.layer(layout, _at(weights.blocks, 0)), x_BTD, constants(any_unit))[1])
    residuals = [jnp.zeros((schedule.slots, per_chunk, *r.shape), r.dtype) for r in one]
    ahead = _Ahead()
    if zero.gathers_layers(layout):
        first, last = fetch(0), fetch(_length(weights.blocks) - 1)
        ahead = _Ahead(forward=first, backward=last, sending=(jax.tree.map(jnp.zeros_like, first), 0))
    carry = (residuals, zero.accumulators(layout, weights, dtype), jnp.zeros(()), ahead)
    _, totals, loss, ahead = pipeline.run(schedule, forward, backward, carry, x_BTD)
    if zero.gathers_layers(layout):
        totals = _with(totals, blocks=give(totals.blocks, ahead.sending, 0, None)[0])
    targets = jax.lax.psum(batch["weights"].sum(), "data")
    divisor = jnp.where(targets == 0, 1, targets)  # nothing divided by nothing is no fault of the numbers
    gradient = jax.tree.map(lambda x: x / divisor, zero.finish(layout, totals))
    return jax.lax.psum(loss, ("data", "pipe")) / divisor, gradient, _copies(layout, weights, check), targets


def _copies(layout: Layout, weights: Transformer, check: jax.Array) -> jax.Array:
    """One number of this device; devices that differ in `data` alone must have the same."""
    held = zero.whole(layout, weights)
    total = lambda: sum(checksum.of_device(x) for x in held)  # noqa: E731
    return jax.lax.cond(check, total, lambda: jnp.uint32(0))[None] if layout.data > 1 else jnp.zeros(1, jnp.uint32)


def _token_losses(
    model: Transformer,
    tokens_BT: jax.Array,
    targets_BT: jax.Array,
    segments_BT: jax.Array,
    layout: Layout,
    microbatch_size: int,
    watch: bool = False,
) -> tuple[jax.Array, jax.Array]:
    """What one device does: the tokens' losses, and of its layers those whose output is not finite, if they are watched."""
    config, group, shape = model.config, layout.tensor, tokens_BT.shape
    tokens, targets, segments = (x.reshape(-1, microbatch_size, x.shape[1]) for x in (tokens_BT, targets_BT, segments_BT))
    schedule = pipeline.Schedule(stages=layout.pipe, chunks=layout.interleave, microbatches=tokens.shape[0])
    weights = zero.working(layout, model, config.compute_dtype)
    turn = rotation(jnp.arange(shape[1])[None], config)
    per_chunk = _length(weights.blocks) // schedule.chunks

    def forward(carry, unit, x_BTD):
        found, bad = carry
        x_BTD = _input(layout, weights, unit, _at(tokens, unit.microbatch), x_BTD)
        attend = kernel(config, _at(segments, unit.microbatch))

        def layer(j, held):
            x_BTD, bad = held
            place = unit.chunk * per_chunk + j
            y_BTD = zero.layer(layout, _at(weights.blocks, place))(x_BTD, turn, attend, group)
            return y_BTD, bad.at[place].max(~jnp.isfinite(y_BTD).all()) if watch else bad

        y_BTD, bad = jax.lax.fori_loop(0, pipeline.turns(unit.on, per_chunk), layer, (x_BTD, bad))

        def head(found):
            z_BTD = group.whole(weights.final(y_BTD))
            return _put(found, cross_entropy.token_losses(z_BTD, _head(weights, layout), _at(targets, unit.microbatch)), unit.microbatch)

        return (pipeline.when(unit.last, head, found), bad), y_BTD

    x_BTD = _between(layout, config, tokens.shape[1:])
    carry = jnp.zeros(tokens.shape), jnp.zeros(_length(weights.blocks), bool)
    found, bad = pipeline.run_forward(schedule, forward, carry, x_BTD)
    return jax.lax.psum(found, "pipe").reshape(shape), jax.lax.psum(bad.astype(jnp.int32), ("data", "tensor")) > 0


def _input(layout: Layout, weights: Transformer, unit: pipeline.Unit, tokens_BT: jax.Array, x_BTD: jax.Array) -> jax.Array:
    """What enters a unit: the tokens' embedding on the first stage's first chunk, else what the stage before sent."""

    @jax.named_scope("embedding")
    def embed():
        return weights.embed(tokens_BT, layout.tensor)

    return embed() if unit.first is True else jax.lax.cond(unit.first, embed, lambda: x_BTD)


def _between(layout: Layout, config: ModelConfig, shape: tuple[int, int]) -> jax.Array:
    """Zeros of the shape that units hand over."""
    return jnp.zeros((shape[0], shape[1] // layout.sequence_shards, layout.width), config.compute_dtype)


def _head(weights: Transformer, layout: Layout) -> cross_entropy.Head:
    config = weights.config
    return cross_entropy.Head(
        weight_DV=weights.head[...], vocab_size=config.vocab_size, chunk=config.loss_chunk_tokens, group=layout.tensor
    )


def _by_hand(run: Callable) -> tuple[Callable, Callable]:
    """Take a layer's forward and backward pass apart, with a list of residuals between them that holds neither weights nor constants.

    Args:
        run: (block, input, *constants) -> output; differentiated in the first two.

    Returns:
        `forward(block, input, constants) -> (output, residuals)` and
        `backward(block, residuals, constants, gradient of the output) -> (gradient of the block, gradient of the input)`. Forward is to be
        traced first: the shape of its residuals is learnt then.
    """
    form = {}

    def forward(block: Block, x_BTD: jax.Array, constants: tuple):
        y_BTD, pull = jax.vjp(lambda block, x: run(block, x, *constants), block, x_BTD)
        leaves, form["tree"] = jax.tree.flatten(pull)
        given = [id(leaf) for leaf in jax.tree.leaves((block, constants))]
        kept = {id(leaf): leaf for leaf in leaves if id(leaf) not in given}
        places = {**{key: ("kept", i) for i, key in enumerate(kept)}, **{key: ("given", i) for i, key in enumerate(given)}}
        form["places"] = [places[id(leaf)] for leaf in leaves]
        return y_BTD, list(kept.values())

    def backward(block: Block, residuals: list, constants: tuple, dy_BTD: jax.Array):
        source = {"kept": residuals, "given": jax.tree.leaves((block, constants))}
        pull = jax.tree.unflatten(form["tree"], [source[where][i] for where, i in form["places"]])
        return pull(dy_BTD)

    return forward, backward


def _with(module: Any, **parts: Any) -> Any:
    """A copy of a module with other parts."""
    copy = jax.tree.map(lambda x: x, module)
    for name, part in parts.items():
        setattr(copy, name, part)
    return copy


def _at(tree: Any, *index: Any) -> Any:
    """What every array holds at an index of its first dimensions."""

    def one(x):
        rest = x.shape[len(index) :]
        return jax.lax.dynamic_slice(x, (*index, *(0,) * len(rest)), (1,) * len(index) + rest).reshape(rest)

    return jax.tree.map(one, tree)


def _put(tree: Any, values: Any, *index: Any) -> Any:
    """The arrays with `values` there."""

    def one(x, value):
        return jax.lax.dynamic_update_slice(x, value.reshape((1,) * len(index) + value.shape), (*index, *(0,) * value.ndim))

    return jax.tree.map(one, tree, values)


def _length(blocks: Block) -> int:
    """Layers that this device holds."""
    return jax.tree.leaves(blocks)[0].shape[0]
