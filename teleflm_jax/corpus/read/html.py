"""Folders of HTML pages; other files are passed over."""

from collections.abc import Iterator

from teleflm_jax.corpus.read import LONGEST, Found
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Tally


def read(path: str, piece: work_units.Piece, tally: Tally) -> Iterator[Found]:
    """Yield the file's page."""
    if piece.kind != "html":
        tally.drop("not HTML", piece.path, "", piece.num_bytes)
        return
    content = streams.whole(path, piece.compression, LONGEST)
    if isinstance(content, streams.Gap):
        tally.drop(content.reason, piece.path, "", content.size)
    else:
        yield Found("html", piece.path, content)
