"""Near-duplicate documents of a language: candidate pairs, connected components, and the document of each component to keep.

Every partition computes its documents' MinHash buckets; Spark joins documents that share a bucket, and the exact Jaccard similarity of
their shingle sets decides. Accepted pairs are the edges of a graph, and one document of each component is kept: the one of the source that
is listed first, then of the best quality, then the longest, then the first. Exact copies are found by a hash of all tokens and form no
pairs, so that a page with a million copies costs only a million rows.

Sources: report, section 2 ("document-level deduplication with MinHash", "cross-deduplicate for each language"); components by alternating
large and small stars (Kiveris et al., 2014), which ends after about log n rounds and needs no node to hold a component in memory.
"""

import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from teleflm_jax.corpus import spark, tokens
from teleflm_jax.corpus.config import CODE, DuplicateConfig
from teleflm_jax.corpus.dedup import minhash
from teleflm_jax.documents.statistics import Statistics

SIGNATURES = pa.schema(
    {
        "language": pa.string(),
        "id": pa.int64(),
        "priority": pa.int32(),
        "quality": pa.float32(),
        "length": pa.int64(),
        "shingles": pa.int32(),
        "whole": pa.int64(),
        "buckets": pa.list_(pa.int64()),
    }
)
SHINGLES = pa.schema({"id": pa.int64(), "shingles": pa.list_(pa.int64())})
NEIGHBOURS = 16
"""Maximum predecessors that each document of a bucket is paired with, besides the bucket's first; these links connect larger buckets."""
_FACTOR = 0xBF58476D1CE4E5B9


def signatures(batches: Iterable[pa.RecordBatch], *, priority: int, config: DuplicateConfig) -> Iterator[pa.RecordBatch]:
    """Compute the MinHash signatures of the documents to compare, as batches of SIGNATURES.

    Args:
        batches: Batches of `rows.DOCUMENT`.
        priority: Priority of their source; the lowest is kept.
        config: Settings.
    """
    for batch in batches:
        languages = batch["language"].to_pylist()
        compared = [i for i, language in enumerate(languages) if config.code or language != CODE]
        batch = batch.take(pa.array(compared, pa.int64()))
        texts = batch["text"].to_pylist()
        found = _tokens(batch, texts, config)
        buckets, filled = minhash.buckets(
            found, shingle_tokens=config.shingle_tokens, bands=config.bands, rows=config.rows, seed=config.seed
        )
        kept = np.flatnonzero(filled)
        if not len(kept):
            continue
        whole = tokens.runs(found.hashes, found.offsets[kept], found.offsets[kept + 1], _FACTOR)
        sizes = [len(tokens.shingles(found, int(i), config.shingle_tokens)) for i in kept]
        batch = batch.take(pa.array(kept))
        yield pa.record_batch(
            [
                batch["language"],
                batch["id"],
                pa.array([priority] * len(kept), pa.int32()),
                batch["quality"],
                pa.array([len(texts[i]) for i in kept], pa.int64()),
                pa.array(sizes, pa.int32()),
                pa.array(whole.view(np.int64)),
                pa.array(list(buckets[kept]), pa.list_(pa.int64())),
            ],
            schema=SIGNATURES,
        )


def shingle_sets(batches: Iterable[pa.RecordBatch], wanted: frozenset[int], *, config: DuplicateConfig) -> Iterator[pa.RecordBatch]:
    """Compute the shingle sets of the wanted documents, as batches of SHINGLES."""
    for batch in batches:
        ids = batch["id"].to_pylist()
        chosen = [i for i, number in enumerate(ids) if number in wanted]
        if not chosen:
            continue
        batch = batch.take(pa.array(chosen))
        found = _tokens(batch, batch["text"].to_pylist(), config)
        sets = [tokens.shingles(found, i, config.shingle_tokens).view(np.int64) for i in range(len(chosen))]
        yield pa.record_batch([pa.array([ids[i] for i in chosen], pa.int64()), pa.array(sets, pa.list_(pa.int64()))], schema=SHINGLES)


def copies(signatures: spark.DataFrame) -> spark.DataFrame:
    """Link exact copies to their first document: columns `a` (the first), `b` (not of a reference corpus), `similarity`."""
    from pyspark.sql import functions as F

    first = F.min("id").over(_window("language", "whole"))
    return (
        signatures.select("id", first.alias("a"))
        .where("id != a and id >= 0")
        .select("a", F.col("id").alias("b"), F.lit(1.0).alias("similarity"))
    )


def candidates(signatures: spark.DataFrame, config: DuplicateConfig) -> spark.DataFrame:
    """Pair documents that share a bucket and whose sizes allow the similarity: columns `a` < `b`, with `b` not of a reference corpus."""
    from pyspark.sql import functions as F

    firsts = signatures.withColumn("first", F.min("id").over(_window("language", "whole"))).where("id == first")
    members = firsts.select("language", "id", "shingles", F.explode("buckets").alias("bucket"))
    window, one = _window("language", "bucket").orderBy("id"), F.struct("id", "shingles")
    others = F.concat(F.collect_list(one).over(window.rowsBetween(-NEIGHBOURS, -1)), F.array(F.first(one).over(window)))
    grouped = members.select("id", "shingles", others.alias("others")).where("id >= 0")
    pairs = grouped.select("id", "shingles", F.explode("others").alias("other")).where("other.id < id")
    least = F.least("shingles", "other.shingles") / F.greatest("shingles", "other.shingles")
    return pairs.where(least >= config.similarity).select(F.col("other.id").alias("a"), F.col("id").alias("b")).distinct()


