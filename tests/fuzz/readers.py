"""Entries of the corpus's readers: any bytes are read or counted, and what is read is Unicode."""

import functools
import pathlib
import tempfile
from collections.abc import Callable

import pyarrow as pa

from teleflm_jax.corpus import read, rows
from teleflm_jax.corpus.config import CleanConfig, ExtractConfig, ParagraphConfig
from teleflm_jax.corpus.dedup import paragraphs
from teleflm_jax.corpus.extraction import extract
from teleflm_jax.corpus.filters import clean
from teleflm_jax.corpus.read.wikitext import plain
from teleflm_jax.documents import charsets, files, work_units
from teleflm_jax.documents.statistics import Statistics, total

_EVERY_MASK = ("email", "phone", "identity_number", "network_address")
_NO_RULES = CleanConfig(mask=_EVERY_MASK, rules={}, unspaced_rules={}, code_rules={})


def _file(data: bytes, *, name: str, form: str = "") -> None:
    """Read a file by a reader; all that is in it is found or counted."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, name).write_bytes(data)
        statistics, found = Statistics(), 0
        for unit in work_units.split_source(folder, 1 << 30):
            for batch in read.read(unit, form, found, statistics):
                batch.validate(full=True)
                found += batch.num_rows
                _extracted(batch)
        assert statistics.into.documents == found + total(statistics.dropped).documents


def _extracted(batch: pa.RecordBatch) -> None:
    statistics = Statistics()
    done = list(extract.extract([batch], statistics, domain="d", source="s", config=ExtractConfig()))
    for texts in done:
        texts.validate(full=True)
    assert sum(texts.num_rows for texts in done) + total(statistics.dropped).documents == batch.num_rows


def _pieces(data: bytes) -> None:
    """JSON Lines give the same documents in small pieces as in one."""
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "a.jsonl").write_bytes(data)
        found = [
            [document.text for unit in work_units.split_source(folder, size) for document in work_units.read(unit, Statistics())]
            for size in (7, 1 << 30)
        ]
        if files.kind_of(f"{folder}/a.jsonl") == ("jsonl", ""):
            assert found[0] == found[1]


def _charset(data: bytes) -> None:
    """A line names a character set, and what follows is in it."""
    name, _, content = data.partition(b"\n")
    text = charsets.decode(content, name.decode("latin-1"))
    if text is not None:
        text.encode()


def _wikitext(data: bytes) -> None:
    plain(data.decode("utf-8", "replace"), "zh")


def _clean(data: bytes) -> None:
    """Cleaning what is clean changes nothing but the number of gaps."""
    text = data.decode("utf-8", "replace")
    document = [(1, "d", "s", "o", "f", "", "", None, text)]
    statistics = Statistics()
    done = list(clean.clean(rows.batches(document, rows.DOCUMENT), statistics, config=_NO_RULES))
    list(paragraphs.hashes(done, config=ParagraphConfig()))
    for batch in done:
        batch.validate(full=True)
    assert sum(batch.num_rows for batch in done) + total(statistics.dropped).documents == 1


ENTRIES: dict[str, Callable[[bytes], None]] = {
    "arc": functools.partial(_file, name="a.arc"),
    "charsets": _charset,
    "clean": _clean,
    "code": functools.partial(_file, name="a.py", form="code"),
    "gzip": functools.partial(_file, name="a.txt.gz"),
    "html": functools.partial(_file, name="a.html"),
    "json": functools.partial(_file, name="a.json"),
    "json_lines": _pieces,
    "kind": functools.partial(_file, name="a"),
    "latex": functools.partial(_file, name="a.tex", form="latex"),
    "latex_tar": functools.partial(_file, name="a.tar", form="latex"),
    "parquet": functools.partial(_file, name="a.parquet"),
    "stackexchange": functools.partial(_file, name="Posts.xml", form="stackexchange"),
    "warc": functools.partial(_file, name="a.warc"),
    "wikipedia": functools.partial(_file, name="a.xml", form="wikipedia"),
    "wikitext": _wikitext,
    "zstd": functools.partial(_file, name="a.txt.zst"),
}
