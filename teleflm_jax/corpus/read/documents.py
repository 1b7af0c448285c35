"""JSON lines, Parquet and plain text, as `pack` reads them."""

import collections
import dataclasses
import os
from collections.abc import Iterator

from teleflm_jax.corpus import documents
from teleflm_jax.corpus.read import Found
from teleflm_jax.corpus.tally import Tally


def read(path: str, piece: documents.Piece, tally: Tally) -> Iterator[Found]:
    """Yield the documents of a file; `origin` is the file and the document's place in this piece of it."""
    malformed: collections.Counter[str] = collections.Counter()
    whole = os.fsencode(path).decode("utf-8", "replace")
    name = f"{piece.path}@{piece.start}" if piece.start else piece.path
    for number, document in enumerate(documents.read(documents.Unit("", (dataclasses.replace(piece, path=path),)), malformed)):
        family = piece.path if document.family == whole else document.family
        yield Found("text", f"{name}#{number}", document.text.encode(), family=family, charset="utf-8")
    for reason, count in malformed.items():
        for _ in range(count):
            tally.drop(reason, name, "")
