"""The stage that removes near-duplicates: its steps over partitions and over all documents (`duplicates` implements each of them)."""

import functools
import pathlib
from collections.abc import Iterator, Sequence

import pyarrow as pa

from teleflm_jax.corpus import rows, spark
from teleflm_jax.corpus.config import DuplicateConfig
from teleflm_jax.corpus.dedup import duplicates, reference_corpora
from teleflm_jax.corpus.dedup.reference_corpora import ReferenceCorpus
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.corpus.stages.run import CorpusRun
from teleflm_jax.documents.statistics import Statistics


def make(run: CorpusRun, source: pathlib.Path) -> None:
    """Run the stage.

    Args:
        run: The corpus.
        source: Folder of the previous stage.
    """
    folder, config = run.folder(partitions.DUPLICATES), run.settings.duplicates
    signed, references, pairs, wanted, sets, links, rounds = (
        folder / name for name in ("signatures", "earlier", "pairs", "wanted", "shingles", "links", "rounds")
    )
    priorities = [partition.priority for partition in run.partitions]
    run.for_each_partition(
        "duplicates: sign", signed, functools.partial(_sign_partition, source=source, folder=signed, priorities=priorities, config=config)
    )
    if run.references:
        run.make_table("duplicates: earlier corpora", references, lambda: _reference_signatures(run))
    run.make_table("duplicates: pair", pairs, lambda: duplicates.candidates(_signatures(run, signed, references), config))
    run.make_table("duplicates: choose", wanted, lambda: _ends(run.load_table(pairs)), by_partition=True)
    shingle = functools.partial(_shingle_partition, source=source, references=run.references, folder=sets, wanted=wanted, config=config)
    run.for_each_partition("duplicates: shingle", sets, shingle, [number for one in run.references for number in one.numbers])
    run.make_table(
        "duplicates: verify",
        links,
        lambda: _links(run.load_table(pairs), run.load_table(sets), _signatures(run, signed, references), config),
    )
    rounds.mkdir(exist_ok=True)

    def removed() -> spark.DataFrame:
        components = duplicates.components(
            run.session, run.load_table(links), rounds, lambda n: run.progress(f"duplicates: round {n}", 0, 1)
        )
        return duplicates.later(_signatures(run, signed, references), components)

    run.make_table("duplicates: choose one each", folder / "later", removed, by_partition=True)
    run.for_each_partition("duplicates", folder, functools.partial(_deduplicate_partition, source=source, folder=folder))


def _reference_signatures(run: CorpusRun) -> spark.DataFrame:
    """Return the signatures of the documents that reference corpora kept, with their ids and priorities in this corpus."""
    from pyspark.sql import functions as F

    tables = []
    for one in run.references:
        kept = run.session.read.parquet(f"{one.kept}/part-*.parquet").select("id")
        table = run.load_table(one.signatures).join(kept, "id", "left_semi")
        tables.append(table.withColumns({"id": F.col("id") + F.lit(one.id_offset), "priority": F.lit(one.index)}))
    return functools.reduce(lambda first, second: first.unionByName(second), tables)


def _signatures(run: CorpusRun, signed: pathlib.Path, references: pathlib.Path) -> spark.DataFrame:
    return run.load_table(signed).unionByName(run.load_table(references)) if run.references else run.load_table(signed)


def _ends(pairs: spark.DataFrame) -> spark.DataFrame:
    return pairs.selectExpr("a as id").union(pairs.selectExpr("b as id")).distinct()


def _links(pairs: spark.DataFrame, sets: spark.DataFrame, signed: spark.DataFrame, config: DuplicateConfig) -> spark.DataFrame:
    return duplicates.verified(pairs, sets, config).union(duplicates.copies(signed))


def _sign_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path, priorities: list[int], config: DuplicateConfig) -> None:
    batches = duplicates.signatures(partitions.read(source, number), priority=priorities[number], config=config)
    partitions.write(folder, number, batches, duplicates.SIGNATURES, Statistics())


def _shingle_partition(
    number: int,
    *,
    source: pathlib.Path,
    references: Sequence[ReferenceCorpus],
    folder: pathlib.Path,
    wanted: pathlib.Path,
    config: DuplicateConfig,
) -> None:
    ids = frozenset(row["id"] for row in partitions.rows_of(wanted, number))
    batches = _texts(number, source, references) if ids else ()
    partitions.write(folder, number, duplicates.shingle_sets(batches, ids, config=config), duplicates.SHINGLES, Statistics())


def _texts(number: int, source: pathlib.Path, references: Sequence[ReferenceCorpus]) -> Iterator[pa.RecordBatch]:
    columns = ["id", "language", "text"]
    if number >= 0:
        return partitions.read(source, number, columns)
    one, own_number = reference_corpora.locate(references, number)
    return reference_corpora.renumbered(partitions.read(one.kept, own_number, columns), one.id_offset)


def _deduplicate_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path) -> None:
    statistics = Statistics()
    removed = {row["id"]: row for row in partitions.rows_of(folder / "later", number)}
    batches = duplicates.without(statistics.entering(partitions.read(source, number)), removed, statistics)
    partitions.write(folder, number, statistics.leaving(batches), rows.DOCUMENT, statistics)
