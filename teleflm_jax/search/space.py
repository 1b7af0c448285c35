"""The space of a search: settings and their ranges, checked, and the points that a grid or a random draw takes from it."""

import contextlib
import dataclasses
import difflib
import itertools
import math
import typing
from collections.abc import Mapping
from typing import Any

import numpy as np

from teleflm_jax.config.values import MismatchError, convert
from teleflm_jax.errors import UserError
from teleflm_jax.runs.config import SECTIONS, RunConfig
from teleflm_jax.search.config import Range, SearchConfig

SEARCHED = ("mup", "optimizer")
"""Sections whose numeric settings may be searched: they change neither the shape of the model nor the tokens that it is trained on."""
SHAPES = ("model", "mesh", "tokenizer", "pack")
"""Sections that decide shapes of arrays; the program of one shape serves all trials."""
MIXTURE = ("data.proportions", "data.max_epochs", "data.change_proportions")
SEEDS = ("train.seed", "data.seed")
LIST, LOG, LINEAR, TIMES = "list", "log", "linear", "times"
DRAWS = 1_000
"""Draws in a row that may repeat points before a random draw counts as exhausted."""

Values = dict[str, float]
"""Setting -> value at one point of the space."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchedAxis:
    """Range of one setting."""

    setting: str
    scale: str
    """list, log or linear."""
    values: tuple[float, ...]
    """Values of the grid, in the order given; of a log or linear range from low to high."""
    whole: bool
    """True if the setting is a whole number."""

    def draw(self, generator: np.random.Generator) -> float:
        """Return a value: one of a list, or any of a range, uniformly in log for a log range, with four digits."""
        if self.scale == LIST:
            return self.values[generator.integers(len(self.values))]
        low, high = self.values[0], self.values[-1]
        value = math.exp(generator.uniform(math.log(low), math.log(high))) if self.scale == LOG else generator.uniform(low, high)
        return round(value) if self.whole else min(max(float(f"{value:.4g}"), low), high)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """Axes of a search, and settings tied to them. Build it with `read`."""

    axes: tuple[SearchedAxis, ...]
    ties: dict[str, tuple[str, float]]
    """Setting -> the setting of an axis, and the factor."""

    @property
    def size(self) -> int:
        """Number of points of the grid."""
        return math.prod(len(axis.values) for axis in self.axes)

    def with_ties(self, free: Mapping[str, float]) -> Values:
        """Return the values of the axes with those of the tied settings, which are rounded where the setting is a whole number."""
        tied = {name: free[other] * factor for name, (other, factor) in self.ties.items()}
        return dict(free) | {name: round(value) if _annotation(name) is int else _tidy(value) for name, value in tied.items()}

    def grid(self) -> list[Values]:
        """Return all combinations; the last axis changes fastest."""
        names = [axis.setting for axis in self.axes]
        return [self.with_ties(dict(zip(names, chosen, strict=True))) for chosen in itertools.product(*(axis.values for axis in self.axes))]

    def ends(self) -> list[Values]:
        """Return the points with all axes at their first and at their last value."""
        return [self.with_ties({axis.setting: axis.values[end] for axis in self.axes}) for end in (0, -1)]

    def random(self, seed: int, n: int) -> list[Values]:
        """Return n different points; those of a smaller n are the first of a larger one.

        Raises:
            UserError: the space has fewer points.
        """
        generator, found = np.random.default_rng(seed), {}
        repeated = 0
        while len(found) < n:
            point = {axis.setting: axis.draw(generator) for axis in self.axes}
            repeated = repeated + 1 if tuple(point.values()) in found else 0
            found.setdefault(tuple(point.values()), point)
            if repeated == DRAWS:
                raise UserError(
                    f"got search.points={n} from a space of {len(found)} points; allowed: up to {len(found)}; change search.points, or "
                    "set search.sampler = 'grid'"
                )
        return [self.with_ties(point) for point in found.values()]


def read(search: SearchConfig) -> Space:
    """Check the ranges of `search.space` and return them.

    Raises:
        UserError: a setting is unknown or cannot be searched, or its range is empty, of the wrong type, or tied to no axis.
    """
    if not search.space:
        raise UserError("got no search.space; allowed: at least one setting with its range; set search.space")
    for setting in search.space:
        _refuse_setting(setting)
    tied = {setting: given for setting, given in search.space.items() if isinstance(given, dict) and TIMES in given}
    axes = tuple(_axis(setting, given) for setting, given in search.space.items() if setting not in tied)
    return Space(axes=axes, ties={setting: _tie(setting, given, search.space, tied) for setting, given in tied.items()})


def apply(config: RunConfig, values: Mapping[str, float], seed: int = 0) -> RunConfig:
    """Return the configuration of a trial: the base configuration at a point, with `seed` added to its seeds."""
    sections = {setting.split(".")[0] for setting in values}
    changed = {
        section: dataclasses.replace(
            getattr(config, section), **{name.split(".")[1]: value for name, value in values.items() if name.split(".")[0] == section}
        )
        for section in sections
    }
    seeded = {
        section: dataclasses.replace(held, seed=held.seed + seed) for section in ("train", "data") if (held := getattr(config, section))
    }
    return dataclasses.replace(config, **seeded, **changed)


def refuse_large(search: SearchConfig) -> None:
    """Raise a `UserError` if the grid has more points than `search.limit_points`, which the command's --yes allows."""
    size = read(search).size * max(1, len(search.widths)) * len(search.parametrisations)
    if search.sampler == "grid" and size > search.limit_points:
        raise UserError(
            f"got a grid of {size:,} points, {size * search.seeds:,} trials; allowed: up to search.limit_points={search.limit_points} "
            "without --yes; add --yes, shorten the ranges, or set search.sampler = 'random' and search.points"
        )


