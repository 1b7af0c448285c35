"""Paragraph deduplication: of a paragraph that occurs in several documents of a language, the first occurrence by document id is kept.

Three steps: the paragraphs of every partition are hashed, Spark groups equal ones, and every partition removes the later ones. Source:
report, section 2, "paragraph-level deduplication"; the normalization is CCNet's (Wenzek et al., 2020): case, values of digits, spaces and
punctuation are ignored; our choice: so is the script (traditional or simplified) of Chinese. A paragraph is a line.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from teleflm_jax.corpus import rows, spark, tokens
from teleflm_jax.corpus.config import CODE, ParagraphConfig
from teleflm_jax.documents.statistics import Statistics

HASHES = pa.schema({"language": pa.string(), "hash": pa.int64(), "id": pa.int64(), "line": pa.int32()})
_FACTOR = 0x9E3779B97F4A7C15
_ZERO, _LINE_END = ord("0"), ord("\n")


def hashes(batches: Iterable[pa.RecordBatch], *, config: ParagraphConfig) -> Iterator[pa.RecordBatch]:
    """Hash the paragraphs of all documents except code and exempt domains, as batches of HASHES."""
    for batch in batches:
        chosen = [
            i
            for i, (language, domain) in enumerate(zip(batch["language"].to_pylist(), batch["domain"].to_pylist(), strict=True))
            if language != CODE and domain not in config.exempt_domains
        ]
        if not chosen:
            continue
        batch = batch.take(pa.array(chosen))
        simplified = [config.simplify_chinese and language == "zh" for language in batch["language"].to_pylist()]
        found, owners, lines = lines_of(batch["text"].to_pylist(), config.min_characters, simplified)
        yield pa.record_batch(
            [
                batch["language"].take(pa.array(owners)),
                pa.array(found.view(np.int64)),
                batch["id"].take(pa.array(owners)),
                pa.array(lines, pa.int32()),
            ],
            schema=HASHES,
        )


def lines_of(texts: Sequence[str], min_characters: int, simplified: Sequence[bool] = ()) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash lines by their letters and digits, all digits alike.

    Args:
        texts: Texts of a batch.
        min_characters: Minimum letters and digits of a line, those of unspaced scripts counting three times.
        simplified: For each text, True to simplify its Han characters; () simplifies none.

    Returns:
        For each line of sufficient length: uint64 hash, int64 index of the text, and int64 index of the line in the text.
    """
    points, borders = tokens.code_points([text.lower() + "\n" for text in texts])
    points = tokens.in_one_script(points, borders, simplified)
    line_ends = points == _LINE_END
    numbers = np.cumsum(line_ends) - line_ends
    kinds = tokens.classes()[points]
    kept = np.flatnonzero(kinds)
    line_of = numbers[kept]
    weights = np.bincount(line_of, np.where(kinds[kept] == tokens.SINGLE, 3, 1), minlength=int(line_ends.sum()))
    counts = np.bincount(line_of, minlength=int(line_ends.sum()))
    filled = np.flatnonzero(counts)
    ends = np.cumsum(counts[filled])
    found = tokens.runs(_values()[points[kept]], ends - counts[filled], ends, _FACTOR)
    good = weights[filled] >= min_characters
    first_lines = numbers[borders[1:] - 1] + 1  # lines up to the end of each text
    firsts = np.concatenate([[0], first_lines[:-1]]) if len(texts) else np.empty(0, np.int64)
    chosen = filled[good]
    owners = np.searchsorted(first_lines, chosen, side="right")
    return found[good], owners, chosen - firsts[owners]


def later(hashes: spark.DataFrame) -> spark.DataFrame:
    """Find the repeated paragraphs in a table of HASHES, except in reference corpora: columns `id`, `line`."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    window = Window.partitionBy("language", "hash").orderBy("id", "line")
    return hashes.withColumn("place", F.row_number().over(window)).where("place > 1 and id >= 0").select("id", "line")


def without(
    batches: Iterable[pa.RecordBatch], later: Mapping[int, Sequence[int]], statistics: Statistics, *, config: ParagraphConfig
) -> Iterator[pa.RecordBatch]:
    """Remove repeated paragraphs, and drop documents that keep too little text.

    Args:
        batches: Batches of `rows.DOCUMENT`.
        later: Document id -> indices of its repeated lines.
        statistics: Counts removed paragraphs and dropped documents.
        config: Settings, among them the share that must remain.
    """
    for batch in batches:
        texts: list[str] = batch["text"].to_pylist()
        kept: list[str | None] = [*texts]
        for i, (number, origin) in enumerate(zip(batch["id"].to_pylist(), batch["origin"].to_pylist(), strict=True)):
            removed = frozenset(later.get(number, ()))
            if not removed:
                continue
            lines = texts[i].split("\n")
            for line in sorted(removed):
                statistics.change("repeated paragraph", origin, lines[line])
            left = "\n".join(line for j, line in enumerate(lines) if j not in removed).strip("\n")
            if len(left.encode()) < config.min_left * len(texts[i].encode()) or not left.strip():
                statistics.drop("mostly repeated paragraphs", origin, texts[i])
                kept[i] = None
            else:
                kept[i] = left
        yield rows.with_text(batch, kept)


@functools.cache
def _values() -> np.ndarray:
    """Return the hash value of every code point, with one value for all digits: uint64 [0x110000]."""
    values = tokens.mixed().copy()
    values[_ZERO : _ZERO + 10] = values[_ZERO]
    return values
