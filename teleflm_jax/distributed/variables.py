"""Variables of jax that change what a program computes, or end it: the commands compute the same whatever these say.

With `JAX_ENABLE_X64` numbers become float64 that a program states no dtype for; with another generator, or another way to split it, the
same seed gives other weights and samples; and jax's strict modes refuse sums that mean what they say.
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
"""Setting -> what the commands compute with; its variable has the same name in capitals."""


def settle(environment: MutableMapping[str, str]) -> list[str]:
    """Take the variables out of a process's environment, and out of jax where that has read them; returns those that said otherwise."""
    found = {name: environment.pop(name.upper()) for name in OURS if name.upper() in environment}
    if found and "jax" in sys.modules:
        import jax

        for name in found:
            jax.config.update(name, OURS[name])
    return [f"{name.upper()}={value}" for name, value in found.items() if value.lower() not in _spellings(OURS[name])]


def finds_no_device(error: BaseException) -> bool:
    """Tell if jax raised an error for want of a device of the platforms in `JAX_PLATFORMS`; the error has one of several types."""
    where = error.__traceback__
    while where is not None and where.tb_next is not None:
        where = where.tb_next
    return "JAX_PLATFORMS" in os.environ and where is not None and where.tb_frame.f_globals.get("__name__") == "jax._src.xla_bridge"


def _spellings(value: bool | int | str) -> set[str]:
    return {str(value).lower()} | ({str(int(value))} if isinstance(value, bool) else set())
