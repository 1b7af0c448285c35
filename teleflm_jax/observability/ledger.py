"""Goodput ledger: how every second of a run's wall time was spent, from its logs.

A run is a sequence of sessions, each one process from `start` or `resume` on. Within a session all seconds come from the process's own
monotonic clock. Only the time between two sessions is a difference of wall clocks, which may have been changed; an impossible difference
counts as zero, and the ledger remarks on it.
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
    "other": "what no log accounts for: last steps before a kill, hangs, drawing, exiting",
}
"""Category -> description; every second of a run is in exactly one."""
PRODUCTIVE = ("data wait", "steps")
"""Categories that goodput counts. Data wait is included because a step's MFU contains it already."""

BEGINNINGS, ENDS = ("start", "resume"), ("done", "stop", "diverged")
RECENT_STEPS = 100
LONGEST_PAUSE = 365 * 86_400.0
"""Longest pause between sessions in seconds; a longer one means that a clock was wrong."""
MOVED = 60.0
"""Seconds by which wall clock and monotonic clock may differ in a session without a remark."""

_BOOKED = {"compile": "compile", "save": "checkpoint", "saved": "checkpoint", "eval": "validation"}
_BOOKED |= dict.fromkeys(("skip", "rewound", "interrupted"), "lost")
"""Event -> category of its `seconds`."""

