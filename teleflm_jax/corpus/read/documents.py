"""JSON Lines, JSON, Parquet and plain text, as `pack` reads them."""

import dataclasses
from collections.abc import Iterator

from teleflm_jax.corpus.read import Found
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Tally


def read(path: str, piece: work_units.Piece, tally: Tally) -> Iterator[Found]:
    """Yield the documents of a file; `origin` is the file and the document's place in this piece of it."""
    name = f"{piece.path}@{piece.start}" if piece.start else piece.path
    for number, document in enumerate(work_units.read_piece(path, dataclasses.replace(piece, path=name), tally)):
        family = piece.path if document.family == name else document.family
        yield Found("text", f"{name}#{number}", document.text.encode(), family=family, charset="utf-8")
