"""Speed of each process of a run, measured before it starts, and the processes that would slow down the others."""

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from teleflm_jax.errors import UserError
from teleflm_jax.hardware import throughput


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of the measurements, large enough that their launch costs nothing in comparison."""

    dtype: str
    width: int
    """Rows of the square matrices."""
    repeats: int
    """Operations in sequence in one measurement, so that processes that wait for each other synchronise."""
    memory: int
    """Bytes read, and as many written."""
    message: int
    """Bytes that each device sends."""
    times: int
    """Number of measurements; the best counts, since other load on a machine only makes it slower."""
    tolerance: float
    """Share of the median below which a process is slow."""


GPU = Sizes(dtype="bfloat16", width=8192, repeats=32, memory=1 << 30, message=1 << 28, times=8, tolerance=0.85)
"""Healthy GPUs of one kind differ by less than 10 %."""
CPU = Sizes(dtype="float32", width=512, repeats=4, memory=1 << 25, message=1 << 21, times=40, tolerance=0.3)
"""Processes on one machine compete for its cores, so only a large difference is meaningful; short, since their time slices are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """Rates that one process has measured."""

    host: str
    matmul: tuple[float, ...]
    """FLOP/s of each of its devices while all of them compute."""
    memory: tuple[float, ...]
    """Bytes/s that each of its devices reads and writes."""
    network: float = math.nan
    """Bytes/s in each direction between its devices and those of the better of its two neighbours; nan without a neighbour."""
    all_reduce: float = math.nan
    """Bytes/s: one device's buffer over the time of an all-reduce; nan for a single device."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Slow:
    """Process below the tolerance, and the measurement."""

    process: int
    host: str
    what: str
    part: float
    """Share of the median."""


def sizes() -> Sizes:
    """Return the sizes for this run's devices."""
    return CPU if jax.devices()[0].platform == "cpu" else GPU


def measure(sizes: Sizes) -> list[Rates]:
    """Measure all processes, which call this together; return the rates of each, on each.

    Raises:
        UserError: a process has fewer devices than another.
    """
    devices = _grid()
    hosts = throughput.hosts()
    matmul = throughput.of_each_device(lambda device: _matmul_rate(device, sizes))
    multihost_utils.sync_global_devices("products are measured")
    memory = throughput.of_each_device(lambda device: _memory_rate(device, sizes))
    mesh = Mesh(devices, ("process", "device"))
    own = [*matmul, *memory, _network_rate(mesh, hosts, sizes), _all_reduce_rate(mesh, sizes)]
    gathered = np.asarray(multihost_utils.process_allgather(np.array(own, np.float32))).reshape(len(hosts), -1)
    return [_rates(host, [float(rate) for rate in row], devices.shape[1]) for host, row in zip(hosts, gathered, strict=True)]


def slow_processes(rates: Sequence[Rates], tolerance: float) -> list[Slow]:
    """Return the processes that are slow in a measurement.

    Products and memory are compared device by device, so that one slow GPU of eight is found, also in a run of one process. An all-reduce
    is as slow as its slowest member on every process and identifies none; a slow link to both neighbours does.

    Args:
        rates: of every process.
        tolerance: share of the median below which a rate is slow.
    """
    found = []
    for what in ("matmul", "memory"):
        each = [getattr(of_process, what) for of_process in rates]
        median = statistics.median(rate for of_process in each for rate in of_process)
        for process, of_process in enumerate(each):
            slowest = min(of_process)
            if slowest < tolerance * median:
                where = f"{what} of its device {of_process.index(slowest)}" if len(of_process) > 1 else what
                found.append(Slow(process=process, host=rates[process].host, what=where, part=slowest / median))
    linked = [rate.network for rate in rates if not math.isnan(rate.network)]
    median = statistics.median(linked) if linked else math.nan
    for process, rate in enumerate(rates):
        if rate.network < tolerance * median:
            found.append(Slow(process=process, host=rate.host, what="network", part=rate.network / median))
    return sorted(found, key=lambda slow: slow.process)


