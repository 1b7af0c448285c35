"""JSON lines, Parquet and plain text, as `pack` reads them."""

import collections
from collections.abc import Iterator

from teleflm_jax.corpus import documents
from teleflm_jax.corpus.read import Found
from teleflm_jax.corpus.tally import Tally


def read(path: str, piece: documents.Piece, tally: Tally) -> Iterator[Found]:
    """Yield the documents of a file; `origin` is the file and the document's place in this piece of it."""
    malformed: collections.Counter[str] = collections.Counter()
    root = path.removesuffix(piece.path)
    name = f"{piece.path}@{piece.start}" if piece.start else piece.path
    for number, document in enumerate(documents.read(documents.Unit(root, (piece,)), malformed)):
        yield Found("text", f"{name}#{number}", document.text.encode(), family=document.family, charset="utf-8")
    for reason, count in malformed.items():
        for _ in range(count):
            tally.drop(reason, name, "")
