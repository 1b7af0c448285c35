"""Forward passes without a backward pass: the loss of every token, and the layers whose output is not finite."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from sharding import pipeline
from sharding.rules import BATCH, GROUPS, LAYERS, STAGES, Layout
from teleflm_jax.model.attention import kernel
from teleflm_jax.model.transformer import Multipliers, Transformer, Traversal
from teleflm_jax.objectives import cross_entropy
from teleflm_jax.passes.indexing import at, length, put, replace
from teleflm_jax.passes.stage import Batch, stage


@functools.lru_cache(maxsize=8)
def token_losses(layout: Layout) -> Callable[[Transformer, jax.Array, jax.Array], jax.Array]:
    """Return `(model, tokens [B, T], targets [B, T]) -> float32 [B, T]` in nats. Each row is one document; every process gets all losses.

    B is a multiple of data x pipe. The cache by layout spares compiling again for the next checkpoint of a run, and for models that differ
    in their multipliers alone.
    """

    @jax.jit
    def function(model: Transformer, multipliers: Multipliers, tokens_BT: jax.Array, targets_BT: jax.Array) -> jax.Array:
        batch = {"tokens": tokens_BT, "targets": targets_BT, "segments": jnp.ones(tokens_BT.shape, jnp.int32)}

        def inner(model: Transformer, multipliers: Multipliers, batch: Batch) -> jax.Array:
            return _score(model, multipliers, batch, layout, tokens_BT.shape[0] // layout.data // layout.pipe)[0]

        specs = (layout.specs(model), P(), BATCH)
        mapped = jax.shard_map(inner, mesh=layout.mesh, in_specs=specs, out_specs=BATCH, check_vma=False)
        return jax.lax.with_sharding_constraint(mapped(model, multipliers, batch), layout.replicated())

    def apart(model: Transformer, tokens_BT: jax.Array, targets_BT: jax.Array) -> jax.Array:
        return function(replace(model, multipliers=None), model.multipliers, tokens_BT, targets_BT)

    return apart


def health(layout: Layout, microbatch_size: int) -> Callable[[Transformer, Batch, Multipliers], tuple[jax.Array, jax.Array]]:
    """Return `(model, batch, multipliers) -> (bool [layers], float32 [B, T])`: layers whose output is not finite, and each token's loss.

    Diagnoses a batch whose training step was not finite. Layers are in runtime order. Every process gets all values.
    """

    def function(model: Transformer, batch: Batch, multipliers: Multipliers):
        batch = {name: batch[name] for name in ("tokens", "targets", "segments")}

        def inner(model: Transformer, multipliers: Multipliers, batch: Batch) -> tuple[jax.Array, jax.Array]:
            return _score(model, multipliers, batch, layout, microbatch_size, watch=True)

        specs = (layout.specs(model), P(), BATCH)
        mapped = jax.shard_map(inner, mesh=layout.mesh, in_specs=specs, out_specs=(BATCH, LAYERS), check_vma=False)
        losses_BT, bad = mapped(model, multipliers, batch)
        return jax.lax.with_sharding_constraint((bad, losses_BT), layout.replicated())

    return jax.jit(function)


def _score(
    model: Transformer, multipliers: Multipliers, batch: Batch, layout: Layout, microbatch_size: int, watch: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Run one device's part; return the tokens' losses and, if `watch`, flags of its layers whose output is not finite."""
    here, config = stage(layout, model, multipliers, batch, microbatch_size), model.config

    def forward(carry, unit, x_BTD):
        losses, bad = carry
        attend = kernel(config, here.constants(unit)[1])

        def layer(blocks, j, x_BTD, bad):
            del blocks  # `fetch` reads them
            index = unit.chunk * here.chunk_layers + j
            y_BTD = here.fetch(index)(x_BTD, here.rope, attend, layout.group)
            return y_BTD, bad.at[index].max(~jnp.isfinite(y_BTD).all()) if watch else bad

        def head(final, y_BTD):
            def function(losses):
                found = cross_entropy.token_losses(final(y_BTD), here.head, at(here.batch["targets"], unit.microbatch))
                return put(losses, found, unit.microbatch)

            return y_BTD, pipeline.run_if(unit.last, function, losses)

        traversal = Traversal(
            layer=layer,
            num_layers=pipeline.trip_count(unit.on, here.chunk_layers),
            kept=bad,
            embed=here.input(unit, x_BTD),
            final=head,
            group=layout.group,
            multipliers=multipliers,
        )
        (y_BTD, losses), bad = here.weights.forward(at(here.batch["tokens"], unit.microbatch), traversal)
        return (losses, bad), y_BTD

    carry = jnp.zeros(here.batch["tokens"].shape), jnp.zeros(length(here.weights.blocks), bool)
    losses, bad = pipeline.run_forward(here.schedule, forward, carry, here.handed_over)
    bad = jax.lax.psum(bad.astype(jnp.int32), GROUPS) > 0
    return jax.lax.psum(losses, STAGES).reshape(batch["tokens"].shape), bad
