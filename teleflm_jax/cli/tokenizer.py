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
from teleflm_jax.cli.pack import LINE_SECONDS, Progress, progress_display, refuse_columns
from teleflm_jax.data.config import DataConfig
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.errors import UserError
from teleflm_jax.packing import heldout
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import load, patterns, train, words
from teleflm_jax.tokenizer.config import TokenizerConfig
from teleflm_jax.tokenizer.train import DomainSample

HELP = "train the tokenizer on the run's text, or compare its tokens per byte with other tokenizers"
_UNIT_BYTES = 32_000_000
"""Source bytes per work unit; the documents and their order do not depend on it."""
_OPTIONAL = ("model", "train")
"""Sections that a tokenizer does not depend on."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their options."""
    parser.epilog = f"example: {parser.prog} train --gin_file configs/runs/quickstart.gin"
    commands = parser.add_subparsers(dest="subcommand", metavar="{train,report}", required=True)
    train = _sub_command(commands, "train", "train on data.sources and write data.tokenizer", "--gin_file configs/runs/quickstart.gin")
    train.add_argument("--force", action="store_true", help="replace a tokenizer that was trained on another sample")
    example = "--gin_file configs/runs/quickstart.gin --text english=book.txt --beside other/tokenizer.json --published"
    report = _sub_command(commands, "report", "tokens per UTF-8 byte by domain, compared with other tokenizers", example)
    report.add_argument("--text", action="append", default=[], metavar="DOMAIN=FILE", help="text to measure on; repeatable")
    report.add_argument(
        "--beside", action="append", default=[], type=options.path, metavar="FILE", help="tokenizer.json, *.tiktoken or *.model; repeatable"
    )
    report.add_argument("--published", action="store_true", help="also print table 3 of the technical report, for reference")
    report.add_argument("--json", action="store_true", help="print one JSON object")


