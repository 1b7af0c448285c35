"""`python -m teleflm_jax tokenizer train | report`."""

import argparse
import contextlib
import functools
import hashlib
import json
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO

from teleflm_jax.cli import options
from teleflm_jax.cli.pack import bar, lines, refuse_columns
from teleflm_jax.data.config import DataConfig
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Tally
from teleflm_jax.errors import UserError
from teleflm_jax.packing import heldout
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import load, patterns, train, words
from teleflm_jax.tokenizer.config import TokenizerConfig
from teleflm_jax.tokenizer.train import Draw

HELP = "train the tokenizer on the run's text, or measure it (tokens per byte) beside others"
LINE_SECONDS = 10.0
"""Between two lines of progress."""
_UNIT_BYTES = 32_000_000
"""Of source text read in one piece; the documents and their order do not depend on it."""
_OPTIONAL = ("model", "train")
"""Sections that say nothing about a tokenizer."""


def arguments(parser: argparse.ArgumentParser):
    """Add the sub-commands and their options."""
    parser.epilog = f"example: {parser.prog} train --gin_file configs/runs/quickstart.gin"
    commands = parser.add_subparsers(dest="subcommand", metavar="{train,report}", required=True)
    train = _sub_command(commands, "train", "train on data.sources and write data.tokenizer", "--gin_file configs/runs/quickstart.gin")
    train.add_argument("--force", action="store_true", help="replace a tokenizer that was made from something else")
    example = "--gin_file configs/runs/quickstart.gin --text english=book.txt --beside other/tokenizer.json --published"
    report = _sub_command(commands, "report", "tokens per UTF-8 byte by domain, beside other tokenizers", example)
    report.add_argument("--text", action="append", default=[], metavar="DOMAIN=FILE", help="text to measure on; repeatable")
    report.add_argument(
        "--beside", action="append", default=[], type=options.path, metavar="FILE", help="tokenizer.json, *.tiktoken or *.model; repeatable"
    )
    report.add_argument("--published", action="store_true", help="show the technical report's table 3 below, for reference")
    report.add_argument("--json", action="store_true", help="print one JSON object")


