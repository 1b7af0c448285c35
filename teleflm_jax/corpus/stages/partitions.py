"""Output of a stage on disk: one Parquet file of documents per partition, its statistics, and a manifest when all are finished.

    STAGE/begun.json                      everything that the output depends on
    STAGE/part-000000.parquet, .json      documents of a partition; its statistics, written last
    STAGE/STEP/…                          intermediate tables
    STAGE/manifest.json                   marks the stage as finished; has the sum of all statistics

Files are renamed to their final name when they are complete, so an interrupted stage resumes with the missing partitions. The output
depends only on the source files and the settings, not on the number of workers or on interruptions.
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
from teleflm_jax.documents.statistics import Statistics

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
    """Create or resume a stage's folder; return False if the stage is finished.

    Output of other inputs or settings is removed, the manifest first.
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
    """Return a hash of everything that a stage's output depends on."""
    return hashlib.blake2b((folder / "begun.json").read_bytes(), digest_size=16).hexdigest()


def finish(folder: pathlib.Path, count: int, **facts: object) -> Statistics:
    """Sum the statistics of the partitions and write the manifest."""
    whole = statistics.merge(read_statistics(folder, number) for number in range(count))
    _write(
        folder / "manifest.json",
        json.dumps({"finished": True, "parts": count, **facts, "tally": statistics.to_json(whole)}, ensure_ascii=False),
    )
    return whole


def statistics_of(folder: pathlib.Path) -> Statistics:
    """Return the statistics of a finished stage."""
    return statistics.from_json(read_json(folder / "manifest.json")["tally"])


def path(folder: pathlib.Path, number: int) -> pathlib.Path:
    """Return the path of a partition."""
    return folder / f"part-{number:06d}.parquet"


def done(folder: pathlib.Path) -> set[int]:
    """Return the numbers of the finished partitions."""
    return {int(name[5:-5]) for name in os.listdir(folder) if name.startswith("part-") and name.endswith(".json")}


def read(folder: pathlib.Path, number: int, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a partition as they were written, one per row group, which bounds memory."""
    with pq.ParquetFile(path(folder, number)) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(rows.BATCH_ROWS, row_groups=[group], columns=columns, use_threads=False)


def write(
    folder: pathlib.Path,
    number: int,
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    counted: Statistics,
    beside: Callable[[], None] = lambda: None,
) -> None:
    """Write a partition, call `beside` to write further files, and then write its statistics, which mark it as finished."""
    target = path(folder, number)
    with atomic_write.replacing(target) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)
    beside()
    write_statistics(folder, number, counted)


def write_statistics(folder: pathlib.Path, number: int, counted: Statistics) -> None:
    """Write the statistics of a partition, which mark it as finished."""
    target = path(folder, number)
    _write(target.with_suffix(".json"), json.dumps(statistics.to_json(counted), ensure_ascii=False))


def read_statistics(folder: pathlib.Path, number: int) -> Statistics:
    """Return the statistics of a partition."""
    return statistics.from_json(read_json(path(folder, number).with_suffix(".json")))


def rows_of(folder: pathlib.Path, number: int) -> Iterator[dict]:
    """Yield the rows of a partition in a table that `spark.by_partition` distributed."""
    for file in sorted((folder / f"part={number}").glob("*.parquet")):
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(use_threads=False):
                yield from batch.to_pylist()


def read_json(file: pathlib.Path) -> dict:
    """Read a JSON file, such as a manifest or statistics."""
    return json.loads(file.read_text(encoding="utf-8"))


def _write(target: pathlib.Path, text: str) -> None:
    atomic_write.write(target, text.encode())
