"""Options that name the checkpoints to measure, and tables with one row for each, as tables 5 and 6 of the report."""

import argparse
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

from teleflm_jax import checkpoint
from teleflm_jax.cli import options
from teleflm_jax.errors import UserError
from teleflm_jax.observability.page import Table
from teleflm_jax.runs import load
from teleflm_jax.runs.config import RunConfig

ALL = "all"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that name several checkpoints."""
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    parser.add_argument("--steps", metavar="all|N,N,…", help="several checkpoints of the run, one row each")
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        type=options.path,
        metavar="RUN[@STEP]",
        help="measure another run's checkpoint as well; repeatable",
    )


def choose(args: argparse.Namespace, run: RunConfig, folder: pathlib.Path) -> list[load.Checkpoint]:
    """Return the checkpoints that the options name.

    Args:
        args: of `add_arguments` and `options.add_arguments`.
        run: the configuration of the first run; its settings for measuring hold for all.
        folder: the first run's.

    Raises:
        UserError: a checkpoint or a run does not exist.
    """
    if args.step is not None and args.steps is not None:
        raise UserError("got --step and --steps; allowed: one of them; remove one")
    chosen = [load.Checkpoint(folder=folder, config=run, step=step) for step in _steps(folder, args.step, args.steps)]
    for place in args.beside:
        path, _, step = place.partition("@") if not pathlib.Path(place).is_dir() else (place, "", "")
        if step and not step.isdecimal():
            raise UserError(f"got --beside {place}; allowed: RUN or RUN@STEP; change the step to a number")
        other = load.checkpoint(path, int(step) if step else None)
        changed = dataclasses.replace(other.config, evaluation=run.evaluation, suite=run.suite)
        chosen.append(dataclasses.replace(other, config=changed))
    return chosen


def _steps(folder: pathlib.Path, step: int | None, steps: str | None) -> list[int]:
    if steps is None:
        return [load.choose_step(folder, step)]
    if steps == ALL:
        load.choose_step(folder, None)  # raises if there is none
        return checkpoint.steps(folder / checkpoint.FOLDER)
    numbers = [number.strip() for number in steps.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"got --steps {steps}; allowed: {ALL}, or numbers as in 100,200; change --steps")
    return [load.choose_step(folder, number) for number in dict.fromkeys(map(int, numbers))]


def table(title: str, rows: Sequence[Mapping], columns: Sequence[str], cell: Callable[[Mapping, str], float | None], digits: int) -> Table:
    """Return one row for each model and one column for each figure; nothing is marked as best, as smaller may be better or worse."""
    found = [[cell(row, column) for column in columns] for row in rows]
    body = [
        [name, _tokens(row["tokens"]), *("-" if value is None else f"{value:.{digits}f}" for value in values)]
        for name, row, values in zip(_names(rows), rows, found, strict=True)
    ]
    return Table(title, ("model", "tokens", *columns), body)


def _names(rows: Sequence[Mapping]) -> list[str]:
    """Return run and step of each row, with only as much of the run's path as distinguishes the runs, so that cells stay short."""
    paths = {row["run"]: pathlib.Path(row["run"]).parts for row in rows}
    depths = range(1, max(map(len, paths.values())) + 1)
    depth = next((depth for depth in depths if len({parts[-depth:] for parts in paths.values()}) == len(paths)), depths[-1])
    return [f"{pathlib.Path(*paths[row['run']][-depth:])}, step {row['step']:,}" for row in rows]


def _tokens(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"