def _sub_command(commands: argparse._SubParsersAction, name: str, description: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
    parser.epilog = f"example: {parser.prog} {example}"
    options.add_arguments(parser)
    return parser


def main(args: argparse.Namespace) -> None:
    """Run the sub-command."""
    run = options.load(args, optional=_OPTIONAL)
    if args.subcommand == "train":
        return _train(run, force=args.force)
    return _report(run.data, args)


def _train(run: options.Run, *, force: bool) -> None:
    target = pathlib.Path(run.data.tokenizer)
    if not run.data.sources:
        raise UserError("got no data.sources; allowed: a folder or file of documents for each domain; add data.sources")
    refuse_columns(run.pack.text_columns, run.data.sources)
    began = time.monotonic()
    texts = {domain: _Texts(domain, source, run.pack) for domain, source in run.data.sources.items()}
    samples = train.draw(texts, run.data.proportions, run.tokenizer)
    _log_samples(samples, texts, sorted(set(run.data.proportions) - set(texts)))
    if not any(sample.documents for sample in samples):
        raise UserError("got no document in data.sources; allowed: at least one; change data.sources")
    pattern = patterns.PATTERNS[run.tokenizer.pattern]
    provenance = {"vocab_size": run.tokenizer.vocab_size, "words": pattern, "domains": [vars(sample) for sample in samples]}
    if _is_trained(target, provenance, force=force):
        print(f"{target} exists already, trained on the same sample")
        return
    _log(f"training {run.tokenizer.vocab_size:,} ids on {sum(sample.num_bytes for sample in samples) / 1e6:,.1f} MB")
    with progress_display("pieces") as show:
        chosen, merging = _with_progress(train.drawn(texts, samples)), functools.partial(show, "merging")
        make = functools.partial(train.train, chosen, run.tokenizer.vocab_size, pattern=pattern, progress=merging)
        _write(target, provenance, make, began)


def train_counted(folder: pathlib.Path, target: pathlib.Path, config: TokenizerConfig, progress: Progress, *, force: bool) -> None:
    """Train a tokenizer on word counts, unless the target was already trained on them.

    Args:
        folder: Folder of Parquet files of `words.COUNTS`, each word once.
        target: Path of the tokenizer.json to write.
        config: Number of ids, and the pattern that the words were split with.
        progress: Called with the step, the pieces made and the total.
        force: Replace a tokenizer that was trained on other words.

    Raises:
        UserError: The target was trained on other words and `force` is False, or the words yield too few pieces or exceed the memory.
    """
    began = time.monotonic()
    found = words.load(folder)
    pattern = patterns.PATTERNS[config.pattern]
    provenance = {"vocab_size": config.vocab_size, "words": pattern, "distinct": found.num_rows, "digest": words.digest(found)}
    if _is_trained(target, provenance, force=force):
        return
    watch = functools.partial(progress, "tokenizer: merge")
    _write(target, provenance, lambda: train.train_counted(found, config.vocab_size, pattern=pattern, progress=watch), began)


def _write(target: pathlib.Path, provenance: dict, make: Callable[[], str], began: float) -> None:
    """Write a tokenizer and, next to it, the description of its sample."""
    with _replacing(target) as temporary:
        content = make().encode()
        temporary.write(content)
    with _replacing(_provenance_path(target)) as temporary:
        temporary.write(json.dumps(provenance | {"sha256": hashlib.sha256(content).hexdigest()}, indent=1).encode())
    print(f"{target}: {provenance['vocab_size']:,} ids in {time.monotonic() - began:,.0f} s")


class _Texts:
    """A source's documents without the families that `pack` may hold out, so that bits per byte on those stay independent of training."""

    def __init__(self, domain: str, source: str, pack: PackConfig):
        self._units = work_units.split_source(source, _UNIT_BYTES, text_column=pack.text_columns.get(domain, work_units.TEXT))
        self._seed, self._fraction = pack.seed, pack.heldout_fraction
        self.malformed = Statistics()

    def __call__(self) -> Iterator[str]:
        self.malformed = Statistics()
        for unit in self._units:
            for document in work_units.read(unit, self.malformed):
                if not heldout.may_be_held_out(document.family, self._fraction, self._seed):
                    yield document.text


def _log_samples(samples: list[DomainSample], texts: dict[str, _Texts], without: list[str]) -> None:
    for sample in samples:
        share = f"all there are (wanted {sample.documents_asked:,})" if sample.everything else f"of {sample.documents_there:,}"
        _log(f"{sample.domain}: {sample.documents:,} documents, {sample.num_bytes / 1e6:,.1f} MB, {share}")
        _log_malformed(sample.domain, texts[sample.domain].malformed)
    if without:
        _log(f"without {', '.join(without)}: not in data.sources")


def _log_malformed(place: str, malformed: Statistics) -> None:
    if malformed.dropped:
        _log(f"{place}: skipped " + ", ".join(f"{one.documents:,} {reason}" for reason, one in sorted(malformed.dropped.items())))


def _with_progress(texts: Iterable[str]) -> Iterator[str]:
    """Yield the texts and log their number every LINE_SECONDS."""
    last, count = time.monotonic(), 0
    for count, text in enumerate(texts, start=1):
        yield text
        if time.monotonic() - last > LINE_SECONDS:
            last = time.monotonic()
            _log(f"read {count:,} documents")
    _log(f"read {count:,} documents; merging")


def _is_trained(target: pathlib.Path, provenance: dict, *, force: bool) -> bool:
    """Return True if the target has this provenance; refuse to replace another, because packed data and checkpoints depend on it."""
    if not target.exists():
        return False
    try:
        made = json.loads(_provenance_path(target).read_text(encoding="utf-8"))
        same = made == json.loads(json.dumps(provenance)) | {"sha256": load.sha256(target)}
    except (OSError, ValueError):
        same = False
    if not same and not force:
        raise UserError(
            f"got {target}, which was trained on another sample; allowed: a new path, or --force, after which data and models made with "
            "the old tokenizer must be made again; change data.tokenizer or add --force"
        )
    return same


def _provenance_path(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(target.stem + ".sample.json")


@contextlib.contextmanager
def _replacing(target: pathlib.Path) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces the target when it is complete; an unwritable folder is thus noticed before the work starts."""
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


def _report(data: DataConfig, args: argparse.Namespace) -> None:
    from teleflm_jax.tokenizer import report  # imports tiktoken, which training does not need

    if not args.text:
        raise UserError("got no text to measure on; allowed: --text DOMAIN=FILE, repeatable; add one")
    texts = dict(_domain_and_path(text) for text in args.text)
    counters = {data.tokenizer: report.counter(load.load(data.tokenizer))} | dict(map(report.other, args.beside))
    ratios, num_bytes = report.ratios({domain: _documents(source) for domain, source in texts.items()}, counters)
    weights, origin = report.weights(texts, data.proportions)
    found = {name: ratio | {"weighted": report.weighted(ratio, weights)} for name, ratio in ratios.items()}
    if args.json:
        published = {name: dict(zip((*report.DOMAINS, "weighted"), row, strict=True)) for name, row in report.PUBLISHED.items()}
        shown = {"tokens_per_byte": found, "bytes": num_bytes, "weights": weights, "weights_from": origin}
        print(json.dumps(shown | ({"published": published} if args.published else {})))
        return
    print("tokens per UTF-8 byte; lower is better")
    print(_table(["tokenizer", *texts, "weighted"], [[name, *row.values()] for name, row in found.items()]))
    print(
        f"weighted by {origin}: "
        + ", ".join(f"{domain} {weight:.1%} of weight, {num_bytes[domain]:,} bytes" for domain, weight in weights.items())
    )
    if args.published:
        print("\ntechnical report, table 3, on other texts")
        print(_table(["tokenizer", *report.DOMAINS, "weighted"], [[name, *row] for name, row in report.PUBLISHED.items()]))


def _domain_and_path(text: str) -> tuple[str, str]:
    domain, _, path = text.partition("=")
    if not domain or not path:
        raise UserError(f"got --text {text}; allowed: DOMAIN=FILE; change --text")
    return domain, options.path(path)


def _documents(source: str) -> Iterator[str]:
    malformed = Statistics()
    for unit in work_units.split_source(source, _UNIT_BYTES):
        for document in work_units.read(unit, malformed):
            yield document.text
    _log_malformed(source, malformed)


def _table(header: list[str], rows: list[list]) -> str:
    cells = [header, *([cell if isinstance(cell, str) else f"{cell:.3f}" for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]) for row in cells
    )


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
