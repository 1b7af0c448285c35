"""Environment variables of jax that would change or break our computations; the commands ignore their values.

With `JAX_ENABLE_X64`, numbers without a stated dtype become float64; with another generator, or another way to split it, the same seed
gives other weights and samples; and jax's strict modes reject sums that are correct.
"""

import os
import sys
from collections.abc import MutableMapping

OURS = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_numpy_rank_promotion": "allow",
    "jax_numpy_dtype_promotion": "standard",
}
"""Setting -> value that the commands use; its variable has the same name in capitals."""


def settle(environment: MutableMapping[str, str]) -> list[str]:
    """Remove the variables from a process's environment, and from jax if it has read them; return those with another value."""
    found = {name: environment.pop(name.upper()) for name in OURS if name.upper() in environment}
    if found and "jax" in sys.modules:
        import jax

        for name in found:
            jax.config.update(name, OURS[name])
    return [f"{name.upper()}={value}" for name, value in found.items() if value.lower() not in _spellings(OURS[name])]


def finds_no_device(error: BaseException) -> bool:
    """Return whether jax raised an error because `JAX_PLATFORMS` has no device; the error has one of several types."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return "JAX_PLATFORMS" in os.environ and where is not None and where.tb_frame.f_globals.get("__name__") == "jax._src.xla_bridge"


def _spellings(value: bool | int | str) -> set[str]:
    return {str(value).lower()} | ({str(int(value))} if isinstance(value, bool) else set())
