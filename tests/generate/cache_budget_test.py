import math
import resource

import jax
import pytest

from sharding.config import MeshConfig
from teleflm_jax.generate import cache_budget, programs, rows
from teleflm_jax.generate.cache_budget import CacheBudget
from tests import tiny


def on(mesh, **changes):
    return tiny.decoder(tiny.config(vocab_size=390, context_length=1024, **changes), mesh)


def test_a_cache_is_counted_on_each_device():
    one = CacheBudget(decoder=on(MeshConfig(data=1)))
    assert one._cache(4, 256) == 2 * 2 * 4 * 4 * 256 * 8 * 4  # keys and values of 2 layers, 4 rows, 4 heads, slots, head size, float32
    split = CacheBudget(decoder=on(MeshConfig(data=2, tensor=4)))
    assert split._cache(4, 256) * 8 == one._cache(4, 256) and split._cache(1, 256) * 4 == one._cache(1, 256)


def test_what_rows_keep_beside_the_cache_is_counted():
    found = on(MeshConfig(data=1))
    kept = rows.empty(found, count=4, length=16).state
    assert {"seen", "counts", "biases"} <= kept.keys() and CacheBudget(decoder=found)._state(4) == sum(x.nbytes for x in kept.values())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bound_lies_above_what_programs_take(dtype):
    found = on(MeshConfig(data=1), compute_dtype=dtype)
    lowered, bound = programs._Lowered(decoder=found, chunk=16), CacheBudget(decoder=found)
    weights = sum(x.nbytes for x in jax.tree.leaves(found.model))
    for sizes in ((1, 256), (4, 256)):
        of = lowered.decode(*sizes, None).compile().memory_analysis()
        required = of.argument_size_in_bytes - weights + of.temp_size_in_bytes + of.output_size_in_bytes - of.alias_size_in_bytes
        assert bound._cache(*sizes) < required < bound._required(sizes, (0, 0))
    for prompts in ((1, 16), (2, 256)):
        of = lowered.prefill(*prompts).compile().memory_analysis()
        assert bound._cache(*prompts) < of.temp_size_in_bytes + of.output_size_in_bytes < bound._required((0, 0), prompts)


def test_the_least_of_what_the_system_says_is_free(monkeypatch):
    files = {"/proc/meminfo": ["MemTotal: 900 kB", "MemAvailable: 800 kB"], "/proc/self/statm": ["100 1 1"]}
    monkeypatch.setattr(cache_budget, "_lines", lambda path: files.get(path, []))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY,) * 2)
    devices = jax.local_device_count()
    assert cache_budget.free_bytes() == 800 * 1024 / devices
    files |= {"/sys/fs/cgroup/memory.max": ["700000"], "/sys/fs/cgroup/memory.current": ["100000"]}
    assert cache_budget.free_bytes() == 600_000 / devices
    files["/sys/fs/cgroup/memory.max"] = ["max"]
    assert cache_budget.free_bytes() == 800 * 1024 / devices
    page = resource.getpagesize()
    monkeypatch.setattr(resource, "getrlimit", lambda _: (110 * page, math.inf))
    assert cache_budget.free_bytes() == 10 * page / devices
    monkeypatch.setattr(resource, "getrlimit", lambda _: (90 * page, math.inf))
    assert cache_budget.free_bytes() == 0
