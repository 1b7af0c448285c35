"""The tokenizer's training sample: documents of the sets, drawn by their proportions, and their words, counted.

    words/draw/part-*.parquet      how many documents a part has by set and hash
    words/hashes/*.parquet         the same of all parts
    words/counts/part-*.parquet    words of a part's drawn documents
    words/all/*.parquet            each word once; what the tokenizer is trained on (tokenizer/merges.py)

A document's hash is that of its text, so the sample depends neither on parts nor on order. Families that packing may hold out stay out:
bits per byte on those shall owe the tokenizer nothing. Source: report, section 3.2 (12 M samples).
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

from teleflm_jax.corpus.output import mix
from teleflm_jax.corpus.stages import parts
from teleflm_jax.corpus.stages.run import Run, Settings
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Tally
from teleflm_jax.packing import heldout
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import patterns, words
from teleflm_jax.tokenizer.config import TokenizerConfig

FOLDER = "words"
HASH_BITS = 16
"""A set's sample is drawn in steps of 1/65,536 of it."""
HASHES = pa.schema({"set": pa.string(), "hash": pa.int32(), "documents": pa.int64(), "bytes": pa.int64()})


def depends_on(settings: Settings) -> list:
    """What the sample depends on beside documents."""
    mixed, pack = settings.mix, settings.pack
    own = {name: value for name, value in dataclasses.asdict(settings.tokenizer).items() if name not in ("vocab_size", "pattern")}
    return [own, patterns.PATTERNS[settings.tokenizer.pattern], mixed.proportions, mixed.min_word_count, pack.seed, pack.heldout_fraction]


def make(run: Run) -> None:
    """Make the stage."""
    source, folder, own = run.folder(mix.FOLDER), run.folder(FOLDER), run.settings
    common = {"source": source, "config": own.tokenizer, "pack": own.pack}
    draw, counts = folder / "draw", folder / "counts"
    run.each("tokenizer: draw", draw, functools.partial(draw_part, folder=draw, **common))
    run.table("tokenizer: hashes", folder / "hashes", lambda: added_up(run.load(draw), ["set", "hash"], ["documents", "bytes"]))
    weights, _ = mix.proportions(sets(source), own.mix)
    below = limits(pq.read_table(folder / "hashes"), weights, own.tokenizer)
    counts.mkdir(exist_ok=True)
    run.each("tokenizer: count", folder, functools.partial(count_part, folder=folder, below=below, **common))
    least = f"count >= {own.mix.min_word_count}"
    run.table("tokenizer: add up", folder / "all", lambda: added_up(run.load(counts), ["word"], ["count"]).where(least))


def sets(source: pathlib.Path) -> list[str]:
    """Name the sets that have documents."""
    return sorted(path.name for path in source.iterdir() if path.is_dir())


def text_hash(encoded: bytes, name: str, seed: int) -> int:
    """Hash a document of a set, to [0, 2^HASH_BITS)."""
    salt = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=16).digest()
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8, key=salt).digest(), "big") >> 64 - HASH_BITS


def draw_part(number: int, *, source: pathlib.Path, folder: pathlib.Path, config: TokenizerConfig, pack: PackConfig) -> None:
    """Write how many documents of a part, and bytes, have which hash: a part of HASHES."""
    found: dict[tuple[str, int], list[int]] = collections.defaultdict(lambda: [0, 0])
    for name in sets(source):
        for encoded in _trainable(source, name, number, pack, Tally()):
            amount = found[name, text_hash(encoded, name, config.seed)]
            amount[0] += 1
            amount[1] += len(encoded)
    rows = [{"set": name, "hash": value, "documents": n, "bytes": size} for (name, value), (n, size) in sorted(found.items())]
    parts.write(folder, number, [pa.RecordBatch.from_pylist(rows, HASHES)], HASHES, Tally())


def added_up(table, keys: Sequence[str], values: Sequence[str]):
    """Add up the values of equal keys of Spark's table."""
    return table.groupBy(*keys).sum(*values).selectExpr(*keys, *(f"`sum({value})` as {value}" for value in values))


def limits(table: pa.Table, weights: Mapping[str, float], config: TokenizerConfig) -> dict[str, int]:
    """Share `sample_documents` and `sample_bytes` out by the sets' weights.

    Args:
        table: HASHES of all parts.
        weights: set -> sampling weight.
        config: how much.

    Returns:
        Set -> hash below which documents are in the sample: as many as fit, and at least those of one hash.
    """
    total = sum(weights.values())
    chosen = {}
    for name, weight in weights.items():
        there = table.filter(pyarrow.compute.equal(table["set"], name)).sort_by("hash")
        documents_, sizes = (np.cumsum(there[column].to_numpy()) for column in ("documents", "bytes"))
        share = weight / total
        fits = (documents_ <= max(1, round(config.sample_documents * share))) & (sizes <= config.sample_bytes * share)
        kept = there["hash"].to_numpy()[: max(1, int(fits.sum()))]
        chosen[name] = 1 << HASH_BITS if fits.all() else int(kept[-1]) + 1
    return chosen


def count_part(
    number: int, *, source: pathlib.Path, folder: pathlib.Path, below: Mapping[str, int], config: TokenizerConfig, pack: PackConfig
) -> None:
    """Count the words of a part's documents that are in the sample: a part of `words.COUNTS`, and the tally."""
    tally = Tally()

    def texts() -> Iterator[str]:
        for name, limit in sorted(below.items()):
            for encoded in _trainable(source, name, number, pack, tally):
                if text_hash(encoded, name, config.seed) < limit:
                    tally.out[name].add(1, len(encoded))
                    yield encoded.decode()
                else:
                    tally.drop("beyond tokenizer.sample_documents or tokenizer.sample_bytes", name, encoded)

    parts.write(folder / "counts", number, words.count(texts(), pattern=patterns.PATTERNS[config.pattern]), words.COUNTS, Tally())
    parts.write_tally(folder, number, tally)


def _trainable(source: pathlib.Path, name: str, number: int, pack: PackConfig, tally: Tally) -> Iterator[bytes]:
    """Read the documents of a part of a set that packing surely leaves to training, as UTF-8."""
    path = source / name / f"part-{number:06d}.parquet"
    if not path.exists():
        return
    piece = work_units.Piece(path.name, 0, None, path.stat().st_size)
    malformed = Tally()
    for document in work_units.read(work_units.Unit(str(path.parent), (piece,)), malformed):
        encoded = document.text.encode()
        tally.into.add(1, len(encoded))
        if heldout.is_apart(document.family, pack.heldout_fraction, pack.seed):
            tally.drop("may be held out", name, encoded)
        else:
            yield encoded
    tally.add(malformed)