def _sub_command(commands, name: str, description: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
    parser.epilog = f"example: {parser.prog} {example}"
    options.add_arguments(parser)
    return parser


def main(args: argparse.Namespace):
    """Run the sub-command."""
    run = options.load(args, optional=_OPTIONAL)
    if args.subcommand == "train":
        return _train(run, force=args.force)
    return _report(run.data, args)


def _train(run: options.Run, *, force: bool):
    target = pathlib.Path(run.data.tokenizer)
    if not run.data.sources:
        raise UserError("got no data.sources; allowed: a folder or file of documents for each domain; add data.sources")
    refuse_columns(run.pack.text_columns, run.data.sources)
    began = time.monotonic()
    texts = {domain: _Texts(domain, source, run.pack) for domain, source in run.data.sources.items()}
    draws = train.draw(texts, run.data.proportions, run.tokenizer)
    _tell(draws, texts, sorted(set(run.data.proportions) - set(texts)))
    if not any(draw.documents for draw in draws):
        raise UserError("got no document in data.sources; allowed: at least one; change data.sources")
    pattern = patterns.PATTERNS[run.tokenizer.pattern]
    sample = {"vocab_size": run.tokenizer.vocab_size, "words": pattern, "domains": [vars(draw) for draw in draws]}
    if _is_made(target, sample, force=force):
        print(f"{target} is there already, made from this very sample")
        return
    _say(f"training {run.tokenizer.vocab_size:,} ids on {sum(draw.num_bytes for draw in draws) / 1e6:,.1f} MB")
    show, close = bar("pieces") if sys.stderr.isatty() else lines("pieces")
    chosen, merging = _watched(train.drawn(texts, draws)), functools.partial(show, "merging")
    make = functools.partial(train.train, chosen, run.tokenizer.vocab_size, pattern=pattern, progress=merging)
    with contextlib.ExitStack() as stack:
        stack.callback(close)
        _write(target, sample, make, began)


def train_counted(
    folder: pathlib.Path, target: pathlib.Path, config: TokenizerConfig, progress: Callable[[str, int, int], None], *, force: bool
) -> None:
    """Train on words that were counted before, unless that was done.

    Args:
        folder: Parquet of `words.COUNTS`, each word once.
        target: the tokenizer.json to write.
        config: how many ids, and the pattern with which the words were cut.
        progress: called with the step, pieces made and pieces wanted.
        force: replace a tokenizer that was made from other words.

    Raises:
        UserError: the target was made from other words and is not to be replaced, or they yield too few pieces, or are too many for memory.
    """
    began = time.monotonic()
    found = words.load(folder)
    pattern = patterns.PATTERNS[config.pattern]
    sample = {"vocab_size": config.vocab_size, "words": pattern, "distinct": found.num_rows, "digest": words.digest(found)}
    if _is_made(target, sample, force=force):
        return
    watch = functools.partial(progress, "tokenizer: merge")
    _write(target, sample, lambda: train.train_counted(found, config.vocab_size, pattern=pattern, progress=watch), began)


def _write(target: pathlib.Path, sample: dict, make: Callable[[], str], began: float):
    """Write a tokenizer, and beside it what it was made from."""
    with _replacing(target) as temporary:
        content = make().encode()
        temporary.write(content)
    with _replacing(_provenance(target)) as temporary:
        temporary.write(json.dumps(sample | {"sha256": hashlib.sha256(content).hexdigest()}, indent=1).encode())
    print(f"{target}: {sample['vocab_size']:,} ids in {time.monotonic() - began:,.0f} s")


class _Texts:
    """Opens a source's documents, less the families that `pack` may hold out: bits per byte on those shall owe the tokenizer nothing."""

    def __init__(self, domain: str, source: str, pack: PackConfig):
        self._units = work_units.units(source, _UNIT_BYTES, text_column=pack.text_columns.get(domain, work_units.TEXT))
        self._seed, self._fraction = pack.seed, pack.heldout_fraction
        self.malformed = Tally()

    def __call__(self) -> Iterator[str]:
        self.malformed = Tally()
        for unit in self._units:
            for document in work_units.read(unit, self.malformed):
                if not heldout.is_apart(document.family, self._fraction, self._seed):
                    yield document.text


def _tell(draws: list[Draw], texts: dict[str, _Texts], without: list[str]):
    for draw in draws:
        share = f"all there is (asked for {draw.documents_asked:,})" if draw.everything else f"of {draw.documents_there:,}"
        _say(f"{draw.domain}: {draw.documents:,} documents, {draw.num_bytes / 1e6:,.1f} MB, {share}")
        _tell_malformed(draw.domain, texts[draw.domain].malformed)
    if without:
        _say(f"without {', '.join(without)}: not in data.sources")


def _tell_malformed(place: str, malformed: Tally):
    if malformed.dropped:
        _say(f"{place}: passed over " + ", ".join(f"{one.documents:,} {reason}" for reason, one in sorted(malformed.dropped.items())))


def _watched(texts: Iterable[str]) -> Iterator[str]:
    """Pass the texts on, with a line now and then."""
    last, count = time.monotonic(), 0
    for count, text in enumerate(texts, start=1):
        yield text
        if time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            _say(f"read {count:,} documents")
    _say(f"read {count:,} documents; merging")


def _is_made(target: pathlib.Path, sample: dict, *, force: bool) -> bool:
    """Whether the tokenizer is there already; refuses to replace another, because packed data and checkpoints depend on it."""
    if not target.exists():
        return False
    try:
        made = json.loads(_provenance(target).read_text(encoding="utf-8"))
        same = made == json.loads(json.dumps(sample)) | {"sha256": load.sha256(target)}
    except (OSError, ValueError):
        same = False
    if not same and not force:
        raise UserError(
            f"got {target}, which was made from another sample; allowed: a new path, or --force, after which data and models made with "
            "the old one must be made anew; change data.tokenizer or add --force"
        )
    return same


def _provenance(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(target.stem + ".sample.json")


@contextlib.contextmanager
def _replacing(target: pathlib.Path) -> Iterator[BinaryIO]:
    """A file that takes the target's place when it is complete; opened first, so that a folder nobody may write to is known at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with open(partial, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def _report(data: DataConfig, args: argparse.Namespace):
    from teleflm_jax.tokenizer import report  # opens tiktoken, which training does without

    if not args.text:
        raise UserError("got no text to measure on; allowed: --text DOMAIN=FILE, repeatable; add one")
    texts = dict(_named(text) for text in args.text)
    counters = {data.tokenizer: report.counter(load.load(data.tokenizer))} | dict(map(report.other, args.beside))
    ratios, num_bytes = report.ratios({domain: _all(source) for domain, source in texts.items()}, counters)
    weights, origin = report.weights(texts, data.proportions)
    found = {name: ratio | {"weighted": report.weighted(ratio, weights)} for name, ratio in ratios.items()}
    if args.json:
        published = {name: dict(zip((*report.DOMAINS, "weighted"), row, strict=True)) for name, row in report.PUBLISHED.items()}
        shown = {"tokens_per_byte": found, "bytes": num_bytes, "weights": weights, "weights_from": origin}
        print(json.dumps(shown | ({"published": published} if args.published else {})))
        return
    print("tokens per UTF-8 byte; smaller is better")
    print(_table(["tokenizer", *texts, "weighted"], [[name, *row.values()] for name, row in found.items()]))
    print(
        f"weighted by {origin}: "
        + ", ".join(f"{domain} {weight:.1%} of weight, {num_bytes[domain]:,} bytes" for domain, weight in weights.items())
    )
    if args.published:
        print("\ntechnical report, table 3, on other texts")
        print(_table(["tokenizer", *report.DOMAINS, "weighted"], [[name, *row] for name, row in report.PUBLISHED.items()]))


def _named(text: str) -> tuple[str, str]:
    domain, _, path = text.partition("=")
    if not domain or not path:
        raise UserError(f"got --text {text}; allowed: DOMAIN=FILE; change --text")
    return domain, options.path(path)


def _all(source: str) -> Iterator[str]:
    malformed = Tally()
    for unit in work_units.units(source, _UNIT_BYTES):
        for document in work_units.read(unit, malformed):
            yield document.text
    _tell_malformed(source, malformed)


def _table(header: list[str], rows: list[list]) -> str:
    cells = [header, *([cell if isinstance(cell, str) else f"{cell:.3f}" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in cells
    )


def _say(line: str):
    print(line, file=sys.stderr, flush=True)
