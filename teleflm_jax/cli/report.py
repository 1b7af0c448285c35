"""`report`: progress, time by category and curves of one or several runs, on the terminal and as one page."""

import argparse
import contextlib
import dataclasses
import datetime
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from teleflm_jax import config
from teleflm_jax.cli import options, report_page
from teleflm_jax.cli.tables import make_console, show
from teleflm_jax.errors import UserError
from teleflm_jax.foreign import printable
from teleflm_jax.observability import curves, ledger
from teleflm_jax.observability.page import Table
from teleflm_jax.observability.progress import duration
from teleflm_jax.observability.run_log import EVALS, EVENTS, METRICS, rows
from teleflm_jax.optim import schedule
from teleflm_jax.runs.config import SAVED_CONFIG, SECTIONS, refuse_no_run

HELP = "show where a run's time went, its goodput, MFU and curves, as tables and as one HTML page; several runs side by side"

PAGE, SUFFIX = "report.html", ".html"
COUNTED = ("save", "eval", "saved")
"""Events that every run has many of: one line for all of a kind."""
LISTED = 100
"""Most events of another kind that are listed one by one; a kind with more gets one line."""
ENDS = {"done": "done", "stop": "stopped by a signal", "diverged": "diverged"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunReport:
    """Data of a run that the report shows."""

    name: str
    """Folder, as the user gave it."""
    ledger: ledger.Ledger
    evals: Sequence[Mapping[str, Any]]
    planned_steps: int
    planned_tokens: int
    schedule: str
    """Sentence that says at which step the decay of the learning rate ends."""


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = f"example: {parser.prog} runs/quickstart"
    parser.add_argument("runs", nargs="+", type=options.path, metavar="RUN", help="a run's folder; it may be in training")
    parser.add_argument("--out", type=options.path, metavar="FILE.html", help=f"the page; default: {PAGE} in the first run's folder")


def main(args: argparse.Namespace):
    """Print the tables and write the page."""
    page = pathlib.Path(args.runs[0]) / PAGE if args.out is None else pathlib.Path(args.out)
    if page.suffix != SUFFIX:
        raise UserError(f"got --out {args.out!r}; allowed: a file whose name ends in {SUFFIX}; change --out")
    if args.out is not None and not page.parent.is_dir():
        raise UserError(f"got --out {args.out!r}, in a folder that does not exist; allowed: an existing one; create it, or change --out")
    runs = [read(name) for name in args.runs]
    tables = describe(runs, time.time())
    console = make_console()
    for table in tables:
        show(console, table)
    try:
        report_page.write(page, printable(f"Report of {', '.join(args.runs)}"), tables, figures(runs))
    except OSError as error:
        raise UserError(
            f"got {page.parent}, where the page {page.name} cannot be written ({error.strerror}); allowed: a folder that this user may "
            "write, with room left; add or change --out FILE.html"
        ) from error
    console.print(f"Drawn in {printable(str(page))}", markup=False)


def read(name: str) -> RunReport:
    """Read a run's folder.

    Raises:
        UserError: the folder is not a run's, the run has written nothing yet, or a file is damaged.
    """
    folder = pathlib.Path(name)
    refuse_no_run(folder)
    saved = str(folder / SAVED_CONFIG)
    found = config.parse([saved], [], SECTIONS, ("data", "model", "train"), saved=saved)
    if not ("model" in found and "train" in found):
        raise UserError(f"got {folder / SAVED_CONFIG} without model.* and train.*; allowed: a run's folder; change the folder")
    if not any((folder / file).exists() for file in (METRICS, EVENTS)):
        raise UserError(f"got {folder} without {METRICS} and {EVENTS}; allowed: a run that has begun; wait for it, or change the folder")
    train = found["train"]
    tokens_per_step = train.batch_size * found["model"].context_length
    return RunReport(
        name=name,
        ledger=ledger.read(folder),
        evals=list(rows(folder / EVALS)),
        planned_steps=train.steps,
        planned_tokens=train.steps * tokens_per_step,
        schedule=schedule.end(found["optimizer"], tokens_per_step, train.steps),
    )


def figures(runs: Sequence[RunReport]) -> list:
    """Return captions and figures."""
    drawn = [curves.RunCurves(label=run.name if len(runs) > 1 else "", metrics=run.ledger.metrics, evals=run.evals) for run in runs]
    return [
        ("Time line", report_page.timeline([(run.name, run.ledger.sessions) for run in runs])),
        ("Loss, gradient norm and learning rate", curves.losses(drawn)),
        *curves.evaluations(drawn),
        ("Speed", curves.speeds(drawn)),
    ]


def describe(runs: Sequence[RunReport], now: float) -> list[Table]:
    """Return the report's tables; `now` is the wall clock."""
    names = tuple(printable(run.name) for run in runs)
    return [
        _summary(runs, names, now),
        *_epochs(runs, names),
        _seconds(runs, names),
        *(_events(run, name) for run, name in zip(runs, names, strict=True)),
    ]


def _summary(runs: Sequence[RunReport], names: Sequence[str], now: float) -> Table:
    facts = [_facts(run, now) for run in runs]
    remarks = [f"{name}: {remark}" for run, name in zip(runs, names, strict=True) for remark in (f"{run.schedule}.", *run.ledger.remarks)]
    note = "Goodput is the share of the wall time, from the first start on, that went into steps that are kept."
    return Table(
        "Run" if len(runs) == 1 else "Runs",
        ("", *names),
        [(key, *(fact[key] for fact in facts)) for key in facts[0]],
        " ".join([note, *remarks]),
    )


def _facts(run: RunReport, now: float) -> dict[str, str]:
    book = run.ledger
    left = max(0, run.planned_steps - book.step) * run.planned_tokens // run.planned_steps  # those of skipped updates were drawn as well
    start = next((event for event in reversed(book.events) if event["event"] in ledger.BEGINNINGS), {})
    return {
        "state": _state(book, now),
        "steps": f"{book.step:,} of {run.planned_steps:,}",
        "tokens drawn": f"{book.tokens:,} of {run.planned_tokens:,} ({book.tokens / run.planned_tokens:.1%})",
        "of these in the loss": _counted(book),
        "devices": _devices(start),
        "sessions": f"{len(book.sessions):,}",
        "wall time": duration(book.total),
        "goodput": f"{book.goodput:.1%}",
        "MFU of the steps that are kept": f"{book.mfu:.1%}",
        "MFU x goodput": f"{book.mfu_of_wall_time:.1%}",
        "tokens per second, last 100 steps": f"{book.recent_speed:,.0f}",
        "to the end, at this speed": _left(left, book.recent_speed),
        "to the end, at this speed x goodput": _left(left, book.recent_speed * book.goodput),
    }


def _counted(book: ledger.Ledger) -> str:
    """Targets that count, of the steps that are kept and whose log says it."""
    targets, positions = book.metrics["targets"], book.metrics["positions"]
    known = np.isfinite(targets) & np.isfinite(positions)
    counted, drawn = float(targets[known].sum()), float(positions[known].sum())
    return f"{counted:,.0f} ({counted / drawn:.1%}; the rest is padding and borders of documents)" if drawn > 0 else "unknown"


def _epochs(runs: Sequence[RunReport], names: Sequence[str]) -> list[Table]:
    """Make the table of passes through each domain, from the last event that has them; no table where none has."""
    last = [next((e["epochs"] for e in reversed(run.ledger.events) if isinstance(e.get("epochs"), dict)), {}) for run in runs]
    domains = sorted({domain for epochs in last for domain in epochs})
    rows = [(printable(domain), *(f"{ledger.number(epochs.get(domain)):.2f}" for epochs in last)) for domain in domains]
    note = "How often the run has drawn each domain's records, at its last save or start."
    return [Table("Epochs by domain", ("domain", *names), rows, note)] if domains else []


def _state(book: ledger.Ledger, now: float) -> str:
    if book.end:
        return ENDS[book.end]
    since = max(0.0, now - book.last_moment)
    return "still running, or was killed" + (f"; last sign {duration(since)} ago" if book.last_moment else "")


def _devices(start: Mapping[str, Any]) -> str:
    count, peak = ledger.number(start.get("devices")), ledger.number(start.get("peak_flops"))
    return f"{count:.0f} x {peak / 1e12:.3g} TFLOP/s ({printable(str(start.get('peak_source')))})" if count > 0 and peak > 0 else "unknown"


def _left(tokens: int, speed: float) -> str:
    return "nothing" if not tokens else duration(tokens / speed) if speed > 0 else "unknown"


def _seconds(runs: Sequence[RunReport], names: Sequence[str]) -> Table:
    books = [(run.ledger.seconds, run.ledger.total) for run in runs]
    table = [
        (f"{category}: {what}" if what else category, *(cell for seconds, total in books for cell in _cells(seconds[category], total)))
        for category, what in ledger.CATEGORIES.items()
    ]
    table.append(("total", *(cell for _, total in books for cell in _cells(total, total))))
    heads = [head for name in names for head in ((name, "share") if len(runs) > 1 else ("seconds", "share"))]
    return Table("Where the seconds went", ("", *heads), table)


def _cells(seconds: float, total: float) -> tuple[str, str]:
    return f"{seconds:,.1f}", f"{seconds / total:.1%}" if total else "-"


def _events(run: RunReport, name: str) -> Table:
    kinds: dict[str, list] = {}
    for event in run.ledger.events:
        kinds.setdefault(event["event"], []).append(event)
    counted = {kind for kind, all_of in kinds.items() if kind in COUNTED or len(all_of) > LISTED}
    listed = [_event(event) for event in run.ledger.events if event["event"] not in counted]
    listed += [_count(kind, all_of) for kind, all_of in kinds.items() if kind in counted]
    return Table(f"Events of {name}", ("time", "step", "event", "what"), listed, text=True)


def _event(event: ledger.Event) -> tuple[str, ...]:
    fields = {key: value for key, value in event.items() if key not in ("event", "time", "elapsed", "step", "epochs") and value is not None}
    what = "  ".join(f"{key}={f'{value:.6g}' if isinstance(value, float) else value}" for key, value in fields.items())
    return _clock(event), str(event.get("step", "")), printable(event["event"]), printable(what)


def _count(kind: str, events: Sequence[ledger.Event]) -> tuple[str, ...]:
    seconds = [max(0.0, value) for value in (ledger.number(event.get("seconds")) for event in events) if value == value]
    what = f"{len(events):,} times" + (f", {sum(seconds):,.1f} s in all, the longest {max(seconds):,.1f} s" if seconds else "")
    return "", "", printable(kind), what


def _clock(event: ledger.Event) -> str:
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return f"{datetime.datetime.fromtimestamp(ledger.number(event.get('time')), datetime.UTC):%Y-%m-%d %H:%M:%S}Z"
    return ""