def _annotation(setting: str) -> Any:
    """Return the type of a setting; None if there is no such setting."""
    section, _, field = setting.partition(".")
    return typing.get_type_hints(SECTIONS[section]).get(field) if section in SECTIONS else None


def _searchable() -> list[str]:
    names = [f"{section}.{field.name}" for section in SEARCHED for field in dataclasses.fields(SECTIONS[section])]
    return [name for name in names if _annotation(name) in (int, float) and name != "mup.base_width"]


def _refuse_setting(setting: str) -> None:
    """Raise a `UserError` unless the setting exists and may differ between trials."""
    searchable, section = _searchable(), setting.split(".")[0]
    if setting in searchable:
        return
    allowed = f"numeric settings of {' and '.join(f'{name}.*' for name in SEARCHED)} except mup.base_width"
    change = f"remove {setting} from search.space"
    if _annotation(setting) is None:
        near = difflib.get_close_matches(setting, searchable, n=1)
        got, change = f"the unknown setting {setting!r} in search.space", f"change it to {near[0]!r}" if near else "change the name"
    elif setting in MIXTURE:
        got = f"{setting} in search.space, but gradient norms and losses of different mixtures are not comparable"
        allowed = "one mixture, fixed over a search"
    elif setting in SEEDS:
        got, change = f"{setting} in search.space, which search.seeds varies", f"set search.seeds, and remove {setting} from search.space"
    elif section in SHAPES or setting == "mup.base_width":
        got = f"{setting} in search.space, which changes shapes or the width that the values hold at"
    else:
        got = f"{setting} in search.space, which does not vary between trials of one search"
    raise UserError(f"got {got}; allowed: {allowed}; {change}")


def _axis(setting: str, given: Range) -> SearchedAxis:
    whole = _annotation(setting) is int
    if isinstance(given, tuple | list):
        values = tuple(_number(setting, value) for value in given)
        if not values or len(set(values)) < len(values):
            raise _wrong(setting, given, "different values, at least one")
        return SearchedAxis(setting=setting, scale=LIST, values=values, whole=whole)
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in (LOG, LINEAR):
        raise _wrong(setting, given, "a list, {'log': (low, high, n)}, {'linear': (low, high, n)} or {'times': (setting, factor)}")
    ((scale, limits),) = given.items()
    if len(limits) != 3 or not (isinstance(limits[2], int) and limits[2] >= 2):
        raise _wrong(setting, given, "(low, high, n) with n from 2")
    low, high = _number(setting, limits[0]), _number(setting, limits[1])
    if scale == LOG and low <= 0:
        raise _wrong(setting, given, "a log range above 0, or a linear one")
    if low >= high:
        raise _wrong(setting, given, "low below high")
    return SearchedAxis(setting=setting, scale=scale, values=_spaced(setting, given, scale, low, high, limits[2], whole), whole=whole)


def _spaced(setting: str, given: Range, scale: str, low: float, high: float, n: int, whole: bool) -> tuple[float, ...]:
    """Return n evenly spaced values with both ends exactly as given."""
    shares = [i / (n - 1) for i in range(1, n - 1)]
    between = [low * (high / low) ** share if scale == LOG else low + (high - low) * share for share in shares]
    values = (low, *((round(value) if whole else _tidy(value)) for value in between), high)
    if len(set(values)) < n:
        raise _wrong(setting, given, f"a range that holds {n} different numbers")
    return values


def _tie(setting: str, given: Range, space: Mapping[str, Range], tied: Mapping[str, object]) -> tuple[str, float]:
    """Return the other setting of a tie and the factor."""
    assert isinstance(given, dict)  # of a tie
    pair: Any = ("", 0.0)
    with contextlib.suppress(MismatchError):
        pair = convert(given[TIMES], tuple[str, float], setting)
    other, factor = pair
    if len(given) > 1 or factor == 0 or not math.isfinite(factor):
        raise _wrong(setting, given, "{'times': (setting, factor)} with a factor other than 0")
    if other not in space or other in tied:
        free = [name for name in space if name not in tied]
        raise _wrong(setting, given, f"a setting of search.space that is not tied itself ({', '.join(free) or 'none is there'})")
    return other, factor


def _number(setting: str, value: object) -> float:
    """Return a value in its setting's type."""
    try:
        number = convert(value, _annotation(setting), f"search.space[{setting!r}]")
    except MismatchError as error:
        raise UserError(f"got {error.name} with {value!r}; allowed: {error.wanted}; change search.space") from None
    assert isinstance(number, int | float)
    if not math.isfinite(number):
        raise _wrong(setting, value, "finite numbers")
    return number


def _tidy(value: float) -> float:
    """Return a number with twelve digits, without the rounding errors of its computation."""
    return float(f"{value:.12g}")


def _wrong(setting: str, given: object, allowed: str) -> UserError:
    return UserError(f"got search.space[{setting!r}]={given!r}; allowed: {allowed}; change search.space")
