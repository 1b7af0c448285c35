"""The models that `eval.py` measures, and tables of what it found: one row a model and step, as in tables 5 and 6 of the report."""

import argparse
import contextlib
import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import tokenizers

from teleflm_jax import checkpoint
from teleflm_jax.checkpoint import record
from teleflm_jax.cli import options, run_folder
from teleflm_jax.cli.tables import Table
from teleflm_jax.errors import UserError

ALL = "all"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """A checkpoint to measure."""

    folder: pathlib.Path
    run: options.Run
    step: int

    @property
    def name(self) -> str:
        """As the tables have it."""
        return f"{self.folder}, step {self.step:,}"

    @property
    def tokens(self) -> int | None:
        """That it was trained on, as far as the checkpoint knows: one that was imported does not."""
        with contextlib.suppress(record.Damaged):
            return record.read(self.folder / checkpoint.FOLDER, self.step).counters.get("tokens") or None
        return None

    def tokenizer(self) -> tokenizers.Tokenizer:
        """The one that it was trained with."""
        return run_folder.load_tokenizer(self.folder, self.run.model.vocab_size)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names several checkpoints."""
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    parser.add_argument("--steps", metavar="all|N,N,…", help="several checkpoints of the run, one row each")
    parser.add_argument(
        "--beside",
        action="append",
        default=[],
        type=options.path,
        metavar="RUN[@STEP]",
        help="measure another run's checkpoint as well; repeatable",
    )


def choose(args: argparse.Namespace, run: options.Run, folder: pathlib.Path) -> list[Chosen]:
    """The checkpoints that the options name.

    Args:
        args: of `add_arguments` and `options.add_arguments`.
        run: the configuration of the first run; what it says about measuring holds for all.
        folder: the first run's.

    Raises:
        UserError: a checkpoint or a run that is not there.
    """
    if args.step is not None and args.steps is not None:
        raise UserError("got --step and --steps; allowed: one of them; remove one")
    chosen = [Chosen(folder=folder, run=run, step=step) for step in _steps(folder, args.step, args.steps)]
    for place in args.beside:
        path, _, step = place.partition("@") if not pathlib.Path(place).is_dir() else (place, "", "")
        if step and not step.isdecimal():
            raise UserError(f"got --beside {place}; allowed: RUN or RUN@STEP; change the step to a number")
        other = pathlib.Path(path)
        options.refuse_no_run(other)
        changed = dataclasses.replace(run_folder.configuration(other), evaluation=run.evaluation, suite=run.suite)
        chosen.append(Chosen(folder=other, run=changed, step=run_folder.choose_step(other, int(step) if step else None)))
    return chosen


def _steps(folder: pathlib.Path, step: int | None, steps: str | None) -> list[int]:
    if steps is None:
        return [run_folder.choose_step(folder, step)]
    if steps == ALL:
        run_folder.choose_step(folder, None)  # says so if there is none
        return checkpoint.steps(folder / checkpoint.FOLDER)
    numbers = [number.strip() for number in steps.split(",")]
    if not all(number.isdecimal() for number in numbers):
        raise UserError(f"got --steps {steps}; allowed: {ALL}, or numbers as in 100,200; change --steps")
    return [run_folder.choose_step(folder, number) for number in dict.fromkeys(map(int, numbers))]


def table(title: str, rows: Sequence[Mapping], columns: Sequence[str], cell: Callable[[Mapping, str], float | None], digits: int) -> Table:
    """One row a model, one column a figure; the best of a column is not marked, as smaller may be better or worse."""
    found = [[cell(row, column) for column in columns] for row in rows]
    body = [
        [name, _tokens(row["tokens"]), *("-" if value is None else f"{value:.{digits}f}" for value in values)]
        for name, row, values in zip(_names(rows), rows, found, strict=True)
    ]
    return Table(title, ("model", "tokens", *columns), body)


def _names(rows: Sequence[Mapping]) -> list[str]:
    """Run and step, of a run's path no more than tells the runs apart: a cell holds no long paths."""
    paths = {row["run"]: pathlib.Path(row["run"]).parts for row in rows}
    depths = range(1, max(map(len, paths.values())) + 1)
    depth = next((depth for depth in depths if len({parts[-depth:] for parts in paths.values()}) == len(paths)), depths[-1])
    return [f"{pathlib.Path(*paths[row['run']][-depth:])}, step {row['step']:,}" for row in rows]


def _tokens(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"
