"""Bound on the length and number of sequences by the memory that they take, known before anything is allocated.

The memory that XLA takes in addition to caches follows no simple law. The formulas here give more than it reports for compiled programs on
CPUs (`Compiled.memory_analysis`; tests compare them). The formulas for other devices, which compute in the cache's type and in blocks of
queries, have not been measured.
"""

import dataclasses
import functools
import math
import os
import pathlib

import jax

from teleflm_jax.errors import UserError
from teleflm_jax.generate import rows
from teleflm_jax.generate.decoder import Decoder
from teleflm_jax.model.attention import QUERY_BLOCK

MIN_SLOTS = 256
"""Cache length with which a sequence begins, or its limit if that is lower: each growth needs another program."""
SHARE = 0.8
"""Share of the memory free at start that sequences may take; the rest is for compiling and for other processes."""
CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Files of limit and usage below /sys/fs/cgroup: version 2, version 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheBudget:
    """Bound on the memory of sequences on each device, without the weights."""

    decoder: Decoder
    bytes: float = math.inf

    @property
    def context_length(self) -> int:
        """Longest sequence that fits alone, at most the model's context.

        Raises:
            UserError: not even the shortest sequence fits.
        """
        longest = self.decoder.context_length
        lengths = [longest, *(length for length in (2**n for n in range(40, 0, -1)) if MIN_SLOTS <= length < longest)]
        for length in lengths:
            if self.fits((1, length), (1, length)):
                return length
        least = self._required((1, length), (1, length)) / 1e9
        raise UserError(
            f"got {self.bytes / 1e9:.3f} GB for texts on each device; allowed: at least {least:.3f}, "
            f"for one of {length:,} tokens; free memory, or change --cache_gb"
        )

    def fits(self, sizes: tuple[int, int], prompts: tuple[int, int] = (0, 0)) -> bool:
        """Return whether a batch of (rows, length) fits while (prompts, length of the longest) are read."""
        return self._required(sizes, prompts) <= self.bytes

    def _required(self, sizes: tuple[int, int], prompts: tuple[int, int]) -> float:
        """Return an upper bound in bytes."""
        config = self.decoder.model.config
        on_cpu, size = jax.default_backend() == "cpu", jax.numpy.dtype(config.compute_dtype).itemsize
        (count, slots), (num_prompts, prompt_length) = sizes, prompts
        cache = self._cache(count, slots)
        # on CPUs XLA may hold a second copy of the cache while it decodes, and computes in float32
        decoding = (
            cache * (1 + (4 / size if on_cpu else 1 / config.num_layers)) + count * config.vocab_size * 4 * 8 + 2 * self._state(count)
        )
        scores = config.num_heads * prompt_length * (max(prompt_length, QUERY_BLOCK) if on_cpu else QUERY_BLOCK)
        widths = 4 * config.d_model + 4 * config.d_ff + 4 * config.num_heads * config.head_size
        prefill = (
            cache
            + 2 * self._cache(num_prompts, prompt_length)
            + 4 * num_prompts * (scores + prompt_length * widths)
            + 2 * (self._state(count) + self._state(num_prompts))
        )
        weights = self._parameters * 4 if on_cpu and size < 4 else 0
        return weights + max(decoding, prefill)

    @functools.cached_property
    def _parameters(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.decoder.model))

    def _state(self, count: int) -> float:
        """Return the bytes of the rows' state, whole on each device; it exists twice while the batch changes."""
        return count * self._row_bytes

    @functools.cached_property
    def _row_bytes(self) -> int:
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in rows.state_shapes(self.decoder.vocab_size, 1).values())

    def _cache(self, count: int, slots: int) -> float:
        """Return the bytes of a cache on a device."""
        config = self.decoder.model.config
        shape = (count, config.num_kv_heads, slots, config.head_size)
        shard = rows.cache_shape(self.decoder, count, slots).sharding.shard_shape(shape)
        return 2 * config.num_layers * math.prod(shard) * jax.numpy.dtype(config.compute_dtype).itemsize


def free_bytes() -> float:
    """Return the free memory of a device of this process, as far as the system reports it."""
    device = jax.local_devices()[0]
    if stats := device.memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    free = [_free_of_machine(), *(_free_of_cgroup(*names) for names in CGROUPS), _free_of_process()]
    return max(0.0, min(free)) / jax.local_device_count()


def _free_of_machine() -> float:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_of_cgroup(limit: str, usage: str) -> float:
    """Return what the process's own cgroup leaves free if it is mounted as the root, as in containers."""
    (most, *_), (now, *_) = (_lines(f"/sys/fs/cgroup/{name}") or ["max"] for name in (limit, usage))
    return math.inf if "max" in (most.strip(), now.strip()) else int(most) - int(now)


def _free_of_process() -> float:
    """Return what is left of the address space that `ulimit -v` allows."""
    import resource  # does not exist on every system

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = (_lines("/proc/self/statm") or ["0"])[0].split()[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit - int(pages) * os.sysconf("SC_PAGE_SIZE")


def _lines(path: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []
