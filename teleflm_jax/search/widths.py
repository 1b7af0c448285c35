"""Points of a search at several widths: the same shape, wider, under µP and under standard parametrisation."""

import dataclasses
from collections.abc import Iterable, Mapping

from teleflm_jax import mup
from teleflm_jax.errors import UserError
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.search import space
from teleflm_jax.search.config import MUP, STANDARD, SearchConfig

WIDTH, BASE_WIDTH = "model.d_model", "mup.base_width"
SCALED = ("d_model", "num_heads", "num_kv_heads", "d_ff")
"""Settings of a model that grow with its width; all else, the size of a head included, stays."""


def points(config: RunConfig, search: SearchConfig, found: Iterable[space.Values]) -> list[space.Values]:
    """Return each point at each of `search.widths` under each of `search.parametrisations`; the points as they are without widths.

    Trials of one width follow each other, so that a worker compiles each shape once.

    Raises:
        UserError: the model cannot have one of the widths.
    """
    if not search.widths:
        return list(found)
    rows = list(found)
    return [
        {**shape(config.model, width), BASE_WIDTH: base, **values}
        for width in search.widths
        for base in _base_widths(config.mup, width, search.parametrisations)
        for values in rows
    ]


def shape(model: ModelConfig, width: int) -> space.Values:
    """Return the settings of the model at another width: heads of the same size, feed-forward in the same proportion."""
    sizes = {name: getattr(model, name) * width / model.d_model for name in SCALED}
    if odd := [name for name, size in sizes.items() if size != int(size) or size < 1]:
        raise UserError(
            f"got search.widths with {width}, where model.{odd[0]} would be {sizes[odd[0]]:g} (heads of {model.head_size}, feed-forward of "
            f"{model.d_ff / model.d_model:g} x width); allowed: widths at which all sizes are whole; change search.widths, model.d_ff or "
            "model.num_heads"
        )
    return {f"model.{name}": int(size) for name, size in sizes.items()}


def with_values(config: mup.MupConfig, values: Mapping[str, float]) -> mup.MupConfig:
    """Return the hyper-parameters with the values that a search found."""
    return dataclasses.replace(config, **{name.removeprefix("mup."): value for name, value in values.items() if name.startswith("mup.")})


def _base_widths(config: mup.MupConfig, width: int, parametrisations: Iterable[str]) -> list[int]:
    """Return `mup.base_width` for each parametrisation: a width that is its own base has nothing transferred to it."""
    chosen = {MUP: config.base_width, STANDARD: width}
    return list(dict.fromkeys(chosen[name] for name in parametrisations))
