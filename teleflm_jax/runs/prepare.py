"""Preparing a run's data: training its tokenizer and packing its documents. Importing this imports no jax."""

import contextlib
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

from teleflm_jax import atomic_write
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.errors import UserError
from teleflm_jax.packing import heldout
from teleflm_jax.packing import pack as packing
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.runs.config import RunConfig, refuse_incomplete
from teleflm_jax.tokenizer import load, patterns, train, words
from teleflm_jax.tokenizer.config import TokenizerConfig
from teleflm_jax.tokenizer.train import DomainSample

LOG_SECONDS = 10.0
"""Seconds between two messages about the number of documents read."""
UNIT_BYTES = 32_000_000
"""Source bytes per work unit; the documents and their order do not depend on it."""

Log = Callable[[str], None]
Progress = Callable[[str, int, int], None]
"""Called with a step's name, the amount done and the total."""


def train_tokenizer(
    config: RunConfig,
    *,
    force: bool = False,
    log: Log = lambda message: None,
    progress: Progress = lambda step, done, total: None,
) -> bool:
    """Train the tokenizer on a sample of `data.sources` and write `data.tokenizer`; do nothing if it was trained on this sample.

    Documents that packing may hold out are not in the sample, so that bits per byte on them stay independent of the tokenizer's training.

    Args:
        config: `data`, `tokenizer` and `pack` are used.
        force: Replace a tokenizer that was trained on another sample.
        log: takes messages for people.
        progress: called during the merges.

    Returns:
        True if the tokenizer was trained, False if it was there.

    Raises:
        UserError: there are no documents, they yield too few pieces, or another tokenizer is there and `force` is False.
    """
    refuse_incomplete(config, "data")
    sources, target = config.data.sources, pathlib.Path(config.data.tokenizer)
    if not sources:
        raise UserError("got no data.sources; allowed: a folder or file of documents for each domain; add data.sources")
    refuse_columns(config.pack.text_columns, sources)
    texts = {domain: _Texts(domain, source, config.pack) for domain, source in sources.items()}
    samples = train.draw(texts, config.data.proportions, config.tokenizer)
    _log_samples(samples, texts, sorted(set(config.data.proportions) - set(texts)), log)
    if not any(sample.documents for sample in samples):
        raise UserError("got no document in data.sources; allowed: at least one; change data.sources")
    pattern, vocab_size = patterns.PATTERNS[config.tokenizer.pattern], config.tokenizer.vocab_size
    provenance = {"vocab_size": vocab_size, "words": pattern, "domains": [vars(sample) for sample in samples]}
    if _is_trained(target, provenance, force=force):
        return False
    log(f"training {vocab_size:,} ids on {sum(sample.num_bytes for sample in samples) / 1e6:,.1f} MB")
    chosen, merging = _logged(train.drawn(texts, samples), log), functools.partial(progress, "merging")
    _write(target, provenance, lambda: train.train(chosen, vocab_size, pattern=pattern, progress=merging))
    return True


def train_tokenizer_on_counts(
    folder: pathlib.Path, target: pathlib.Path, config: TokenizerConfig, *, force: bool = False, progress: Progress
) -> bool:
    """Train a tokenizer on words that were counted before; do nothing if it was trained on them.

    Args:
        folder: Parquet of `words.COUNTS`, each word once.
        target: the tokenizer.json to write.
        config: the number of ids, and the pattern with which the words were cut.
        force: Replace a tokenizer that was trained on other words.
        progress: called during the merges.

    Returns:
        True if the tokenizer was trained, False if it was there.

    Raises:
        UserError: another tokenizer is there and `force` is False, or the words yield too few pieces or are too many for memory.
    """
    found = words.load(folder)
    pattern = patterns.PATTERNS[config.pattern]
    provenance = {"vocab_size": config.vocab_size, "words": pattern, "distinct": found.num_rows, "digest": words.digest(found)}
    if _is_trained(target, provenance, force=force):
        return False
    watch = functools.partial(progress, "tokenizer: merge")
    _write(target, provenance, lambda: train.train_counted(found, config.vocab_size, pattern=pattern, progress=watch))
    return True


