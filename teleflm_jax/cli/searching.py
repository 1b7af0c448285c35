"""The sub-commands of `search`, which import jax."""

import argparse
import pathlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from teleflm_jax import atomic_write, config
from teleflm_jax.cli import options
from teleflm_jax.cli.tables import make_console, show
from teleflm_jax.config.files import CONFIGS
from teleflm_jax.errors import UserError
from teleflm_jax.foreign import printable
from teleflm_jax.model import size
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.observability.page import Table
from teleflm_jax.observability.progress import LINE_EVERY_SECONDS, duration
from teleflm_jax.runs.config import SECTIONS, RunConfig
from teleflm_jax.search import coordinates as coordinate_check
from teleflm_jax.search import page, prediction, results, space, study, widths, worker
from teleflm_jax.search import transfer as transfers
from teleflm_jax.search.config import SECTIONS as SEARCHING
from teleflm_jax.search.config import SearchConfig
from teleflm_jax.search.edges import edges
from teleflm_jax.search.importance import LEAST_POINTS, importance
from teleflm_jax.search.ranking import rank
from teleflm_jax.train import signals

STOPPED = 75
"""Exit code: stopped by a signal after saving."""
SUFFIX = ".html"


def run(args: argparse.Namespace) -> int:
    """Train trials until none is left; return the exit code."""
    return _work(args, *_load(args))


def report(args: argparse.Namespace) -> None:
    """Rank the points of a study; print the tables, write the page and `chosen.gin`."""
    page_file, found = _page_file(args, "report.html"), study.load(args.study)
    trials, ranges, losses = results.curves(found), results.ranges(found), results.point_losses(found)
    ranking = rank(trials, found.search.rank_by)
    best = ranking.chosen
    tied = [point.values for point in ranking.points if point.rank == best.rank]
    open_edges = edges(ranges, best.values, tied)
    shares = importance(losses) if len(losses) >= LEAST_POINTS else None
    chosen = widths.with_values(found.config.mup, best.values)
    title = f"Search in {printable(args.study)}"
    text = page.search_page(title, trials, ranking, ranges, open_edges, shares, chosen, _models(found))
    _show([page.ranking_table(ranking), page.value_table(ranking), page.edge_table(open_edges, ranges)])
    written = results.write_chosen(found, best.values)
    _write(page_file, text)
    print(f"Point {best.point} is in {printable(str(written))}; a wide model's run takes it over by a second --gin_file")


def transfer(args: argparse.Namespace) -> int:
    """Train what is left of a study of widths and rates, then show how the best rate moves with the width."""
    if options.places(args)[1]:
        base, search = _load(args)
        _refuse_without_widths(search)
        if code := _work(args, base, search):
            return code
    found = study.load(options.workdir(args))
    judged = transfers.judge(results.rate_runs(found))
    _show([page.drift_table(judged), page.optimum_table(judged), page.wider_table(judged)])
    title = f"Transfer in {printable(str(found.folder))}"
    _write(found.folder / "transfer.html", page.transfer_page(title, judged, rate=results.rate_name(found)))
    return 0


def predict(args: argparse.Namespace) -> None:
    """Fit the law to the narrow models of a study; print and draw what it says of wide ones."""
    page_file, found = _page_file(args, "prediction.html"), study.load(args.study)
    runs = results.size_runs(found, args.rate)
    sizes: list[float] = [results.parameters(found, widths.shape(found.config.model, width)) for width in args.width]
    sizes += [sum(size.parameters(_model(file)).values()) for file in args.model]
    sizes = sizes or [max(run.size for run in runs)]
    fitted = prediction.fit([run for run in runs if run.size not in sizes], sizes)
    losses = {target: [run.loss for run in runs if run.size == target] for target in sizes}
    measured = [(target, statistics.fmean(known)) for target, known in losses.items() if known]
    _show([page.predicted_table(fitted, measured), page.fit_table(fitted)])
    for warning in fitted.warnings:
        print(f"Warning: {warning}.")
    _write(page_file, page.prediction_page(f"Prediction from {printable(args.study)}", fitted, measured))


