"""Folders of HTML pages; other files are passed over."""

from collections.abc import Iterator

from teleflm_jax.corpus import documents
from teleflm_jax.corpus.read import LONGEST, Found, form_of
from teleflm_jax.corpus.tally import Tally


def read(path: str, piece: documents.Piece, tally: Tally) -> Iterator[Found]:
    """Yield the file's page."""
    if form_of(piece.path) != "html":
        tally.drop("not HTML by its name", piece.path, "")
        return
    with open(path, "rb") as file:
        yield Found("html", piece.path, file.read(LONGEST + 1))
