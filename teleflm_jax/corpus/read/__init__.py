"""What there is to read, in the formats that it comes in: one generator a format, from a file to what it holds.

A reader yields `Found` and counts what it cannot use in a `Tally`, by reason. No reader holds more than one record of at most
`LONGEST` bytes, whatever a file unpacks to, and none fails for what is in a file.
"""

import dataclasses
import importlib
import os
from collections.abc import Iterator

import pyarrow as pa

from teleflm_jax.corpus import rows
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Amount, Tally, total
from teleflm_jax.errors import UserError

LONGEST = 16 << 20
"""Bytes of one page, text or file; longer ones are counted and passed over."""
FORMATS = {
    "documents": "JSON lines, Parquet, and plain text",
    "warc": "WARC, ARC and WET files of web crawls",
    "html": "folders of HTML pages",
    "code": "trees of source code",
    "wikipedia": "XML dumps of MediaWiki",
    "stackexchange": "XML dumps of Stack Exchange",
    "latex": "arXiv's LaTeX sources",
}
"""Format -> what it is; `read/FORMAT.py` has its `read`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """A page, a text or a file, before extraction."""

    kind: str
    """`html`, `text` or `code`."""
    origin: str
    content: bytes
    family: str = ""
    """What belongs together, so that it is never split over held-out and training; empty: `origin` alone."""
    date: str = ""
    charset: str = ""


def read(unit: work_units.Unit, form: str, first_id: int, tally: Tally) -> Iterator[pa.RecordBatch]:
    """Read a unit's files in order.

    Args:
        unit: the files.
        form: one of FORMATS, or empty to tell each file's by its content and its name.
        first_id: the number of the first record.
        tally: counts what is read and what cannot be.

    Yields:
        Batches of `rows.FOUND`.
    """
    passed_over, into = Tally(), Amount()
    found = (one for piece in unit.pieces for one in _of_piece(unit.root, piece, form, passed_over))
    yield from rows.batches(
        (
            (first_id + i, one.kind, one.origin, one.family or one.origin, one.date, one.charset, one.content)
            for i, one in enumerate(_usable(found, passed_over, into))
        ),
        rows.FOUND,
    )
    dropped = total(passed_over.dropped)
    passed_over.into.add(into.documents + dropped.documents, into.bytes + dropped.bytes)
    tally.add(passed_over)


def refuse_unknown(formats: dict[str, str]) -> None:
    """Hold formats of sources against those that there are.

    Raises:
        UserError: one is not known.
    """
    for source, form in formats.items():
        if form not in FORMATS:
            raise UserError(
                f"got corpus.formats[{source!r}]={form!r}; allowed: {', '.join(FORMATS)}, or no entry where files tell it; "
                "change corpus.formats"
            )


def _of_piece(root: str, piece: work_units.Piece, form: str, tally: Tally) -> Iterator[Found]:
    path = os.fsencode(piece.path).decode("utf-8", "replace")
    if piece.skipped:
        tally.drop(piece.skipped, path, "")
        return
    kind = {"arc": "warc"}.get(piece.kind, piece.kind)
    module = importlib.import_module(f"teleflm_jax.corpus.read.{form or (kind if kind in FORMATS else 'documents')}")
    try:
        # a name may be no text; what is told of it is
        yield from module.read(os.path.join(root, piece.path), dataclasses.replace(piece, path=path), tally)
    except OSError as error:
        if error.errno is not None:
            raise
        tally.drop("truncated or damaged file", path, "")


def _usable(found: Iterator[Found], tally: Tally, into: Amount) -> Iterator[Found]:
    for one in found:
        if len(one.content) > LONGEST:
            tally.drop(f"longer than {LONGEST >> 20} MiB", one.origin, b"", len(one.content))
        elif not one.content.strip():
            tally.drop("empty", one.origin, b"")
        else:
            into.add(1, len(one.content))
            yield one