def verified(pairs: spark.DataFrame, sets: spark.DataFrame, config: DuplicateConfig) -> spark.DataFrame:
    """Keep the pairs whose exact Jaccard similarity reaches the threshold: columns `a`, `b`, `similarity`."""
    from pyspark.sql import functions as F

    left = sets.select(F.col("id").alias("a"), F.col("shingles").alias("of_a"))
    right = sets.select(F.col("id").alias("b"), F.col("shingles").alias("of_b"))
    both = pairs.join(left, "a").join(right, "b")
    common = F.size(F.array_intersect("of_a", "of_b"))
    similarity = common / (F.size("of_a") + F.size("of_b") - common)
    return both.select("a", "b", similarity.alias("similarity")).where(F.col("similarity") >= config.similarity)


def components(
    session: spark.Session, edges: spark.DataFrame, folder: pathlib.Path, log: Callable[[int], None] = lambda round_: None
) -> spark.DataFrame:
    """Label every document's component by its lowest id: columns `id`, `component`; documents without edges are not included.

    Args:
        session: Spark session.
        edges: Columns `a`, `b`.
        folder: Folder for the edges of each round, so that rounds are not recomputed and query plans stay small.
        log: Receives the number of every round.
    """
    from pyspark.sql import functions as F

    links = edges.select(F.greatest("a", "b").alias("u"), F.least("a", "b").alias("v")).distinct()
    before, round_ = None, 0
    while True:
        path = folder / f"round-{round_}"
        if not path.exists():
            with spark.table(path) as partial:
                (links if round_ == 0 else _small_star(_large_star(links))).write.parquet(str(partial))
        links = session.read.schema("u long, v long").parquet(str(path))
        now = links.agg(F.count("u"), F.bit_xor(F.xxhash64("u", "v"))).first()
        if now == before or not now[0]:
            return (
                links.select(F.col("u").alias("id"), F.col("v").alias("component")).union(links.select(F.col("v"), F.col("v"))).distinct()
            )
        before, round_ = now, round_ + 1
        log(round_)


def later(signatures: spark.DataFrame, components: spark.DataFrame) -> spark.DataFrame:
    """Return the documents to drop: all of each component except the kept one and those of reference corpora.

    Columns `id`, `kept`, `size` of the component, `exact` for a copy of the kept document.
    """
    from pyspark.sql import functions as F

    members = components.join(signatures.select("id", "priority", "quality", "length", "whole"), "id")
    order = [F.col("priority"), F.coalesce("quality", F.lit(0.0)).desc(), F.col("length").desc(), F.col("id")]
    window = _window("component").orderBy(*order)
    size = F.count("id").over(_window("component"))
    best = F.first(F.struct("id", "whole")).over(window)
    ranked = members.select("id", best.alias("best"), size.alias("size"), "whole")
    return ranked.where("id != best.id and id >= 0").select(
        "id", F.col("best.id").alias("kept"), "size", (F.col("whole") == F.col("best.whole")).alias("exact")
    )


def without(batches: Iterable[pa.RecordBatch], removed: dict[int, dict], statistics: Statistics) -> Iterator[pa.RecordBatch]:
    """Drop duplicates.

    Args:
        batches: Batches of `rows.DOCUMENT`.
        removed: Document id -> its row of `later`.
        statistics: Counts the dropped documents.
    """
    for batch in batches:
        numbers = batch["id"].to_pylist()
        keep = [number not in removed for number in numbers]
        for i, number in enumerate(numbers):
            if row := removed.get(number):
                kind = "copy" if row["exact"] else "near-duplicate"
                statistics.drop(
                    f"{kind} of an earlier corpus" if row["kept"] < 0 else kind, batch["origin"][i].as_py(), batch["text"][i].as_py()
                )
                statistics.distributions["documents in a cluster"][str(row["size"])] += 1
        yield batch.filter(pa.array(keep))


def _tokens(batch: pa.RecordBatch, texts: list[str], config: DuplicateConfig) -> tokens.Tokens:
    chinese = [language == "zh" for language in batch["language"].to_pylist()] if config.simplify_chinese else ()
    return tokens.tokens(texts, chinese)


def _window(*columns: str) -> Any:
    from pyspark.sql import Window

    return Window.partitionBy(*columns)


def _large_star(links: spark.DataFrame) -> spark.DataFrame:
    """Link the larger neighbors of every node to the smallest of its neighbors and itself."""
    from pyspark.sql import functions as F

    both = links.union(links.select(F.col("v").alias("u"), F.col("u").alias("v")))
    least = F.least(F.min("v").over(_window("u")), F.col("u"))
    return (
        both.select("u", "v", least.alias("m"))
        .where("v > u")
        .select(F.col("v").alias("u"), F.col("m").alias("v"))
        .where("u != v")
        .distinct()
    )


def _small_star(links: spark.DataFrame) -> spark.DataFrame:
    """Link every node and its smaller neighbors to the smallest of them."""
    from pyspark.sql import functions as F

    least = links.select("u", "v", F.min("v").over(_window("u")).alias("m"))
    smaller = least.where("v != m").select(F.col("v").alias("u"), F.col("m").alias("v"))
    return smaller.union(least.select("u", F.col("m").alias("v"))).distinct()
