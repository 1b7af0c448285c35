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
    """The weights that a step works with, in its compute dtype: whole over `data`, but still split under ZeRO 3.

    Vectors (norm gains) stay float32: the norms compute in it, and they are few.
    """
    cast = each(lambda x, axes: x.astype(dtype) if len(axes) > 1 else x, tree)
    return cast if layout.zero == 3 else _gathered(layout, cast)


def use(layout: Layout, tree: Any) -> Any:
    """Working weights, such as one layer's, at the moment of their use: gathered under ZeRO 3."""
    return _gathered(layout, tree) if layout.zero == 3 else tree


def accumulators(layout: Layout, weights: Any, dtype: str) -> Any:
    """Zeros to add gradients of working weights to; padded already where `finish` splits them, so that no padded copy is made."""
    return each(lambda x, axes: jnp.zeros(_pad(layout, x.shape, axes) if layout.zero == 1 else x.shape, dtype), weights)


def add(layout: Layout, totals: Any, gradients: Any) -> Any:
    """Add gradients of weights from `use` to their accumulators; under ZeRO 3 each group receives the sum of its share."""

    def one(total, gradient, axes):
        gradient = gradient.astype(total.dtype)
        if layout.zero:
            shape = _pad(layout, gradient.shape, axes)
            gradient = jnp.pad(gradient, [(0, n - old) for n, old in zip(shape, gradient.shape, strict=True)])
        return total + (_scattered(layout, gradient, axes) if layout.zero == 3 else gradient)

    return _each_pair(one, totals, gradients)


def finish(layout: Layout, totals: Any) -> Any:
    """Accumulated gradients -> the sum over all devices, float32, in the split of the master weights."""

    def one(total, axes):
        if layout.zero == 1:
            total = _scattered(layout, total, axes)
        elif layout.zero == 0 and layout.data > 1:
            total = jax.lax.psum(total, AXIS)
        total = total.astype(jnp.float32)
        split = layout.mesh_axes(axes, total.ndim)
        # copies on other stages and tensor shards have contributed their own parts
        copies = tuple(axis for axis in ("pipe", "tensor") if axis not in split and layout.mesh.shape[axis] > 1)
        return jax.lax.psum(total, copies) if copies else total

    return each(one, totals)


def _gathered(layout: Layout, tree: Any) -> Any:
    if layout.data == 1 or not layout.zero:
        return tree

    def gather(x, axes):
        dimension = _width_dimension(x, axes)
        whole = jax.lax.all_gather(x, AXIS, axis=dimension, tiled=True)
        return jax.lax.slice_in_dim(whole, 0, layout.width, axis=dimension)

    return each(gather, tree)


def _scattered(layout: Layout, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    if layout.data == 1:
        return x
    return jax.lax.psum_scatter(x, AXIS, scatter_dimension=_width_dimension(x, axes), tiled=True)


def _pad(layout: Layout, shape: tuple[int, ...], axes: tuple[str, ...]) -> tuple[int, ...]:
    names = ("layers",) * (len(shape) - len(axes)) + axes
    return tuple(-(-n // layout.data) * layout.data if name == "embed" else n for n, name in zip(shape, names, strict=True))


def _width_dimension(x: jax.Array, axes: tuple[str, ...]) -> int:
    return x.ndim - len(axes) + axes.index("embed")


def _each_pair(function, tree: Any, other: Any) -> Any:
    """`each` over two trees of one structure."""

    def visit(node, beside):
        axes = getattr(node, "axes", None)
        return jax.tree.map(lambda x, y: function(x, y, axes), node, beside)

    return jax.tree.map(visit, tree, other, is_leaf=lambda node: hasattr(node, "axes"))
