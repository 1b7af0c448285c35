"""Optima at an edge of the searched space: such a search has not bracketed its optimum, and the next space is proposed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchedRange:
    """Range of one setting, as it was searched."""

    setting: str
    values: tuple[float, ...]
    """Values tried, ascending; of a continuous range, as many evenly spaced ones as its resolution."""
    log: bool
    """True if the values are spaced in log."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Edge:
    """An optimum that is not bracketed."""

    setting: str
    value: float
    """Value of the best point."""
    end: str
    """low or high: the end of the range at which it lies."""
    proposal: str
    """Range to search next, as `search.space` takes it; empty if there is nothing to search there."""
    reason: str = ""
    """Reason why there is no proposal."""


def edges(ranges: Sequence[SearchedRange], best: Mapping[str, float], tied: Sequence[Mapping[str, float]] = ()) -> list[Edge]:
    """Return the settings whose best value lies at an end of its range: within half a step of it.

    A setting with a single value was not searched. The proposed range is moved by half of its length past the end, with as many values.

    Args:
        ranges: settings that vary.
        best: values of the chosen point.
        tied: values of the points that tie with it; where one of them lies inside, no range is proposed.
    """
    found = []
    for searched in ranges:
        end = _end(searched, best[searched.setting])
        if end and any(_end(searched, point[searched.setting]) != end for point in tied):
            reason = "a point that ties with the best lies inside"
            found.append(Edge(setting=searched.setting, value=best[searched.setting], end=end, proposal="", reason=reason))
        elif end:
            found.append(_edge(searched, best[searched.setting], end))
    return found


def is_log(values: Sequence[float]) -> bool:
    """Return True if explicit values are better seen in log: all are positive, and the largest is at least four times the smallest."""
    return min(values) > 0 and max(values) >= 4 * min(values)


def _end(searched: SearchedRange, value: float) -> str:
    """Return the end of the range that a value lies at; empty if it lies inside."""
    if len(searched.values) < 2:
        return ""
    places, at = np.array(searched.values), value
    if searched.log:
        places, at = np.log(places), math.log(at)
    if at - places[0] < (places[1] - places[0]) / 2:
        return "low"
    return "high" if places[-1] - at < (places[-1] - places[-2]) / 2 else ""


def _edge(searched: SearchedRange, value: float, end: str) -> Edge:
    low, high, count = searched.values[0], searched.values[-1], len(searched.values)
    setting, sign = searched.setting, 1 if end == "high" else -1
    if searched.log:
        factor = math.sqrt(high / low) ** sign
        proposal = f"{{'log': ({low * factor:.4g}, {high * factor:.4g}, {count})}}"
    elif end == "low" and low == 0:
        return Edge(setting=setting, value=value, end=end, proposal="", reason="0 is the least value that there is")
    else:
        shift = sign * (high - low) / 2
        moved = low + shift
        if low > 0 >= moved:  # a positive setting stays positive
            moved, shift = low / 2, -low / 2
        proposal = f"{{'linear': ({moved:.4g}, {high + shift:.4g}, {count})}}"
    return Edge(setting=setting, value=value, end=end, proposal=proposal)
