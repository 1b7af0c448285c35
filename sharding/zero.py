"""ZeRO: from the split master weights to the working weights of a step, and from its gradients back to the split.

These functions run inside a region that is manual over the mesh, on trees whose weights declare their logical axes. ZeRO splits the width
(`embed`), padded with zeros where the groups do not divide it.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from sharding.axes import NAMES, ZERO
from sharding.rules import Layout, map_with_axes


def working(layout: Layout, tree: Any, dtype: str) -> Any:
    """Return the working weights of a step, in its compute dtype: gathered, except that layers stay split under ZeRO 3.

    Vectors (norm gains) stay float32: the norms compute in float32, and vectors are small.
    """

    def one(x, axes):
        x = x.astype(dtype) if len(axes) > 1 else x
        return x if _is_split(layout, x, axes) else _gathered(layout, x, axes)

    return map_with_axes(one, tree)


def gathers_layers(layout: Layout) -> bool:
    """Return True if each layer's weights are gathered before it runs, and its gradients sent after it."""
    return layout.zero == 3 and layout.zero_shards > 1


def whole(layout: Layout, weights: Any) -> list[jax.Array]:
    """Return the working weights that every group holds whole: under ZeRO 3 all but the layers'."""
    return [x for x in jax.tree.leaves(map_with_axes(lambda x, axes: None if _is_split(layout, x, axes) else x, weights)) if x is not None]


def layer(layout: Layout, weights: Any) -> Any:
    """Return one layer's working weights, gathered if they are split."""
    return map_with_axes(lambda x, axes: _gathered(layout, x, axes), weights) if gathers_layers(layout) else weights


def accumulators(layout: Layout, weights: Any, dtype: str) -> Any:
    """Return zeros to add gradients of working weights to, padded where `finish` will split them, so that no padded copy is made."""
    return map_with_axes(
        lambda x, axes: jnp.zeros(x.shape if _is_split(layout, x, axes) else _padded(layout, x.shape, axes), dtype), weights
    )


def add(layout: Layout, totals: Any, gradients: Any) -> Any:
    """Add gradients of whole weights to their accumulators."""
    return map_with_axes(lambda total, x, axes: total + _pad(layout, x, axes).astype(total.dtype), totals, gradients)


def add_layer(layout: Layout, totals: Any, gradients: Any) -> Any:
    """Add gradients of a `layer` to its accumulators; under ZeRO 3 each group receives the sum of its share."""
    if layout.zero < 3:
        return add(layout, totals, gradients)
    return map_with_axes(
        lambda total, x, axes: total + _scattered(layout, _pad(layout, x, axes).astype(total.dtype), axes), totals, gradients
    )


def finish(layout: Layout, totals: Any) -> Any:
    """Sum accumulated gradients over all devices; the result is float32 and split like the master weights."""

    def one(total, axes):
        if not _is_split(layout, total, axes):
            total = _scattered(layout, total, axes) if layout.zero else _summed(layout, total, ZERO)
        total = total.astype(jnp.float32)
        split = {name for names in layout.mesh_axes(axes, total.ndim) for name in names}
        # devices on other stages and tensor shards hold copies, and have contributed their own parts
        return _summed(layout, total, [name for name in NAMES if name not in (*ZERO, *split)])

    return map_with_axes(one, totals)


def _is_split(layout: Layout, x: Any, axes: tuple[str, ...]) -> bool:
    """Return True if working weights are split: the stacked layers', under ZeRO 3."""
    return layout.zero == 3 and x.ndim > len(axes)


def _gathered(layout: Layout, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    if layout.zero_shards == 1:
        return x
    dimension = _width_dimension(x, axes)
    return jax.lax.slice_in_dim(jax.lax.all_gather(x, ZERO, axis=dimension, tiled=True), 0, layout.width, axis=dimension)


def _scattered(layout: Layout, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    if layout.zero_shards == 1:
        return x
    return jax.lax.psum_scatter(x, ZERO, scatter_dimension=_width_dimension(x, axes), tiled=True)


def _summed(layout: Layout, x: jax.Array, names: Iterable[str]) -> jax.Array:
    names = tuple(name for name in names if layout.mesh.shape[name] > 1)
    return jax.lax.psum(x, names) if names else x


def _padded(layout: Layout, shape: tuple[int, ...], axes: tuple[str, ...]) -> tuple[int, ...]:
    """Return an unsplit shape with the padded width."""
    width = len(shape) - len(axes) + axes.index("embed")
    return (*shape[:width], layout.padded_width, *shape[width + 1 :])


def _pad(layout: Layout, x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jnp.pad(x, [(0, n - old) for n, old in zip(_padded(layout, x.shape, axes), x.shape, strict=True)])


def _width_dimension(x: jax.Array, axes: tuple[str, ...]) -> int:
    return x.ndim - len(axes) + axes.index("embed")