Event = Mapping[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SessionSeconds:
    """Time of one process and of the pause after it."""

    step: int
    """Step that it started from."""
    seconds: Mapping[str, float]
    """Seconds by category, in the order of `CATEGORIES`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ledger:
    """Wall time of a run from its first start to the last moment in its logs; from `read` or `account`."""

    sessions: Sequence[SessionSeconds]
    events: Sequence[Event]
    metrics: Columns
    last_moment: float
    """Wall clock in seconds since 1970."""
    remarks: Sequence[str]
    """Reservations about the numbers."""

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by category."""
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
        """MFU of the steps that are kept."""
        took, used = self._useful()
        return _ratio(used, took)

    @property
    def mfu_of_wall_time(self) -> float:
        """MFU times goodput: share of the devices' peak that went into the steps that are kept."""
        return _ratio(self._useful()[1], self.total)

    @property
    def step(self) -> int:
        """Last step that is kept."""
        return int(self._last("step"))

    @property
    def tokens(self) -> int:
        """Tokens that the run has drawn, including those of skipped updates; tokens of repeated steps count once."""
        return int(self._last("tokens"))

    @property
    def recent_speed(self) -> float:
        """Tokens per second of the last hundred steps."""
        took, speed = (self.metrics[name][-RECENT_STEPS:] for name in ("step_seconds", "tokens_per_second"))
        known = np.isfinite(took) & np.isfinite(speed) & (took > 0)
        return _ratio(float((took * speed)[known].sum()), float(took[known].sum()))

    @property
    def end(self) -> str | None:
        """Event with which the run ended: `done`, `stop`, `diverged`; None while it runs, or if it was killed."""
        last = next((event["event"] for event in reversed(self.events) if event["event"] in (*BEGINNINGS, *ENDS)), None)
        return last if last in ENDS else None

    def _useful(self) -> tuple[float, float]:
        """Return the seconds of the steps whose MFU is known, and the seconds they would have taken at the devices' peak."""
        took, mfu = self.metrics["step_seconds"], self.metrics["mfu"]
        known = np.isfinite(took) & np.isfinite(mfu) & (took > 0)
        return float(took[known].sum()), float((took * mfu)[known].sum())

    def _last(self, column: str) -> float:
        known = self.metrics[column][np.isfinite(self.metrics[column])]
        return known[-1] if len(known) else 0.0


def read(folder: pathlib.Path) -> Ledger:
    """Return the ledger of a run's folder, which may be in training.

    Raises:
        UserError: a log has a line that no run wrote.
    """
    events = [event | {"event": str(event.get("event"))} for event in rows(folder / EVENTS)]  # first: rows may come meanwhile
    return account(events, history.read(folder))


def account(events: Sequence[Event], kept: Columns) -> Ledger:
    """Assign every second to a category.

    Args:
        events: rows of events.jsonl in order; those of older runs lack `elapsed` and some figures.
        kept: rows of metrics.jsonl; a repeated step occurs once.
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
    """Return the events by session; one session without events if there are none."""
    parts: list[list[Event]] = []
    for event in events:
        if event["event"] in BEGINNINGS or not parts:
            parts.append([])
        parts[-1].append(event)
    return parts or [[]]


def _owners(steps: np.ndarray, starts: Sequence[float]) -> np.ndarray:
    """Return the session of each step: the last one that started before it."""
    reached = np.minimum.accumulate(np.array(starts)[::-1])[::-1]
    return np.maximum(0, np.searchsorted(reached, steps, side="left") - 1)


def _of_rows(kept: Columns, owners: np.ndarray, sessions: int) -> tuple[np.ndarray, np.ndarray]:
    """Return for each session the seconds of data wait and of the rest of the steps, and the last `elapsed`."""
    took, waited, elapsed = (np.maximum(0.0, np.nan_to_num(kept[name])) for name in ("step_seconds", "data_wait_seconds", "elapsed"))
    waited = np.minimum(waited, took)
    sums = [np.bincount(owners, weights=values, minlength=sessions) for values in (waited, took - waited)]
    last = np.zeros(sessions)
    np.maximum.at(last, owners, elapsed)
    return np.stack(sums, axis=1), last


def _book(part: Sequence[Event]) -> dict[str, float]:
    """Return the seconds of a session's events by category."""
    book = dict.fromkeys(("start-up", *_BOOKED.values()), 0.0)
    for event in part:
        if event["event"] in BEGINNINGS:
            book["start-up"] += _number(event, "seconds")
        elif event["event"] in _BOOKED:
            book[_BOOKED[event["event"]]] += _number(event, "seconds")
    return book


def _charge(sessions: Sequence[dict[str, float]], lost: float) -> None:
    """Move the seconds of discarded steps to `lost`, in the latest sessions that have so much time without a category."""
    for book in reversed(sessions):
        taken = min(lost, book["other"])
        book["lost"] += taken
        book["other"] -= taken
        lost -= taken
    if sessions:
        sessions[-1]["lost"] += lost


def _earliest(part: Sequence[Event]) -> float:
    """Return the earliest step that a session started from or returned to."""
    return min((_number(event, "step") for event in part if event["event"] in (*BEGINNINGS, "rewound")), default=0.0)


def _known(part: Sequence[Event]) -> float:
    """Return the seconds from the start of a session to its last event."""
    return max((_elapsed(event, part[0]) for event in part), default=0.0)


def _heard(part: Sequence[Event], following: Sequence[Event]) -> float:
    """Return the age of a session in seconds at the last step that the following session discarded, if the step was its own."""
    dropped = number(following[0].get("lost_steps"))
    is_its_own = math.isnan(dropped) or _number(following[0], "step") + dropped > _earliest(part)
    return _number(following[0], "previous_elapsed") if is_its_own else 0.0


def _elapsed(event: Event, first: Event) -> float:
    """Return the seconds from the start of the session to an event; by the wall clock for events of older runs."""
    elapsed = number(event.get("elapsed"))
    if math.isfinite(elapsed):
        return max(0.0, elapsed)
    began = _number(first, "seconds") if first["event"] in BEGINNINGS else 0.0
    since = _number(event, "time") - _number(first, "time")
    return began + (since if 0 <= since <= LONGEST_PAUSE else 0.0)


def _begin(part: Sequence[Event]) -> float:
    """Return the start of a session by the wall clock at its first event."""
    return _number(part[0], "time") - _elapsed(part[0], part[0])


def _end(part: Sequence[Event], book: Mapping[str, float]) -> float:
    """Return the end of a session by the wall clock at its last event, so that an earlier change of the clock has no effect."""
    return _number(part[-1], "time") - _elapsed(part[-1], part[0]) + sum(book.values()) if part else 0.0


def _moved(part: Sequence[Event], session: int) -> list[str]:
    """Return a remark if wall clock and monotonic clock differ."""
    clocks = [_number(event, "time") - event["elapsed"] for event in part if math.isfinite(number(event.get("elapsed")))]
    apart = max(clocks, default=0.0) - min(clocks, default=0.0)
    if apart <= MOVED:
        return []
    return [f"The wall clock was moved by {apart:,.0f} s during session {session}; its seconds do not depend on it."]


def _number(event: Event, name: str) -> float:
    """Return a figure of an event; 0 if it is missing or impossible."""
    value = number(event.get(name))
    return value if value > 0 else 0.0


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
