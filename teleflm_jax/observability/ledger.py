"""The goodput ledger: what every second of a run's wall time went to, from its logs.

A run is a chain of sessions, each one process's life from `start` or `resume` on. Inside a session all seconds come from the process's
own monotonic clock. Only the time between two sessions is a difference of wall clocks, which may have been moved; where that difference
cannot be, it counts as nothing and the ledger says so.
"""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from teleflm_jax.observability import history
from teleflm_jax.observability.history import Columns, number
from teleflm_jax.observability.run_log import EVENTS, rows

CATEGORIES = {
    "start-up": "imports, joining the other processes, restoring",
    "compile": "",
    "data wait": "of the steps that are kept",
    "steps": "that are kept, without their data wait",
    "checkpoint": "the part of saving that training waits for",
    "validation": "",
    "lost": "steps done again, updates skipped, rewinds, evaluations that a signal ended",
    "down": "between sessions",
    "other": "what no log accounts for: last steps before a kill, hangs, drawing, leaving",
}
"""Category -> what it holds; every second of a run is in exactly one."""
PRODUCTIVE = ("data wait", "steps")
"""What goodput counts. The data wait is among it because a step's MFU pays for it already."""

BEGINNINGS, ENDS = ("start", "resume"), ("done", "stop", "diverged")
RECENT_STEPS = 100
LONGEST_PAUSE = 365 * 86_400.0
"""Seconds between sessions; more is a clock that was wrong, not a pause."""
MOVED = 60.0
"""Seconds by which the wall clock and the monotonic one may part in a session without a word."""

_BOOKED = {"compile": "compile", "save": "checkpoint", "saved": "checkpoint", "eval": "validation"}
_BOOKED |= dict.fromkeys(("skip", "rewound", "interrupted"), "lost")
"""Event -> category of its `seconds`."""

Event = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionSeconds:
    """One process's life and the pause after it."""

    step: int
    """It went on from."""
    seconds: Mapping[str, float]
    """By category, in the order of `CATEGORIES`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
    """A run's wall time, from its first start to the last moment that its logs know of; from `read` or `account`."""

    sessions: Sequence[SessionSeconds]
    events: Sequence[Event]
    metrics: Columns
    last_moment: float
    """By the wall clock, in seconds since 1970."""
    remarks: Sequence[str]
    """What its numbers have to be taken with."""

    @property
    def seconds(self) -> dict[str, float]:
        """By category."""
        return {name: sum(session.seconds[name] for session in self.sessions) for name in CATEGORIES}

    @property
    def total(self) -> float:
        """Seconds of wall time."""
        return sum(self.seconds.values())

    @property
    def goodput(self) -> float:
        """Share of the wall time that went into steps that are kept."""
        return _ratio(sum(self.seconds[name] for name in PRODUCTIVE), self.total)

    @property
    def mfu(self) -> float:
        """Of the steps that are kept."""
        took, used = self._useful()
        return _ratio(used, took)

    @property
    def mfu_of_wall_time(self) -> float:
        """MFU times goodput: the devices' best that went into what the run has now."""
        return _ratio(self._useful()[1], self.total)

    @property
    def step(self) -> int:
        """The last one that is kept."""
        return int(self._last("step"))

    @property
    def tokens(self) -> int:
        """That the run has drawn, those of skipped updates included, those of steps done again counted once."""
        return int(self._last("tokens"))

    @property
    def recent_speed(self) -> float:
        """Tokens per second of the last hundred steps."""
        took, speed = (self.metrics[name][-RECENT_STEPS:] for name in ("step_seconds", "tokens_per_second"))
        known = np.isfinite(took) & np.isfinite(speed) & (took > 0)
        return _ratio(float((took * speed)[known].sum()), float(took[known].sum()))

    @property
    def end(self) -> str | None:
        """How it ended: `done`, `stop`, `diverged`; None while it is going on, or where it was killed."""
        last = next((event["event"] for event in reversed(self.events) if event["event"] in (*BEGINNINGS, *ENDS)), None)
        return last if last in ENDS else None

    def _useful(self) -> tuple[float, float]:
        """Seconds of the steps whose MFU is known, and the seconds that they would have taken at the devices' best."""
        took, mfu = self.metrics["step_seconds"], self.metrics["mfu"]
        known = np.isfinite(took) & np.isfinite(mfu) & (took > 0)
        return float(took[known].sum()), float((took * mfu)[known].sum())

    def _last(self, column: str) -> float:
        known = self.metrics[column][np.isfinite(self.metrics[column])]
        return known[-1] if len(known) else 0.0


def read(folder: pathlib.Path) -> Ledger:
    """The ledger of a run's folder, which a training may be writing to.

    Raises:
        UserError: a log has a line that no run wrote.
    """
    events = [event | {"event": str(event.get("event"))} for event in rows(folder / EVENTS)]  # first: rows may come meanwhile
    return account(events, history.read(folder))


