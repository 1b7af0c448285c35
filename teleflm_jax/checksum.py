"""A checksum of an array's values and their places, the same however the array is split.

Each element's bits are mixed with its place and the results are added modulo 2^32, so that parts may be summed in any order: a device
sums its shard, the mesh adds the sums, and a reader of files adds them block by block. Mixing is a bijection of 32 bits, so a change of a
single element always shows; any other change is missed once in 2^32. Our choice: Orbax and TensorStore store no checksum of values.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

ODD = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1)
"""A factor for each dimension's index; odd, so that places along one dimension stay apart. Primes of the xxHash family."""


def of_tree(tree: Any) -> tuple[dict[str, int], bool]:
    """Checksum of every array by its path, and whether all floats are finite; to be called by all processes of a mesh."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    sums, finite = jax.device_get(_all([leaf for _, leaf in flat]))
    return {name(path): int(value) for (path, _), value in zip(flat, sums, strict=True)}, bool(finite)


def name(path: tuple) -> str:
    """A path in a tree, as `blocks/attention/q`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def of_device(x: jax.Array) -> jax.Array:
    """Checksum of an array, uint32; to be traced. Elements have 32 bits or fewer."""
    return _mixed(_bits(x), [jax.lax.broadcasted_iota(jnp.uint32, x.shape, d) for d in range(x.ndim)]).sum(dtype=jnp.uint32)


def of_block(x: np.ndarray, start: tuple[int, ...]) -> int:
    """The part that a block of a larger array contributes to its checksum.

    Args:
        x: the block.
        start: index of its first element.
    """
    bits = np.atleast_1d(x.view(f"uint{8 * x.dtype.itemsize}").astype(np.uint32))  # numpy warns where scalars wrap
    ranges = [(np.arange(n) + first).astype(np.uint32) for n, first in zip(x.shape, start, strict=True)]
    places = np.meshgrid(*ranges, indexing="ij", sparse=True)
    return int(_mixed(bits, places).sum(dtype=np.uint64)) % 2**32


@jax.jit
def _all(arrays: list[jax.Array]) -> tuple[list[jax.Array], jax.Array]:
    finite = [jnp.isfinite(x).all() for x in arrays if jnp.issubdtype(x.dtype, jnp.floating)]
    return [of_device(x) for x in arrays], jnp.stack([*finite, jnp.bool_(True)]).all()


def _bits(x: jax.Array) -> jax.Array:
    return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}").astype(jnp.uint32)


def _mixed(bits: Any, places: list) -> Any:
    """MurmurHash3's last step on the bits and a number for the place; numpy or jax arrays alike."""
    h = bits
    for place, odd in zip(places, ODD, strict=False):
        h = h ^ (place + np.uint32(1)) * np.uint32(odd)
    h = (h ^ (h >> 16)) * np.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * np.uint32(0xC2B2AE35)
    return h ^ (h >> 16)
