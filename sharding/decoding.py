"""Where weights and caches lie for decoding, on the same mesh as in training.

A token at a time leaves a pipeline's stages idle, so here `pipe` and `tensor` together split heads, feed-forward and vocabulary, and `data`
splits the rows; width and layers are whole. What a size does not divide is split less. XLA places the collectives.
"""

import math
from typing import Any

import jax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from sharding import rules
from sharding.config import MeshConfig
from sharding.rules import Layout, each

WAYS = (("pipe", "tensor"), ("tensor",), ("pipe",))
"""Mesh axes that split a dimension: the first that divide it."""
SPLIT = ("vocab", "heads", "kv_heads", "mlp")
"""Logical axes that are split; a shard computes all of its own products."""


def layout(width: int, num_kv_heads: int) -> Layout:
    """All devices that are here: as many in a group as can share the heads, so that each token comes soonest; other groups beside it."""
    return rules.layout(MeshConfig(tensor=math.gcd(jax.device_count(), num_kv_heads)), width)


def shardings(layout: Layout, tree: Any) -> Any:
    """Where logical weights lie, of a model whose layers are apart."""
    return each(
        lambda x, axes: NamedSharding(layout.mesh, P(*(_ways(layout, name, n) for name, n in zip(axes, x.shape, strict=True)))), tree
    )


def placed_cache(layout: Layout, tree: Any) -> Any:
    """Arrays [B, K, S, H] where they belong; to be traced."""
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, cache_placement(layout, x.shape[0], x.shape[1])), tree)


def cache_placement(layout: Layout, count: int, num_kv_heads: int) -> NamedSharding:
    """Return the sharding that `placed_cache` gives an array of so many rows and heads."""
    return NamedSharding(layout.mesh, P(_rows(layout, count), _ways(layout, "kv_heads", num_kv_heads)))


def placed_rows(layout: Layout, tree: Any) -> Any:
    """Arrays [B, …], rows split; to be traced."""
    return jax.tree.map(lambda x: _placed(layout, x, _rows(layout, x.shape[0])), tree)


def everywhere(layout: Layout, tree: Any) -> Any:
    """Arrays that each process wants to read whole; to be traced."""
    return jax.tree.map(lambda x: _placed(layout, x), tree)


def _placed(layout: Layout, x: jax.Array, *axes: Any) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(layout.mesh, P(*axes)))


def _rows(layout: Layout, count: int) -> str | None:
    return "data" if count % layout.data == 0 else None


def _ways(layout: Layout, name: str, size: int) -> tuple[str, ...] | None:
    if name not in SPLIT:
        return None
    return next((ways for ways in WAYS if size % math.prod(layout.mesh.shape[axis] for axis in ways) == 0), None)
