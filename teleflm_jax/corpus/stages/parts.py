"""A stage's results on disk: one Parquet file of documents a part, with its tally beside it, and a manifest when all are there.

    STAGE/begun.json                      what the results depend on
    STAGE/part-000000.parquet, .json      a part's documents; its tally, written last
    STAGE/STEP/…                          tables on the way
    STAGE/manifest.json                   finished, and all tallies added up

A part's file has its name only when it is whole, so a stage that was stopped, however, goes on with the parts that are missing. Results
depend on the source files and the settings alone, neither on the number of workers nor on interruptions.
"""

import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from teleflm_jax import atomic_write
from teleflm_jax.corpus import rows
from teleflm_jax.documents import statistics
from teleflm_jax.documents.statistics import Tally

VERSION = 4
READ, CLEAN, PARAGRAPHS, QUALITY, DUPLICATES, DECONTAMINATE = (
    "1-read",
    "2-clean",
    "3-paragraphs",
    "4-quality",
    "5-duplicates",
    "6-decontaminate",
)


def begin(folder: pathlib.Path, settings: object) -> bool:
    """Make a stage's folder, or take it up; False if the stage is finished.

    What was made from other inputs or settings is removed, the manifest first.
    """
    wanted = json.dumps({"version": VERSION, "settings": settings}, sort_keys=True, default=str)
    begun = folder / "begun.json"
    if begun.exists() and begun.read_text() == wanted:
        return not (folder / "manifest.json").exists()
    for name in ("manifest.json", "begun.json"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _write(begun, wanted)
    return True


def fingerprint(folder: pathlib.Path) -> str:
    """A short name for what a stage's results depend on."""
    return hashlib.blake2b((folder / "begun.json").read_bytes(), digest_size=16).hexdigest()


def finish(folder: pathlib.Path, count: int, **facts: object) -> Tally:
    """Add the parts' tallies up and write the manifest."""
    whole = statistics.merge(read_tally(folder, number) for number in range(count))
    _write(
        folder / "manifest.json",
        json.dumps({"finished": True, "parts": count, **facts, "tally": statistics.to_json(whole)}, ensure_ascii=False),
    )
    return whole


def tally_of(folder: pathlib.Path) -> Tally:
    """The tally of a finished stage."""
    return statistics.from_json(read_json(folder / "manifest.json")["tally"])


def path(folder: pathlib.Path, number: int) -> pathlib.Path:
    """A part's file."""
    return folder / f"part-{number:06d}.parquet"


def done(folder: pathlib.Path) -> set[int]:
    """Numbers of the parts that are there, with their tallies."""
    return {int(name[5:-5]) for name in os.listdir(folder) if name.startswith("part-") and name.endswith(".json")}


def read(folder: pathlib.Path, number: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """A part's batches, as they were written: a row group each, which bounds the memory that one takes."""
    with pq.ParquetFile(path(folder, number)) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(rows.BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False)


def write(
    folder: pathlib.Path,
    number: int,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    counted: Tally,
    beside: Callable[[], None] = lambda: None,
) -> None:
    """Write a part, what else belongs to it, and then its tally, which says that it is whole."""
    target = path(folder, number)
    with atomic_write.replacing(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
    beside()
    write_tally(folder, number, counted)


def write_tally(folder: pathlib.Path, number: int, counted: Tally) -> None:
    """Say that a part is whole, and what was done to it."""
    target = path(folder, number)
    _write(target.with_suffix(".json"), json.dumps(statistics.to_json(counted), ensure_ascii=False))


def read_tally(folder: pathlib.Path, number: int) -> Tally:
    """A part's tally."""
    return statistics.from_json(read_json(path(folder, number).with_suffix(".json")))


def rows_of(folder: pathlib.Path, number: int) -> Iterator[dict]:
    """The rows that a table, laid out by `spark.by_part`, has for a part."""
    for file in sorted((folder / f"part={number}").glob("*.parquet")):
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(use_threads=False):
                yield from batch.to_pylist()


def read_json(file: pathlib.Path) -> dict:
    """A manifest, or a tally."""
    return json.loads(file.read_text(encoding="utf-8"))


def _write(target: pathlib.Path, text: str) -> None:
    atomic_write.write(target, text.encode())
