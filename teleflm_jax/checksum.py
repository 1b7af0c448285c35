"""A checksum of an array's values and their indices that does not depend on how the array is sharded.

Each element's bits are mixed with its index, and the results are added modulo 2^32, so that parts may be summed in any order: a device
sums its shard, the mesh adds the sums, and a reader of files adds them block by block. The mixing is a bijection of 32 bits, so it always
detects a change of a single element; it misses any other change with probability 2^-32. Our choice: Orbax and TensorStore store no checksum
of values.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
"""A factor for the index along each dimension; odd, so that different indices give different products. Primes of the xxHash family."""
FOLDS = 4
"""Parts of an array that are added elementwise first: on CPUs, XLA vectorises that but not a sum to a scalar, which takes three times as
long."""


def of_tree(tree: Any) -> tuple[dict[str, int], bool]:
    """Return the checksum of every array by its path, and True if all floats are finite; all processes of a mesh call this together."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    arrays = [leaf for _, leaf in flat]
    sums, bad = jax.device_get(_summing(tuple(x.sharding for x in arrays))(arrays))
    return {name(path): int(value) for (path, _), value in zip(flat, sums, strict=True)}, not any(bad)


def name(path: tuple) -> str:
    """Return a path in a tree as text, such as `blocks/attention/query`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def of_device(x: jax.Array, start: Sequence[Any] = ()) -> jax.Array:
    """Return the checksum of one device's array, uint32; for use inside `shard_map`. Elements have 32 bits or fewer.

    Args:
        x: the array, or a part of one.
        start: index of its first element in the whole array; empty for a whole array.
    """
    bits = jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)
    places = [jax.lax.broadcasted_iota(jnp.uint32, x.shape, d) + (jnp.uint32(start[d]) if start else 0) for d in range(x.ndim)]
    mixed = _mixed(bits, places)
    if mixed.size % FOLDS == 0:
        mixed = functools.reduce(jnp.add, mixed.reshape(FOLDS, -1))
    return mixed.sum(dtype=jnp.uint32)


def of_block(x: np.ndarray, start: tuple[int, ...]) -> int:
    """Return what a block of a larger array contributes to its checksum.

    Args:
        x: the block.
        start: index of its first element.
    """
    bits = np.atleast_1d(x.view(f"uint{8 * x.dtype.itemsize}").astype(np.uint32))  # numpy warns where scalars wrap
    ranges = [(np.arange(n) + first).astype(np.uint32) for n, first in zip(x.shape, start, strict=True)]
    places = np.meshgrid(*ranges, indexing="ij", sparse=True)
    return int(_mixed(bits, places).sum(dtype=np.uint64)) % 2**32


@functools.lru_cache(maxsize=8)
def _summing(shardings: tuple) -> Callable[[list], tuple[list[jax.Array], list[jax.Array]]]:
    """Return a function, compiled once for a state, in which each device sums its own shards, so that only sums are sent."""

    def function(arrays):
        found = [_of_sharded(x, sharding) for x, sharding in zip(arrays, shardings, strict=True)]
        return [value for value, _ in found], [bad for _, bad in found]

    return jax.jit(function)


def _of_sharded(x: jax.Array, sharding: Any) -> tuple[jax.Array, jax.Array]:
    """Return the checksum, and True if a value is not finite."""
    if not isinstance(sharding, NamedSharding):
        return of_device(x), _bad(x)
    split = [entry if isinstance(entry, tuple) else (entry,) if entry else () for entry in (*sharding.spec, *(None,) * x.ndim)][: x.ndim]
    axes = tuple(axis for entry in split for axis in entry)

    def local(x):
        start = [jax.lax.axis_index(entry) * n if entry else 0 for entry, n in zip(split, x.shape, strict=True)]
        return jax.lax.psum((of_device(x, start), _bad(x).astype(jnp.uint32)), axes) if axes else (of_device(x), _bad(x))

    mapped = jax.shard_map(local, mesh=sharding.mesh, in_specs=sharding.spec, out_specs=(P(), P()), check_vma=False)
    return mapped(x)


def _bad(x: jax.Array) -> jax.Array:
    """Return True if rows times 0 are not 0. XLA's maximum on a CPU loses NaN in long arrays, and `all` takes three times as long."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.bool_(False)
    if x.ndim > 1:
        zeros = jax.lax.optimization_barrier(jnp.zeros(x.shape[-1], x.dtype))
        x = jnp.matmul(x, zeros, precision=jax.lax.Precision.HIGHEST)
    return ~jnp.isfinite(x).all()


def _mixed(bits: Any, places: Sequence) -> Any:
    """Apply MurmurHash3's finaliser to the bits and the indices; for numpy and jax arrays."""
    h = bits
    for place, odd in zip(places, ODD, strict=False):
        h = h ^ (place + np.uint32(1)) * np.uint32(odd)
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
