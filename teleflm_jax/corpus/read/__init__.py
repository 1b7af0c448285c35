"""Readers of raw text, one module per format: a generator from a file to its raw documents.

A reader yields `RawDocument` and counts unusable input by reason in `Statistics`. No reader holds more than one record of at most `LONGEST`
bytes, whatever the decompressed size of a file, and none fails on the content of a file.
"""

import dataclasses
import importlib
import os
from collections.abc import Iterator

import pyarrow as pa

from teleflm_jax.corpus import rows
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Amount, Statistics, total
from teleflm_jax.errors import UserError

LONGEST = 16 << 20
"""Maximum bytes of a page, text or file; longer ones are counted and skipped."""
FORMATS = {
    "documents": "JSON lines, Parquet, and plain text",
    "warc": "WARC, ARC and WET files of web crawls",
    "html": "folders of HTML pages",
    "code": "trees of source code",
    "wikipedia": "XML dumps of MediaWiki",
    "stackexchange": "XML dumps of Stack Exchange",
    "latex": "arXiv's LaTeX sources",
}
"""Format -> description; the module `read/FORMAT.py` has its function `read`."""


@dataclasses.dataclass(frozen=True, slots=True)
class RawDocument:
    """A page, text or file before extraction."""

    kind: str
    """`html`, `text` or `code`."""
    origin: str
    """URL, or path and position inside the file."""
    content: bytes
    family: str = ""
    """Group of related documents that is never split over held-out and training data; empty: `origin` alone."""
    date: str = ""
    charset: str = ""
    """Declared character set, or empty."""


def read(unit: work_units.WorkUnit, form: str, first_id: int, statistics: Statistics) -> Iterator[pa.RecordBatch]:
    """Read the files of a work unit in order.

    Args:
        unit: The files.
        form: One of FORMATS, or empty to detect the format of each file.
        first_id: Id of the first document.
        statistics: Counts documents, and input that cannot be read.

    Yields:
        Batches of `rows.RAW_DOCUMENT`.
    """
    skipped, into = Statistics(), Amount()
    found = (one for file_range in unit.ranges for one in _of_range(unit.root, file_range, form, skipped))
    yield from rows.batches(
        (
            (first_id + i, one.kind, one.origin, one.family or one.origin, one.date, one.charset, one.content)
            for i, one in enumerate(_usable(found, skipped, into))
        ),
        rows.RAW_DOCUMENT,
    )
    dropped = total(skipped.dropped)
    skipped.into.add(into.documents + dropped.documents, into.bytes + dropped.bytes)
    statistics.add(skipped)


def refuse_unknown(formats: dict[str, str]) -> None:
    """Refuse unknown formats of sources.

    Raises:
        UserError: A format is unknown.
    """
    for source, form in formats.items():
        if form not in FORMATS:
            raise UserError(
                f"got corpus.formats[{source!r}]={form!r}; allowed: {', '.join(FORMATS)}, or no entry to detect it; change corpus.formats"
            )


def _of_range(root: str, file_range: work_units.FileRange, form: str, statistics: Statistics) -> Iterator[RawDocument]:
    path = os.fsencode(file_range.path).decode("utf-8", "replace")
    if file_range.skipped:
        statistics.drop(file_range.skipped, path, "")
        return
    kind = {"arc": "warc"}.get(file_range.kind, file_range.kind)
    module = importlib.import_module(f"teleflm_jax.corpus.read.{form or (kind if kind in FORMATS else 'documents')}")
    try:
        # a file name may be invalid Unicode, but the name in the output may not
        yield from module.read(os.path.join(root, file_range.path), dataclasses.replace(file_range, path=path), statistics)
    except OSError as error:
        if error.errno is not None:
            raise
        statistics.drop("truncated or damaged file", path, "")


def _usable(found: Iterator[RawDocument], statistics: Statistics, into: Amount) -> Iterator[RawDocument]:
    for one in found:
        if len(one.content) > LONGEST:
            statistics.drop(f"longer than {LONGEST >> 20} MiB", one.origin, b"", len(one.content))
        elif not one.content.strip():
            statistics.drop("empty", one.origin, b"")
        else:
            into.add(1, len(one.content))
            yield one
