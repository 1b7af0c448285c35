"""Tensor and sequence parallelism: what brings together the parts that the devices of a `tensor` group computed.

These run inside a region that is manual over the mesh. Gradients there are contributions: the true gradient of what every device of a
group holds a copy of is the sum of theirs. Collectives transpose accordingly by themselves, and `zero.finish` adds up what remains.
"""

import dataclasses

import jax
import jax.numpy as jnp

AXIS = "tensor"
SEQUENCE = 1
"""Dimension of [B, T, D] that is split between the blocks."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """The devices that share heads, feed-forward and vocabulary. With size 1 nothing is sent, and no region is needed."""

    size: int = 1
    sequence: bool = False
    """Whether the residual stream is split along the sequence; else every device has all of it."""

    def whole(self, x_BTD: jax.Array) -> jax.Array:
        """What enters heads, feed-forward and vocabulary: all positions."""
        if self.size == 1 or not self.sequence:
            return x_BTD
        return jax.lax.all_gather(x_BTD, AXIS, axis=SEQUENCE, tiled=True)

    def split(self, x_BTD: jax.Array) -> jax.Array:
        """Add up the devices' partial results, and go back to the residual stream's split."""
        if self.size == 1:
            return x_BTD
        if self.sequence:
            return jax.lax.psum_scatter(x_BTD, AXIS, scatter_dimension=SEQUENCE, tiled=True)
        return jax.lax.psum(x_BTD, AXIS)

    def unsplit(self, gradient_BTD: jax.Array) -> jax.Array:
        """The transpose of `split`."""
        return self.whole(gradient_BTD) if self.sequence else self.sum(gradient_BTD)

    def rows(self, ids: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
        """Which of the `count` vocabulary rows of this device the ids mean: (row, whether it is here)."""
        if self.size == 1:
            return ids, jnp.ones(ids.shape, bool)
        local = ids - self.first(count)
        here = (local >= 0) & (local < count)
        return jnp.where(here, local, 0), here

    def first(self, count: int) -> jax.Array | int:
        """Id of the first vocabulary row of this device, where each has `count`."""
        return 0 if self.size == 1 else jax.lax.axis_index(AXIS) * count

    def sum(self, x: jax.Array) -> jax.Array:
        """Sum over the group."""
        return x if self.size == 1 else jax.lax.psum(x, AXIS)

    def max(self, x: jax.Array) -> jax.Array:
        """Maximum over the group."""
        return x if self.size == 1 else jax.lax.pmax(x, AXIS)


ALONE = Group()
"""No tensor parallelism."""
