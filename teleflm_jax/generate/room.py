"""A bound on the length and number of texts by the memory that they take, known before anything is allocated.

What XLA takes beside caches follows no simple law. The forms here lie above what it says of compiled programs on CPUs
(`Compiled.memory_analysis`; tests hold them against it); those of other devices, which compute in the cache's own type and one block of
queries after the other, are not measured.
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

SHORTEST = 256
"""Slots of the cache in which a text begins, fewer if it ends before: each growth is another program."""
SHARE = 0.8
"""Share that texts may take of the memory that is free at start; the rest is for compiling and for what else runs."""
CGROUPS = (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"))
"""Limit and usage, below /sys/fs/cgroup: version 2, version 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """A bound on what texts take on each device, weights apart."""

    decoder: Decoder
    bytes: float = math.inf

    @property
    def context_length(self) -> int:
        """Longest text that fits alone, at most the model's.

        Raises:
            UserError: not even the shortest one fits.
        """
        longest = self.decoder.context_length
        lengths = [longest, *(length for length in (2**n for n in range(40, 0, -1)) if SHORTEST <= length < longest)]
        for length in lengths:
            if self.fits((1, length), (1, length)):
                return length
        raise UserError(
            f"got {self.bytes / 1e9:.3f} GB for texts on each device; allowed: at least {self._taken((1, length), (1, length)) / 1e9:.3f}, "
            f"for one of {length:,} tokens; free memory, or change --cache_gb"
        )

    def fits(self, sizes: tuple[int, int], prompts: tuple[int, int] = (0, 0)) -> bool:
        """Whether (rows, slots) do, while (prompts, tokens of the longest) are read."""
        return self._taken(sizes, prompts) <= self.bytes

    def _taken(self, sizes: tuple[int, int], prompts: tuple[int, int]) -> float:
        """Bytes at the most."""
        config = self.decoder.model.config
        on_cpu, size = jax.default_backend() == "cpu", jax.numpy.dtype(config.compute_dtype).itemsize
        (count, slots), (read, length) = sizes, prompts
        cache = self._cache(count, slots)
        # on CPUs XLA may keep the cache once more while it goes on with texts, and computes in float32
        going_on = (
            cache * (1 + (4 / size if on_cpu else 1 / config.num_layers)) + count * config.vocab_size * 4 * 8 + 2 * self._state(count)
        )
        scores = config.num_heads * length * (max(length, QUERY_BLOCK) if on_cpu else QUERY_BLOCK)
        widths = 4 * config.d_model + 4 * config.d_ff + 4 * config.num_heads * config.head_size
        reading = (
            cache + 2 * self._cache(read, length) + 4 * read * (scores + length * widths) + 2 * (self._state(count) + self._state(read))
        )
        weights = self._parameters * 4 if on_cpu and size < 4 else 0
        return weights + max(going_on, reading)

    @functools.cached_property
    def _parameters(self) -> int:
        return sum(x.size for x in jax.tree.leaves(self.decoder.model))

    def _state(self, count: int) -> float:
        """Bytes of what rows keep beside the cache, on each device whole; it exists twice while rows move or new texts join them."""
        return count * self._row_bytes

    @functools.cached_property
    def _row_bytes(self) -> int:
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in rows.state(self.decoder.vocab_size, 1).values())

    def _cache(self, count: int, slots: int) -> float:
        """Bytes on a device."""
        config = self.decoder.model.config
        shape = (count, config.num_kv_heads, slots, config.head_size)
        shard = rows.cached(self.decoder, count, slots).sharding.shard_shape(shape)
        return 2 * config.num_layers * math.prod(shard) * jax.numpy.dtype(config.compute_dtype).itemsize


def free_bytes() -> float:
    """Memory of a device of this process that nothing takes yet, as far as the system tells."""
    device = jax.local_devices()[0]
    if stats := device.memory_stats():
        return stats["bytes_limit"] - stats["bytes_in_use"]
    found = [_free_of_machine(), *(_free_of_cgroup(*names) for names in CGROUPS), _free_of_process()]
    return max(0.0, min(found)) / jax.local_device_count()


def _free_of_machine() -> float:
    for line in _lines("/proc/meminfo"):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _free_of_cgroup(limit: str, usage: str) -> float:
    """Return what the process's own group leaves free, where it is seen as the root, as in containers."""
    (most, *_), (now, *_) = (_lines(f"/sys/fs/cgroup/{name}") or ["max"] for name in (limit, usage))
    return math.inf if "max" in (most.strip(), now.strip()) else int(most) - int(now)


def _free_of_process() -> float:
    """Return what is left of the address space that `ulimit -v` allows."""
    import resource  # not on every system

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    pages = (_lines("/proc/self/statm") or ["0"])[0].split()[0]
    return math.inf if limit == resource.RLIM_INFINITY else limit - int(pages) * os.sysconf("SC_PAGE_SIZE")


def _lines(path: str) -> list[str]:
    try:
        return pathlib.Path(path).read_text().splitlines()
    except OSError:
        return []