def account(events: Sequence[Event], kept: Columns) -> Ledger:
    """Book every second.

    Args:
        events: of events.jsonl, in its order; those of older runs lack `elapsed` and some figures.
        kept: the rows of metrics.jsonl; a step that was done again is there once.
    """
    parts = _split(events)
    owners = _owners(kept["step"], [_earliest(part) for part in parts])
    booked = [_book(part) for part in parts]
    steps, last = _of_rows(kept, owners, len(parts))
    for book, (waited, worked) in zip(booked, steps, strict=True):
        book["data wait"], book["steps"] = waited, worked
    known = [max(last[i], _known(part), _heard(part, parts[i + 1]) if i + 1 < len(parts) else 0.0) for i, part in enumerate(parts)]
    for book, length in zip(booked, known, strict=True):
        book["other"] = max(0.0, length - sum(book.values()))
    for i, part in enumerate(parts):
        _charge(booked[:i], sum(_number(event, "lost_seconds") for event in part if event["event"] in BEGINNINGS))
        _charge(booked[: i + 1], sum(_number(event, "lost_seconds") for event in part if event["event"] == "rewound"))
    remarks = [remark for i, part in enumerate(parts, start=1) for remark in _moved(part, i)]
    for i in range(1, len(parts)):
        pause = _begin(parts[i]) - _end(parts[i - 1], booked[i - 1])
        booked[i - 1]["down"] = pause if 0 <= pause <= LONGEST_PAUSE else 0.0
        if not -1.0 <= pause <= LONGEST_PAUSE:
            remarks.append(f"By the wall clock, session {i + 1} began {pause:,.0f} s after session {i} ended; counted as 0 s of down.")
    return Ledger(
        sessions=[
            SessionSeconds(step=int(_number(part[0], "step")) if part else 0, seconds={name: book.get(name, 0.0) for name in CATEGORIES})
            for part, book in zip(parts, booked, strict=True)
        ],
        events=events,
        metrics=kept,
        last_moment=_end(parts[-1], booked[-1]),
        remarks=remarks,
    )


def _split(events: Iterable[Event]) -> list[list[Event]]:
    """Events by session; one without events where there are none."""
    parts: list[list[Event]] = []
    for event in events:
        if event["event"] in BEGINNINGS or not parts:
            parts.append([])
        parts[-1].append(event)
    return parts or [[]]


def _owners(steps: np.ndarray, starts: Sequence[float]) -> np.ndarray:
    """The session that did each step: the last that began before it."""
    reached = np.minimum.accumulate(np.array(starts)[::-1])[::-1]
    return np.maximum(0, np.searchsorted(reached, steps, side="left") - 1)


def _of_rows(kept: Columns, owners: np.ndarray, sessions: int) -> tuple[np.ndarray, np.ndarray]:
    """Seconds of data wait and of the rest of the steps, and the last `elapsed`, of each session."""
    took, waited, elapsed = (np.maximum(0.0, np.nan_to_num(kept[name])) for name in ("step_seconds", "data_wait_seconds", "elapsed"))
    waited = np.minimum(waited, took)
    sums = [np.bincount(owners, weights=values, minlength=sessions) for values in (waited, took - waited)]
    last = np.zeros(sessions)
    np.maximum.at(last, owners, elapsed)
    return np.stack(sums, axis=1), last


def _book(part: Sequence[Event]) -> dict[str, float]:
    """Seconds of a session's events by category."""
    book = dict.fromkeys(("start-up", *_BOOKED.values()), 0.0)
    for event in part:
        if event["event"] in BEGINNINGS:
            book["start-up"] += _number(event, "seconds")
        elif event["event"] in _BOOKED:
            book[_BOOKED[event["event"]]] += _number(event, "seconds")
    return book


def _charge(sessions: Sequence[dict[str, float]], lost: float) -> None:
    """Book steps that were thrown away to the sessions that did them: the latest that have so much time unaccounted for."""
    for book in reversed(sessions):
        taken = min(lost, book["other"])
        book["lost"] += taken
        book["other"] -= taken
        lost -= taken
    if sessions:
        sessions[-1]["lost"] += lost


def _earliest(part: Sequence[Event]) -> float:
    """The step that a session went back to at most, when it began or by a rewind."""
    return min((_number(event, "step") for event in part if event["event"] in (*BEGINNINGS, "rewound")), default=0.0)


def _known(part: Sequence[Event]) -> float:
    """Seconds from a session's begin to its last event."""
    return max((_elapsed(event, part[0]) for event in part), default=0.0)


def _heard(part: Sequence[Event], following: Sequence[Event]) -> float:
    """Seconds that a session had lasted when it did the last of the steps that the following one threw away, if it did that step."""
    dropped = number(following[0].get("lost_steps"))
    is_its_own = math.isnan(dropped) or _number(following[0], "step") + dropped > _earliest(part)
    return _number(following[0], "previous_elapsed") if is_its_own else 0.0


def _elapsed(event: Event, first: Event) -> float:
    """Seconds from the session's begin to an event; by the wall clock where the event is an older run's."""
    elapsed = number(event.get("elapsed"))
    if math.isfinite(elapsed):
        return max(0.0, elapsed)
    began = _number(first, "seconds") if first["event"] in BEGINNINGS else 0.0
    since = _number(event, "time") - _number(first, "time")
    return began + (since if 0 <= since <= LONGEST_PAUSE else 0.0)


def _begin(part: Sequence[Event]) -> float:
    """When a session began, by the clock at its first event."""
    return _number(part[0], "time") - _elapsed(part[0], part[0])


def _end(part: Sequence[Event], book: Mapping[str, float]) -> float:
    """When a session ended, by the clock at its last event: a clock that was moved before it does no harm."""
    return _number(part[-1], "time") - _elapsed(part[-1], part[0]) + sum(book.values()) if part else 0.0


def _moved(part: Sequence[Event], session: int) -> list[str]:
    """A remark if the wall clock and the monotonic one parted."""
    clocks = [_number(event, "time") - event["elapsed"] for event in part if math.isfinite(number(event.get("elapsed")))]
    apart = max(clocks, default=0.0) - min(clocks, default=0.0)
    if apart <= MOVED:
        return []
    return [f"The wall clock was moved by {apart:,.0f} s during session {session}; its seconds do not depend on it."]


def _number(event: Event, name: str) -> float:
    """A figure of an event: 0 where it has none or one that cannot be."""
    value = number(event.get(name))
    return value if value > 0 else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