def pack(
    config: RunConfig,
    *,
    domains: Collection[str] = (),
    force: bool = False,
    log: Log = lambda message: None,
    progress: Progress = lambda step, done, total: None,
) -> None:
    """Tokenize and pack the documents of `data.sources` into `data.packed`; domains that are already packed are skipped.

    Args:
        config: `data`, `pack` and `model` are used.
        domains: pack these only; default: all.
        force: Pack again even if a data set exists.
        log: takes messages for people.
        progress: called with bytes done and bytes in all.

    Raises:
        UserError: a domain has no documents, too many of them are malformed, or the existing data was packed from other inputs.
    """
    refuse_incomplete(config, "data", "model")
    sources = config.data.sources
    unknown = sorted(set(domains) - set(sources))
    if unknown or not sources:
        raise UserError(
            f"got {'--domain ' + ', '.join(unknown) if unknown else 'no data.sources'}; allowed: domains with documents in data.sources "
            f"({', '.join(sources) or 'it is empty'}); change data.sources"
        )
    refuse_columns(config.pack.text_columns, sources)
    packing.pack(
        sources={domain: sources[domain] for domain in domains or sources},
        packed=config.data.packed,
        tokenizer=config.data.tokenizer,
        sequence_length=config.model.context_length,
        vocab_size=config.model.vocab_size,
        config=config.pack,
        force=force,
        log=log,
        progress=progress,
    )


def refuse_columns(columns: Mapping[str, str], sources: Collection[str]) -> None:
    """Raise a `UserError` for a text column of a domain that has no documents."""
    if unknown := sorted(columns.keys() - set(sources)):
        raise UserError(
            f"got pack.text_columns for {', '.join(unknown)}; allowed: domains of data.sources ({', '.join(sources)}); a corpus "
            "has corpus.text_columns instead; change pack.text_columns"
        )


def log_malformed(place: str, malformed: Statistics, log: Log) -> None:
    """Log how many documents of a source were skipped, by reason."""
    if malformed.dropped:
        log(f"{place}: skipped " + ", ".join(f"{one.documents:,} {reason}" for reason, one in sorted(malformed.dropped.items())))


class _Texts:
    """Opens a source's documents, except the families that `pack` may hold out."""

    def __init__(self, domain: str, source: str, pack: PackConfig):
        self._units = work_units.split_source(source, UNIT_BYTES, text_column=pack.text_columns.get(domain, work_units.TEXT))
        self._seed, self._fraction = pack.seed, pack.heldout_fraction
        self.malformed = Statistics()

    def __call__(self) -> Iterator[str]:
        self.malformed = Statistics()
        for unit in self._units:
            for document in work_units.read(unit, self.malformed):
                if not heldout.may_be_held_out(document.family, self._fraction, self._seed):
                    yield document.text


def _log_samples(samples: list[DomainSample], texts: Mapping[str, _Texts], without: list[str], log: Log) -> None:
    for sample in samples:
        share = f"all there are (wanted {sample.documents_asked:,})" if sample.everything else f"of {sample.documents_there:,}"
        log(f"{sample.domain}: {sample.documents:,} documents, {sample.num_bytes / 1e6:,.1f} MB, {share}")
        log_malformed(sample.domain, texts[sample.domain].malformed, log)
    if without:
        log(f"without {', '.join(without)}: not in data.sources")


def _logged(texts: Iterable[str], log: Log) -> Iterator[str]:
    """Yield the texts, with a message every `LOG_SECONDS`."""
    last, count = time.monotonic(), 0
    for count, text in enumerate(texts, start=1):
        yield text
        if time.monotonic() - last > LOG_SECONDS:
            last = time.monotonic()
            log(f"read {count:,} documents")
    log(f"read {count:,} documents; merging")


def _is_trained(target: pathlib.Path, provenance: Mapping[str, Any], *, force: bool) -> bool:
    """Return whether the tokenizer exists; refuse to replace another one, because packed data and checkpoints depend on it."""
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


def _write(target: pathlib.Path, provenance: Mapping[str, Any], make: Callable[[], str]) -> None:
    """Write a tokenizer and, next to it, the description of its sample."""
    with _replacing(target) as temporary:
        content = make().encode()
        temporary.write(content)
    with _replacing(_provenance_path(target)) as temporary:
        temporary.write(json.dumps({**provenance, "sha256": hashlib.sha256(content).hexdigest()}, indent=1).encode())


def _provenance_path(target: pathlib.Path) -> pathlib.Path:
    return target.with_name(target.stem + ".sample.json")


@contextlib.contextmanager
def _replacing(target: pathlib.Path) -> Iterator[BinaryIO]:
    """Open a file that replaces the target when it is complete; it is opened first, so that an unwritable folder fails at once."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write.replacing(target) as temporary, temporary.open("wb") as file:
        yield file