def coordinates(args: argparse.Namespace) -> None:
    """Show how activations, and their changes by a few updates, depend on the width."""
    base, search = _load(args)
    _refuse_without_widths(search)
    folder = options.workdir(args)
    checked = coordinate_check.check(base, search, args.steps)
    powers = coordinate_check.exponents(checked)
    _show([page.coordinate_table(checked, powers)])
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "coordinates.html", page.coordinate_page(f"Coordinate check, {args.steps} updates", checked, powers))


COMMANDS = {"run": run, "report": report, "transfer": transfer, "predict": predict, "coordinates": coordinates}


def _load(args: argparse.Namespace) -> tuple[RunConfig, SearchConfig]:
    found = options.load_sections(args, SECTIONS | SEARCHING)
    search = found.pop("search")
    if not args.yes:
        space.refuse_large(search)
    return RunConfig(**found), search


def _work(args: argparse.Namespace, base: RunConfig, search: SearchConfig) -> int:
    folder, progress = options.workdir(args), _Progress(base.train.steps)
    with signals.stop_requests() as should_stop:
        summary = worker.work(base, search, folder, log=_log, progress=progress.show, should_stop=should_stop)
    counts = f"{summary.completed} completed, {summary.diverged} diverged, {summary.left} left"
    print(f"{printable(str(folder))}: this worker finished {summary.trained} trials; {counts}")
    return STOPPED if summary.left else 0


class _Progress:
    """Lines about the trial that is trained, ten seconds apart."""

    def __init__(self, steps: int):
        self.steps, self.last, self.seconds = steps, time.monotonic(), []

    def show(self, row: Mapping[str, Any]) -> None:
        """Take a row of a trial's metrics."""
        self.seconds = [*self.seconds[-49:], row["step_seconds"]]
        if time.monotonic() - self.last < LINE_EVERY_SECONDS:
            return
        self.last = time.monotonic()
        left = duration((self.steps - row["step"]) * statistics.fmean(self.seconds))
        _log(f"{row['trial']}: step {row['step']}/{self.steps}  loss {row['loss']:.4f}  grad norm {row['grad_norm']:.3f}  left {left}")


def _refuse_without_widths(search: SearchConfig) -> None:
    if len(search.widths) < 2:
        raise UserError(
            f"got search.widths={search.widths!r}; allowed: at least two, such as (64, 128, 256); set search.widths, or add "
            "--gin_file configs/runs/transfer_quickstart.gin"
        )


def _models(found: study.Study) -> list[tuple[str, int]]:
    """Return name and width of the searched model and of those in the package's configurations, narrow to wide."""
    files = sorted((CONFIGS / "models").glob("*.gin"))
    named = [(file.stem, _model(str(file)).d_model) for file in files]
    return sorted([("searched here", found.config.model.d_model), *named], key=lambda one: one[1])


def _model(file: str) -> ModelConfig:
    return config.parse([file], [], SECTIONS, [name for name in SECTIONS if name != "model"])["model"]


def _page_file(args: argparse.Namespace, name: str) -> pathlib.Path:
    """Return the page to write; raise a `UserError` now if its name or folder is wrong."""
    file = pathlib.Path(args.study) / name if args.out is None else pathlib.Path(args.out)
    if file.suffix != SUFFIX or (args.out is not None and not file.parent.is_dir()):
        raise UserError(f"got --out {args.out!r}; allowed: a file in a folder that exists, with a name that ends in {SUFFIX}; change --out")
    return file


def _write(file: pathlib.Path, text: str) -> None:
    atomic_write.write(file, text.encode(errors="replace"))
    print(f"Drawn in {printable(str(file))}")


def _show(tables: Sequence[Table]) -> None:
    console = make_console()
    for table in tables:
        show(console, table)


def _log(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
