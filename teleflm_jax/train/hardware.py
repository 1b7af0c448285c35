"""What the devices could do at best, for MFU (model FLOP/s utilisation)."""

import concurrent.futures
import dataclasses
import functools
import math
import socket
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

DENSE_BF16 = {"A100": 312e12, "A800": 312e12, "H100": 989e12, "H200": 989e12, "H800": 989e12, "L40S": 362e12, "RTX 4090": 165e12}
"""FLOP/s by a part of the device's name: vendors' dense bfloat16 figures, never the sparse ones."""


HOST_BYTES = 64
"""Of a host's name, which the processes tell each other."""


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


def probe() -> float:
    """Seconds that this process's slowest device takes for a chain of matrix products; no collective is in it."""
    gpu = jax.devices()[0].platform != "cpu"
    size = {"dtype": "bfloat16", "width": 4096, "repeats": 64} if gpu else {"dtype": "float32", "width": 512, "repeats": 4}
    return max(of_each_device(lambda device: products(device, **size, times=3)))


def products(device: jax.Device, *, dtype: str, width: int, repeats: int, times: int) -> float:
    """Seconds of a chain of square matrix products, the best of several tries after one that compiles.

    Of numbers that stay of one size, and not ones or zeros, for which a GPU needs less power than in training.
    """
    values = np.random.default_rng(0).standard_normal((width, width), np.float32) / math.sqrt(width)
    return seconds(_chain(repeats), jax.device_put(jnp.asarray(values, dtype), device), times)


@functools.cache
def _chain(repeats: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return jax.jit(lambda x, y: jax.lax.fori_loop(0, repeats, lambda _, z: z @ x, y))


def of_each_device(measure: Callable[[jax.Device], float]) -> list[float]:
    """Measure this process's devices: GPUs all at once, since they share power and cooling; CPU devices are the same cores."""
    devices = jax.local_devices()
    with concurrent.futures.ThreadPoolExecutor(1 if devices[0].platform == "cpu" else len(devices)) as pool:
        return list(pool.map(measure, devices))


def hosts() -> list[str]:
    """The machine of each process, on every process."""
    name = socket.gethostname().encode()[:HOST_BYTES]
    gathered = multihost_utils.process_allgather(np.frombuffer(name.ljust(HOST_BYTES, b"\0"), np.uint8))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in np.asarray(gathered).reshape(-1, HOST_BYTES)]


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
