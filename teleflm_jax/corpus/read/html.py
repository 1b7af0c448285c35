"""Reader of HTML pages; other files are skipped."""

from collections.abc import Iterator

from teleflm_jax.corpus.read import LONGEST, RawDocument
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Statistics


def read(path: str, file_range: work_units.FileRange, statistics: Statistics) -> Iterator[RawDocument]:
    """Yield the page of the file."""
    if file_range.kind != "html":
        statistics.drop("not HTML", file_range.path, "", file_range.num_bytes)
        return
    content = streams.whole(path, file_range.compression, LONGEST)
    if isinstance(content, streams.DamagedSpan):
        statistics.drop(content.reason, file_range.path, "", content.size)
    else:
        yield RawDocument("html", file_range.path, content)
