"""Reader of JSON Lines, JSON, Parquet and plain text, with the same reader as `pack`."""

import dataclasses
from collections.abc import Iterator

from teleflm_jax.corpus.read import RawDocument
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics


def read(path: str, file_range: work_units.FileRange, statistics: Statistics) -> Iterator[RawDocument]:
    """Yield the documents of a file range; `origin` is the file and the document's index in the range."""
    name = f"{file_range.path}@{file_range.start}" if file_range.start else file_range.path
    for number, document in enumerate(work_units.read_range(path, dataclasses.replace(file_range, path=name), statistics)):
        family = file_range.path if document.family == name else document.family
        yield RawDocument("text", f"{name}#{number}", document.text.encode(), family=family, charset="utf-8")
