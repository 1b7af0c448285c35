"""Training sample of the tokenizer: documents of the sets, drawn by their proportions, and the counts of their words.

    words/draw/part-*.parquet      number of documents of a partition by set and hash
    words/hashes/*.parquet         the same for all partitions
    words/counts/part-*.parquet    word counts of a partition's drawn documents
    words/all/*.parquet            each word once; the tokenizer's training data (tokenizer/merges.py)

A document is hashed by its text, so the sample depends neither on partitions nor on order. Families that packing may hold out are left out,
so that bits per byte on those stay independent of the tokenizer's training. Source: report, section 3.2 (12 M samples).
"""

import collections
import dataclasses
import functools
import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from teleflm_jax.corpus import spark
from teleflm_jax.corpus.output import mix
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.corpus.stages.run import CorpusRun, CorpusSettings
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.packing import heldout
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import patterns, words
from teleflm_jax.tokenizer.config import TokenizerConfig

FOLDER = "words"
HASH_BITS = 16
"""Resolution of the sample: it is drawn in steps of 1/65,536 of a set."""
HASHES = pa.schema({"set": pa.string(), "hash": pa.int32(), "documents": pa.int64(), "bytes": pa.int64()})


def depends_on(settings: CorpusSettings) -> list:
    """Return the settings that the sample depends on, besides the documents."""
    mixed, pack = settings.mix, settings.pack
    own = {name: value for name, value in dataclasses.asdict(settings.tokenizer).items() if name not in ("vocab_size", "pattern")}
    return [own, patterns.PATTERNS[settings.tokenizer.pattern], mixed.proportions, mixed.min_word_count, pack.seed, pack.heldout_fraction]


def make(run: CorpusRun) -> None:
    """Run the stage."""
    source, folder, own = run.folder(mix.FOLDER), run.folder(FOLDER), run.settings
    common = {"source": source, "config": own.tokenizer, "pack": own.pack}
    draw, counts = folder / "draw", folder / "counts"
    run.for_each_partition("tokenizer: draw", draw, functools.partial(draw_partition, folder=draw, **common))
    run.make_table("tokenizer: hashes", folder / "hashes", lambda: summed(run.load_table(draw), ["set", "hash"], ["documents", "bytes"]))
    weights, _ = mix.proportions(sets(source), own.mix)
    below = limits(pq.read_table(folder / "hashes"), weights, own.tokenizer)
    counts.mkdir(exist_ok=True)
    run.for_each_partition("tokenizer: count", folder, functools.partial(count_partition, folder=folder, below=below, **common))
    least = f"count >= {own.mix.min_word_count}"
    run.make_table("tokenizer: add up", folder / "all", lambda: summed(run.load_table(counts), ["word"], ["count"]).where(least))


def sets(source: pathlib.Path) -> list[str]:
    """Return the names of the sets that have documents."""
    return sorted(path.name for path in source.iterdir() if path.is_dir())


def text_hash(encoded: bytes, name: str, seed: int) -> int:
    """Hash a document of a set to [0, 2^HASH_BITS)."""
    salt = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=16).digest()
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8, key=salt).digest(), "big") >> 64 - HASH_BITS


def draw_partition(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: TokenizerConfig, pack: PackConfig) -> None:
    """Write the number of documents and bytes of a partition by set and hash, as HASHES."""
    found: dict[tuple[str, int], list[int]] = collections.defaultdict(lambda: [0, 0])
    for name in sets(source):
        for encoded in _trainable(source, name, number, pack, Statistics()):
            amount = found[name, text_hash(encoded, name, config.seed)]
            amount[0] += 1
            amount[1] += len(encoded)
    rows = [{"set": name, "hash": value, "documents": n, "bytes": size} for (name, value), (n, size) in sorted(found.items())]
    partitions.write(folder, number, [pa.RecordBatch.from_pylist(rows, HASHES)], HASHES, Statistics())


def summed(table: spark.DataFrame, keys: Sequence[str], values: Sequence[str]) -> spark.DataFrame:
    """Sum the values of equal keys of a Spark table."""
    return table.groupBy(*keys).sum(*values).selectExpr(*keys, *(f"`sum({value})` as {value}" for value in values))


def limits(table: pa.Table, weights: Mapping[str, float], config: TokenizerConfig) -> dict[str, int]:
    """Divide `sample_documents` and `sample_bytes` by the sets' weights.

    Args:
        table: HASHES of all partitions.
        weights: Set -> sampling weight.
        config: Settings with the size of the sample.

    Returns:
        Set -> hash below which documents are in the sample: as many as fit, and at least those of one hash value.
    """
    total = sum(weights.values())
    chosen = {}
    for name, weight in weights.items():
        rows = table.filter(pyarrow.compute.equal(table["set"], name)).sort_by("hash")
        documents_, sizes = (np.cumsum(rows[column].to_numpy()) for column in ("documents", "bytes"))
        share = weight / total
        fits = (documents_ <= max(1, round(config.sample_documents * share))) & (sizes <= config.sample_bytes * share)
        kept = rows["hash"].to_numpy()[: max(1, int(fits.sum()))]
        chosen[name] = 1 << HASH_BITS if fits.all() else int(kept[-1]) + 1
    return chosen


def count_partition(
    number: int, *, source: pathlib.Path, folder: pathlib.Path, below: Mapping[str, int], config: TokenizerConfig, pack: PackConfig
) -> None:
    """Write the word counts of a partition's documents in the sample, as `words.COUNTS`, and the statistics."""
    statistics = Statistics()

    def texts() -> Iterator[str]:
        for name, limit in sorted(below.items()):
            for encoded in _trainable(source, name, number, pack, statistics):
                if text_hash(encoded, name, config.seed) < limit:
                    statistics.out[name].add(1, len(encoded))
                    yield encoded.decode()
                else:
                    statistics.drop("beyond tokenizer.sample_documents or tokenizer.sample_bytes", name, encoded)

    partitions.write(folder / "counts", number, words.count(texts(), pattern=patterns.PATTERNS[config.pattern]), words.COUNTS, Statistics())
    partitions.write_statistics(folder, number, statistics)


def _trainable(source: pathlib.Path, name: str, number: int, pack: PackConfig, statistics: Statistics) -> Iterator[bytes]:
    """Yield the documents of a set's partition that packing never holds out, as UTF-8."""
    path = source / name / f"part-{number:06d}.parquet"
    if not path.exists():
        return
    file_range = work_units.FileRange(path.name, 0, None, path.stat().st_size)
    malformed = Statistics()
    for document in work_units.read(work_units.WorkUnit(str(path.parent), (file_range,)), malformed):
        encoded = document.text.encode()
        statistics.into.add(1, len(encoded))
        if heldout.may_be_held_out(document.family, pack.heldout_fraction, pack.seed):
            statistics.drop("may be held out", name, encoded)
        else:
            yield encoded
    statistics.add(malformed)
