"""Paragraphs that stand in several documents of a language stay in one: in the first by number, and there in the first place.

Three steps: every part's paragraphs are hashed, Spark groups equal ones, and every part leaves out those that came later. Source: report,
section 2, "paragraph-level deduplication"; the normalisation is CCNet's (Wenzek et al., 2020): case, digits' values, spaces and punctuation
do not count; nor, our choice, in which of its two scripts Chinese is written. A paragraph is a line.
"""

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import CODE, ParagraphConfig
from teleflm_jax.documents.statistics import Tally

HASHES = pa.schema({"language": pa.string(), "hash": pa.int64(), "id": pa.int64(), "line": pa.int32()})
_FACTOR = 0x9E3779B97F4A7C15
_ZERO, _LINE_END = ord("0"), ord("\n")


def hashes(batches: Iterable[pa.RecordBatch], *, config: ParagraphConfig) -> Iterator[pa.RecordBatch]:
    """Hash the paragraphs of documents that are no code and whose domain takes part: batches of HASHES."""
    for batch in batches:
        taken = [
            i
            for i, (language, domain) in enumerate(zip(batch["language"].to_pylist(), batch["domain"].to_pylist(), strict=True))
            if language != CODE and domain not in config.exempt_domains
        ]
        if not taken:
            continue
        batch = batch.take(pa.array(taken))
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
        texts: of a batch.
        min_characters: a line counts from so many letters and digits on, those of unspaced scripts counting three times.
        simplified: says of each text whether its Han characters are taken in their simplified form; (): of none.

    Returns:
        uint64 hash, int64 number of the text, and int64 number of the line in it, of each line that counts.
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


def later(hashes):
    """Find the paragraphs that stood before, of Spark's table of HASHES: columns `id`, `line`; those of earlier corpora are not listed."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    window = Window.partitionBy("language", "hash").orderBy("id", "line")
    return hashes.withColumn("place", F.row_number().over(window)).where("place > 1 and id >= 0").select("id", "line")


def without(
    batches: Iterable[pa.RecordBatch], later: Mapping[int, Sequence[int]], tally: Tally, *, config: ParagraphConfig
) -> Iterator[pa.RecordBatch]:
    """Leave out paragraphs, and documents of which too little remains.

    Args:
        batches: of `rows.DOCUMENT`.
        later: document -> numbers of lines that stood in an earlier place.
        tally: counts both.
        config: how much must remain.
    """
    for batch in batches:
        texts: list[str] = batch["text"].to_pylist()
        kept: list[str | None] = [*texts]
        for i, (number, origin) in enumerate(zip(batch["id"].to_pylist(), batch["origin"].to_pylist(), strict=True)):
            gone = frozenset(later.get(number, ()))
            if not gone:
                continue
            lines = texts[i].split("\n")
            for line in sorted(gone):
                tally.change("repeated paragraph", origin, lines[line])
            left = "\n".join(line for j, line in enumerate(lines) if j not in gone).strip("\n")
            if len(left.encode()) < config.min_left * len(texts[i].encode()) or not left.strip():
                tally.drop("mostly repeated paragraphs", origin, texts[i])
                kept[i] = None
            else:
                kept[i] = left
        yield rows.with_text(batch, kept)


@functools.cache
def _values() -> np.ndarray:
    """uint64 [0x110000]: what a code point adds to a hash; all digits the same."""
    values = tokens.mixed().copy()
    values[_ZERO : _ZERO + 10] = values[_ZERO]
    return values