def rounds(hosts: Sequence[str]) -> list[list[tuple[int, int]]]:
    """Return the pairs of processes that send to each other, by round; the pairs of a round send at the same time.

    The hosts, or the processes of a single host, form a ring, so that each has two neighbours: a slow one is slow with both, and its
    neighbours are fast with their other neighbour. The processes of a host send at the same time, as they do in training.

    Args:
        hosts: host of every process.
    """
    on_host = [[process for process, host in enumerate(hosts) if host == name] for name in dict.fromkeys(hosts)]
    groups = on_host if len(on_host) > 1 else [[process] for process in range(len(hosts))]
    count = len(groups)
    edges = [(i, (i + 1) % count) for i in range(count if count > 2 else count - 1)]
    ring, last = (edges[:-1], edges[-1:]) if count % 2 else (edges, [])  # in an odd ring, the last edge meets both colours
    found = [
        [pair for one, other in part for pair in zip(groups[one], groups[other], strict=False)] for part in (ring[::2], ring[1::2], last)
    ]
    return [pairs for pairs in found if pairs]


def _grid() -> np.ndarray:
    """Return all devices, one row a process."""
    rows = [[device for device in jax.devices() if device.process_index == process] for process in range(jax.process_count())]
    usual = statistics.mode(len(row) for row in rows)
    if other := [process for process, row in enumerate(rows) if len(row) != usual]:
        raise UserError(
            f"got {len(rows[other[0]])} device(s) on process {other[0]} and {usual} on most; allowed: as many on each; "
            "look at its host, which may have lost a GPU"
        )
    return np.array(rows)


def _matmul_rate(device: Any, sizes: Sizes) -> float:
    taken = throughput.products(device, dtype=sizes.dtype, width=sizes.width, repeats=sizes.repeats, times=sizes.times)
    return sizes.repeats * 2 * sizes.width**3 / taken


def _memory_rate(device: Any, sizes: Sizes) -> float:
    numbers = jax.device_put(np.ones(sizes.memory // 4, np.float32), device)
    add = jax.jit(lambda x, _: _repeat(sizes, lambda y: y + 1, x))
    return sizes.repeats * 2 * sizes.memory / throughput.seconds(add, numbers, sizes.times)


def _network_rate(mesh: Mesh, hosts: Sequence[str], sizes: Sizes) -> float:
    """Return the rate from this process to the better of its neighbours."""
    mine, found = jax.process_index(), [math.nan]
    for pairs in rounds(hosts):
        both_ways = [*pairs, *((b, a) for a, b in pairs)]
        seconds = _seconds_of(mesh, lambda x, to=both_ways: jax.lax.ppermute(x, "process", to), sizes)
        if any(mine in pair for pair in pairs):
            found.append(mesh.shape["device"] * sizes.message / seconds)
    return float(np.nanmax(found)) if len(found) > 1 else math.nan


def _all_reduce_rate(mesh: Mesh, sizes: Sizes) -> float:
    if mesh.size == 1:
        return math.nan
    return sizes.message / _seconds_of(mesh, lambda x: jax.lax.psum(x, mesh.axis_names), sizes)


def _seconds_of(mesh: Mesh, collective: Callable[[jax.Array], jax.Array], sizes: Sizes) -> float:
    """Return the shortest time of this process for a collective on a buffer of each device."""
    places = PartitionSpec(mesh.axis_names)
    buffers = jax.jit(lambda: jnp.ones(mesh.size * sizes.message // 4), out_shardings=NamedSharding(mesh, places))()
    run = jax.shard_map(lambda x, _: _repeat(sizes, collective, x), mesh=mesh, in_specs=(places, places), out_specs=places, check_vma=False)
    return throughput.seconds(jax.jit(run), buffers, sizes.times) / sizes.repeats


def _repeat(sizes: Sizes, operation: Callable[[jax.Array], jax.Array], start: jax.Array) -> jax.Array:
    return jax.lax.fori_loop(0, sizes.repeats, lambda _, x: operation(x), start)


def _rates(host: str, row: Sequence[float], devices: int) -> Rates:
    network, all_reduce = row[-2:]
    return Rates(host=host, matmul=tuple(row[:devices]), memory=tuple(row[devices : 2 * devices]), network=network, all_reduce=all_reduce)
