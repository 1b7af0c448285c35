"""Peak rates of devices, for MFU (model FLOP/s utilisation), and probes that measure rates."""

import concurrent.futures
import dataclasses
import functools
import math
import re
import socket
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

DENSE_16_BIT = {
    **dict.fromkeys(("A100", "A100 PCIE", "A800", "A800 PCIE", "A800 ACTIVE"), 312e12),
    **dict.fromkeys(("H100", "H800", "H200", "GH200"), 989e12),
    **dict.fromkeys(("H100 PCIE", "H800 PCIE"), 756e12),
    **dict.fromkeys(("H100 NVL", "H800 NVL", "H200 NVL"), 835e12),
    **dict.fromkeys(("H20", "H20-3E"), 148e12),
    **dict.fromkeys(("B200", "B300", "B300 AC"), 2_250e12),
    **dict.fromkeys(("GB200", "GB300"), 2_500e12),
    "A10": 125e12,
    "A30": 165e12,
    "A40": 149.7e12,
    "L4": 121e12,
    "L20": 119.5e12,
    "L40": 181e12,
    "L40S": 362e12,
    "RTX A6000": 154.8e12,
    "RTX 6000 ADA GENERATION": 364.2e12,
    "RTX 3090": 71e12,
    "RTX 4090": 165.2e12,
    "RTX 5090": 209.5e12,
}
"""Card (`card`) -> FLOP/s of bfloat16 or float16 products with float32 sums: the vendor's dense figures, never the sparse ones.

Source: NVIDIA's data sheet of each card, for RTX the white paper of its architecture (docs/sources.md).
"""
SAME_CARD = re.compile(r"NVIDIA|GEFORCE|TESLA|GPU|SXM\d|HBM\d\w*|\d+GB?")
"""Words of a device's name that do not affect its peak: vendor, size and kind of the memory, usual socket."""

HOST_BYTES = 64
"""Bytes of a host's name that the processes exchange."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Peak:
    """FLOP/s of one device and the source of the figure."""

    flops: float
    source: str


def card(kind: str) -> str:
    """Return the card for a device's name as the driver reports it (`device_kind`): `NVIDIA H100 80GB HBM3` -> `H100`.

    Unknown words remain, so that a part of a card (MIG), a laptop's card or a new variant is never taken for the card itself.
    """
    words = re.sub(r"-(?=SXM|PCIE|\d+GB)", " ", kind.upper()).split()
    return " ".join(word for word in words if not SAME_CARD.fullmatch(word))


def peak(dtype: str) -> Peak:
    """Return the peak of this run's devices for products in `dtype`: the vendor's figure, or a measurement if the table has none."""
    kind = jax.devices()[0].device_kind
    if dtype != "float32" and (flops := DENSE_16_BIT.get(card(kind))):
        return Peak(flops=flops, source=f"{kind}: dense {dtype}, from the vendor's data sheet")
    return Peak(flops=product_rate(dtype), source=f"{kind}: {dtype} matrix products, measured at the start")


def product_rate(dtype: str) -> float:
    """Measure the FLOP/s of one device in large matrix products; CPU devices share their machine's cores, and each gets its share."""
    device = jax.local_devices()[0]
    width, repeats, sharers = (1024, 1, jax.local_device_count()) if device.platform == "cpu" else (8192, 8, 1)
    return repeats * 2 * width**3 / products(device, dtype=dtype, width=width, repeats=repeats, times=3) / sharers


def memory_rate(size: int = 1 << 25) -> float:
    """Measure the bytes/s that one device reads and writes, by adding to a large float32 array; CPU devices share their machine's."""
    sharers = jax.local_device_count() if jax.devices()[0].platform == "cpu" else 1
    return 2 * 4 * size / seconds(jax.jit(lambda x, _: x + 1), jnp.ones(size)) / sharers


def probe() -> float:
    """Measure the seconds that this process's slowest device takes for a chain of matrix products, without any collective."""
    gpu = jax.devices()[0].platform != "cpu"
    size = {"dtype": "bfloat16", "width": 4096, "repeats": 64} if gpu else {"dtype": "float32", "width": 512, "repeats": 4}
    return max(of_each_device(lambda device: products(device, **size, times=3)))


def products(device: Any, *, dtype: str, width: int, repeats: int, times: int) -> float:
    """Measure the seconds of a chain of square matrix products, the best of several tries after one that compiles.

    The numbers keep their size, and are not ones or zeros, for which a GPU needs less power than in training.
    """
    values = np.random.default_rng(0).standard_normal((width, width), np.float32) / math.sqrt(width)
    return seconds(_chain(repeats), jax.device_put(jnp.asarray(values, dtype), device), times)


@functools.cache
def _chain(repeats: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return jax.jit(lambda x, y: jax.lax.fori_loop(0, repeats, lambda _, z: z @ x, y))


def of_each_device(measure: Callable[[Any], float]) -> list[float]:
    """Measure this process's devices: GPUs all at once, since they share power and cooling; CPU devices are the same cores."""
    devices = jax.local_devices()
    with concurrent.futures.ThreadPoolExecutor(1 if devices[0].platform == "cpu" else len(devices)) as pool:
        return list(pool.map(measure, devices))


def hosts() -> list[str]:
    """Return the host of each process, on every process."""
    name = socket.gethostname().encode()[:HOST_BYTES]
    gathered = multihost_utils.process_allgather(np.frombuffer(name.ljust(HOST_BYTES, b"\0"), np.uint8))
    return [bytes(row).rstrip(b"\0").decode(errors="replace") for row in np.asarray(gathered).reshape(-1, HOST_BYTES)]


def seconds(function: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, times: int = 3) -> float:
    """Measure the shortest of a few calls in seconds, after one that compiles."""
    jax.block_until_ready(function(x, x))
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        jax.block_until_ready(function(x, x))
        taken.append(time.perf_counter() - began)
    return min(taken)
