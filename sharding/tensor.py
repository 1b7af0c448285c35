"""Tensor and sequence parallelism: the collectives among the devices of a `tensor` group, which share the model's layers.

These functions run inside a region that is manual over the mesh (`jax.shard_map`). A device's gradient there is its contribution: where all
devices of a group hold a copy of an array, its true gradient is the sum of theirs. JAX transposes the collectives accordingly, and
`zero.finish` adds the contributions that remain.
"""

import dataclasses

import jax
import jax.numpy as jnp

from sharding.axes import TENSOR

SEQUENCE = 1
"""Dimension of [B, T, D] that is split between the blocks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Communication among the devices that share heads, feed-forward and vocabulary; a group of size 1 sends nothing."""

    size: int = 1
    sequence: bool = False
    """True if the residual stream is split along the sequence; otherwise every device has all of it."""

    def gather_sequence(self, x_BTD: jax.Array) -> jax.Array:
        """Return all positions of the residual stream, as heads, feed-forward and vocabulary need them."""
        if self.size == 1 or not self.sequence:
            return x_BTD
        return jax.lax.all_gather(x_BTD, TENSOR, axis=SEQUENCE, tiled=True)

    def reduce_partials(self, x_BTD: jax.Array) -> jax.Array:
        """Sum the devices' partial results; the sum is split along the sequence again if the residual stream is."""
        if self.size == 1:
            return x_BTD
        if self.sequence:
            return jax.lax.psum_scatter(x_BTD, TENSOR, scatter_dimension=SEQUENCE, tiled=True)
        return jax.lax.psum(x_BTD, TENSOR)

    def local_rows(self, ids: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        """Map token ids to rows of this device's vocabulary shard of `count` rows: (row, True if this device has it; else row 0)."""
        if self.size == 1:
            return ids, jnp.ones(ids.shape, bool)
        local = ids - self.first_row(count)
        here = (local >= 0) & (local < count)
        return jnp.where(here, local, 0), here

    def first_row(self, count: int) -> jax.Array | int:
        """Return the id of this device's first vocabulary row, where each device has `count` rows."""
        return 0 if self.size == 1 else jax.lax.axis_index(TENSOR) * count

    def sum(self, x: jax.Array) -> jax.Array:
        """Return the sum over the group."""
        return x if self.size == 1 else jax.lax.psum(x, TENSOR)

    def max(self, x: jax.Array) -> jax.Array:
        """Return the maximum over the group."""
        return x if self.size == 1 else jax.lax.pmax(x, TENSOR)


ALONE = Group()
"""A group of one device: no tensor parallelism."""
