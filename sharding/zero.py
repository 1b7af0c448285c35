"""ZeRO over the `data` axis: from the split master weights to those that a step works with, and from its gradients back to the split.

All run inside a region that is manual over the mesh, on trees whose weights declare their logical axes. Width is the axis that is split
(`embed`), filled up with zeros where the groups do not divide it.
"""

from typing import Any

import jax
import jax.numpy as jnp

from sharding.rules import Layout, each

AXIS = "data"


def working(layout: Layout, tree: Any, dtype: str) -> Any:
    """The weights that a step works with, in its compute dtype: whole over `data`, but layers still split under ZeRO 3.

    Vectors (norm gains) stay float32: the norms compute in it, and they are few.
    """

    def one(x, axes):
        x = x.astype(dtype) if len(axes) > 1 else x
        return x if _is_split(layout, x, axes) else _gathered(layout, x, axes)

    return each(one, tree)


def gathers_layers(layout: Layout) -> bool:
    """Whether each layer's weights are gathered for its turn, and its gradients sent after it."""
    return layout.zero == 3 and layout.data > 1


def whole(layout: Layout, weights: Any) -> list[jax.Array]:
    """Those of the working weights that every group holds: under ZeRO 3 all but the layers'."""
    return [x for x in jax.tree.leaves(each(lambda x, axes: None if _is_split(layout, x, axes) else x, weights)) if x is not None]


def layer(layout: Layout, weights: Any) -> Any:
    """One layer's working weights at the moment of their use: whole."""
    return each(lambda x, axes: _gathered(layout, x, axes), weights) if gathers_layers(layout) else weights


def accumulators(layout: Layout, weights: Any, dtype: str) -> Any:
    """Zeros to add gradients of working weights to; padded already where `finish` splits them, so that no padded copy is made."""
    return each(lambda x, axes: jnp.zeros(x.shape if _is_split(layout, x, axes) else _padded(layout, x.shape, axes), dtype), weights)


def add(layout: Layout, totals: Any, gradients: Any) -> Any:
    """Add gradients of whole weights to their accumulators."""
    return each(lambda total, x, axes: total + _pad(layout, x, axes).astype(total.dtype), totals, gradients)


def add_layer(layout: Layout, totals: Any, gradients: Any) -> Any:
    """Add gradients of a `layer` to that layer's accumulators; under ZeRO 3 each group receives the sum of its share."""
    if layout.zero < 3:
        return add(layout, totals, gradients)
    return each(lambda total, x, axes: total + _scattered(layout, _pad(layout, x, axes).astype(total.dtype), axes), totals, gradients)


def finish(layout: Layout, totals: Any) -> Any:
    """Accumulated gradients -> the sum over all devices, float32, in the split of the master weights."""

    def one(total, axes):
        if not _is_split(layout, total, axes):
            total = _scattered(layout, total, axes) if layout.zero else _summed(layout, total, AXIS)
        total = total.astype(jnp.float32)
        split = layout.mesh_axes(axes, total.ndim)
        # copies on other stages and tensor shards have contributed their own parts
        return _summed(layout, total, *(axis for axis in ("pipe", "tensor") if axis not in split))

    return each(one, totals)


def _is_split(layout: Layout, x: Any, axes: tuple[str, ...]) -> bool:
    """Whether working weights are: the stacked layers', under ZeRO 3."""
    return layout.zero == 3 and x.ndim > len(axes)


def _gathered(layout: Layout, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    if layout.data == 1 or not layout.zero:
        return x
    dimension = _width_dimension(x, axes)
    return jax.lax.slice_in_dim(jax.lax.all_gather(x, AXIS, axis=dimension, tiled=True), 0, layout.width, axis=dimension)


def _scattered(layout: Layout, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    if layout.data == 1:
        return x
    return jax.lax.psum_scatter(x, AXIS, scatter_dimension=_width_dimension(x, axes), tiled=True)


def _summed(layout: Layout, x: jax.Array, *axes: str) -> jax.Array:
    axes = tuple(axis for axis in axes if layout.mesh.shape[axis] > 1)
    return jax.lax.psum(x, axes) if axes else x


def _padded(layout: Layout, shape: tuple[int, ...], axes: tuple[str, ...]) -> tuple[int, ...]:
    """A shape that is not split, with the width that the split fills up to."""
    width = len(shape) - len(axes) + axes.index("embed")
    return (*shape[:width], layout.padded_width, *shape[width + 1 :])


def _pad(layout: Layout, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jnp.pad(x, [(0, n - old) for n, old in zip(_padded(layout, x.shape, axes), x.shape, strict=True)])


def _width_dimension(x: jax.Array, axes: tuple[str, ...]) -> int:
    return x.ndim - len(axes) + axes.index("embed")
