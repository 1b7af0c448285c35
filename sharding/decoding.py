"""Sharding of weights and caches for decoding, on the same mesh as in training.

Decoding one token at a time would leave the stages of a pipeline idle. So all axes but those that split rows split heads, feed-forward and
vocabulary together; width and layers are whole. A size that they do not divide is split over one of them. XLA places the collectives.
"""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sharding import axes as mesh_axes
from sharding import rules
from sharding.config import MeshConfig
from sharding.rules import Layout, map_with_axes

SHARED = tuple(name for name in mesh_axes.NAMES if name not in mesh_axes.ROWS)
"""Mesh axes whose devices share a row."""
WAYS = (SHARED, *((name,) for name in reversed(SHARED)))
"""Mesh axes that may split a dimension; the first that divide it do."""
SPLIT = ("vocab", "heads", "kv_heads", "mlp")
"""Logical axes that are split; a shard computes all of its own products."""


def layout(width: int, num_kv_heads: int) -> Layout:
    """Return a layout of all devices, with as many in a group as can share the heads (lowest latency); the groups split rows."""
    return rules.layout(dataclasses.replace(MeshConfig(), **{mesh_axes.TENSOR: math.gcd(jax.device_count(), num_kv_heads)}), width)


def shardings(layout: Layout, tree: Any) -> Any:
    """Return the shardings of canonical weights of a model with unstacked layers."""
    return map_with_axes(
        lambda x, axes: NamedSharding(layout.mesh, P(*(_ways(layout, name, n) for name, n in zip(axes, x.shape, strict=True)))), tree
    )


def placed_cache(layout: Layout, tree: Any) -> Any:
    """Constrain the sharding of a cache's arrays [B, K, S, H]; call it while tracing."""
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, cache_placement(layout, x.shape[0], x.shape[1])), tree)


def cache_placement(layout: Layout, count: int, num_kv_heads: int) -> NamedSharding:
    """Return the sharding that `placed_cache` gives an array of `count` rows and `num_kv_heads` heads."""
    return NamedSharding(layout.mesh, P(_rows(layout, count), _ways(layout, "kv_heads", num_kv_heads)))


def placed_rows(layout: Layout, tree: Any) -> Any:
    """Constrain arrays [B, …] to be split by rows; call it while tracing."""
    return jax.tree.map(lambda x: _placed(layout, x, _rows(layout, x.shape[0])), tree)


def everywhere(layout: Layout, tree: Any) -> Any:
    """Constrain arrays to be whole on every device, so that each process can read them; call it while tracing."""
    return jax.tree.map(lambda x: _placed(layout, x), tree)


def _placed(layout: Layout, x: jax.Array, *axes: Any) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(layout.mesh, P(*axes)))


def _rows(layout: Layout, count: int) -> tuple[str, ...] | None:
    return mesh_axes.ROWS if count % layout.data == 0 else None


def _ways(layout: Layout, name: str, size: int) -> tuple[str, ...] | None:
    if name not in SPLIT:
        return None
    return next((ways for ways in WAYS if size % math.prod(layout.mesh.shape[axis] for axis in ways) == 0), None)
