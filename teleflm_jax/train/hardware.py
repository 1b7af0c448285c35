"""What the devices could do at best, for MFU (model FLOP/s utilisation)."""

import dataclasses
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

DENSE_BF16 = {"A100": 312e12, "A800": 312e12, "H100": 989e12, "H200": 989e12, "H800": 989e12, "L40S": 362e12, "RTX 4090": 165e12}
"""FLOP/s by a part of the device's name: vendors' dense bfloat16 figures, never the sparse ones."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peak:
    """FLOP/s of one device and where the figure comes from."""

    flops: float
    source: str


def peak() -> Peak:
    """The peak of this run's devices; a device without an entry (a CPU, say) is measured with a large float32 matrix product.

    CPU devices share their machine's cores, so each gets its share of what was measured.
    """
    device = jax.devices()[0]
    for name, flops in DENSE_BF16.items():
        if name in device.device_kind:
            return Peak(flops=flops, source=f"{device.device_kind}: dense bfloat16, from the vendor")
    sharers = jax.local_device_count() if device.platform == "cpu" else 1
    return Peak(flops=_measure() / sharers, source=f"{device.device_kind}: float32 matrix product, measured at the start")


def memory_rate(size: int = 1 << 25) -> float:
    """Bytes/s that one device reads and writes, measured by adding to a large float32 array; CPU devices share their machine's."""
    sharers = jax.local_device_count() if jax.devices()[0].platform == "cpu" else 1
    return 2 * 4 * size / seconds(jax.jit(lambda x, _: x + 1), jnp.ones(size)) / sharers


def probe(size: int = 1024, times: int = 5) -> float:
    """Seconds that this process's slowest device takes for a small matrix product, at best of a few; no collective is in it."""
    product = jax.jit(jnp.matmul)
    found = []
    for device in jax.local_devices():
        x = jax.device_put(jnp.ones((size, size)), device)
        found.append(seconds(product, x, times))
    return max(found)


def _measure(size: int = 2048) -> float:
    return 2 * size**3 / seconds(jax.jit(jnp.matmul), jnp.ones((size, size)))


def seconds(function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, times: int = 3) -> float:
    """The shortest of a few calls, after one that compiles."""
    jax.block_until_ready(function(x, x))
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        jax.block_until_ready(function(x, x))
        taken.append(time.perf_counter() - began)
    return min(taken)
