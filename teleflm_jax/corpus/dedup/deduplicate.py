"""The stage that takes near-duplicates out: its steps over parts and over all documents (`duplicates` has what each of them does)."""

import functools
import pathlib
from collections.abc import Sequence

from teleflm_jax.corpus import rows
from teleflm_jax.corpus.config import DuplicateConfig
from teleflm_jax.corpus.dedup import duplicates, reference_corpora
from teleflm_jax.corpus.dedup.reference_corpora import Earlier
from teleflm_jax.corpus.stages import parts
from teleflm_jax.corpus.stages.run import Run
from teleflm_jax.documents.statistics import Tally


def make(run: Run, source: pathlib.Path) -> None:
    """Do the stage.

    Args:
        run: the corpus.
        source: folder of the stage before.
    """
    folder, config = run.folder(parts.DUPLICATES), run.settings.duplicates
    signed, before, pairs, wanted, sets, links, rounds = (
        folder / name for name in ("signatures", "earlier", "pairs", "wanted", "shingles", "links", "rounds")
    )
    priorities = [part.priority for part in run.parts]
    run.each("duplicates: sign", signed, functools.partial(_sign_part, source=source, folder=signed, priorities=priorities, config=config))
    if run.earlier:
        run.table("duplicates: earlier corpora", before, lambda: _earlier(run))
    run.table("duplicates: pair", pairs, lambda: duplicates.candidates(_signatures(run, signed, before), config))
    run.table("duplicates: choose", wanted, lambda: _ends(run.load(pairs)), by_part=True)
    shingle = functools.partial(_shingle_part, source=source, before=run.earlier, folder=sets, wanted=wanted, config=config)
    run.each("duplicates: shingle", sets, shingle, [number for one in run.earlier for number in one.numbers])
    run.table("duplicates: verify", links, lambda: _links(run.load(pairs), run.load(sets), _signatures(run, signed, before), config))
    rounds.mkdir(exist_ok=True)

    def gone():
        named = duplicates.components(run.spark, run.load(links), rounds, lambda n: run.progress(f"duplicates: round {n}", 0, 1))
        return duplicates.later(_signatures(run, signed, before), named)

    run.table("duplicates: choose one each", folder / "later", gone, by_part=True)
    run.each("duplicates", folder, functools.partial(_duplicate_part, source=source, folder=folder))


def _earlier(run: Run):
    """Signatures of what earlier corpora kept, with the numbers and priorities that they have here."""
    from pyspark.sql import functions as F

    tables = []
    for one in run.earlier:
        kept = run.spark.read.parquet(f"{one.kept}/part-*.parquet").select("id")
        table = run.load(one.signatures).join(kept, "id", "left_semi")
        tables.append(table.withColumns({"id": F.col("id") + F.lit(one.shift), "priority": F.lit(one.place)}))
    return functools.reduce(lambda first, second: first.unionByName(second), tables)


def _signatures(run: Run, signed: pathlib.Path, before: pathlib.Path):
    return run.load(signed).unionByName(run.load(before)) if run.earlier else run.load(signed)


def _ends(pairs):
    return pairs.selectExpr("a as id").union(pairs.selectExpr("b as id")).distinct()


def _links(pairs, sets, signed, config: DuplicateConfig):
    return duplicates.verified(pairs, sets, config).union(duplicates.copies(signed))


def _sign_part(number: int, *, source: pathlib.Path, folder: pathlib.Path, priorities: list[int], config: DuplicateConfig) -> None:
    batches = duplicates.signatures(parts.read(source, number), priority=priorities[number], config=config)
    parts.write(folder, number, batches, duplicates.SIGNATURES, Tally())


def _shingle_part(
    number: int, *, source: pathlib.Path, before: Sequence[Earlier], folder: pathlib.Path, wanted: pathlib.Path, config: DuplicateConfig
) -> None:
    ids = frozenset(row["id"] for row in parts.rows_of(wanted, number))
    batches = _texts(number, source, before) if ids else ()
    parts.write(folder, number, duplicates.shingle_sets(batches, ids, config=config), duplicates.SHINGLES, Tally())


def _texts(number: int, source: pathlib.Path, before: Sequence[Earlier]):
    columns = ["id", "language", "text"]
    if number >= 0:
        return parts.read(source, number, columns)
    one, own_number = reference_corpora.locate(before, number)
    return reference_corpora.renumbered(parts.read(one.kept, own_number, columns), one.shift)


def _duplicate_part(number: int, *, source: pathlib.Path, folder: pathlib.Path) -> None:
    tally = Tally()
    gone = {row["id"]: row for row in parts.rows_of(folder / "later", number)}
    batches = duplicates.without(tally.entering(parts.read(source, number)), gone, tally)
    parts.write(folder, number, tally.leaving(batches), rows.DOCUMENT, tally)
