"""Splitting of text into words, which pieces do not cross, and counting of words in bounded memory."""

import collections
import hashlib
import os
import re
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
from tokenizers import pre_tokenizers

from teleflm_jax.tokenizer import patterns

COUNTS = pa.schema({"word": pa.string(), "count": pa.int64()})
SEGMENT = 1 << 16
"""Characters that are split into words at a time: each word takes about 200 bytes until it is counted."""
LONGEST = 1 << 18
"""Maximum characters of a segment: text without a safe place to cut, which people do not write, is cut there, even inside a word."""
BATCH_CHARACTERS = 1 << 24
"""Characters of text whose counts are held at a time."""
_SAFE = re.compile(r"(?<=\n)(?=\S)|(?<=\S)(?= )")
"""Places that no alternative of a pattern matches or looks across: a line end before a letter, and a letter before a space."""


def splitter(pattern: str = patterns.TELEFLM) -> pre_tokenizers.Split:
    """Return the library's pre-tokenizer that splits text into words."""
    return pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")


def count(texts: Iterable[str], *, pattern: str = patterns.TELEFLM, characters: int = BATCH_CHARACTERS) -> Iterator[pa.RecordBatch]:
    """Yield word counts as batches of COUNTS, one for every `characters` of text; a word may be in several batches.

    Words do not cross documents. Texts must be valid Unicode: a lone surrogate raises.
    """
    cut = splitter(pattern)
    found: collections.Counter[str] = collections.Counter()
    held = 0
    for text in texts:
        for segment in segments(text):
            found.update(word for word, _ in cut.pre_tokenize_str(segment))
            held += len(segment)
            if held >= characters:
                yield _batch(found)
                found.clear()
                held = 0
    if found:
        yield _batch(found)


def gather(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Sum batches of COUNTS into a table with each word once, in no particular order."""
    found, waiting, held = COUNTS.empty_table(), [], 0
    for batch in batches:
        waiting.append(batch)
        held += batch.num_rows
        if held > len(found):  # bounds the rows in memory to twice the distinct words, and copies each word only a few times
            found, waiting, held = _summed(found, waiting), [], 0
    return _summed(found, waiting)


def _summed(found: pa.Table, batches: list[pa.RecordBatch]) -> pa.Table:
    wide = pa.schema({"word": pa.large_string(), "count": pa.int64()})  # an array of `string` holds at most 2 GB
    joined = pa.concat_tables([found.cast(wide), pa.Table.from_batches(batches, COUNTS).cast(wide)])
    return joined.group_by("word").aggregate([("count", "sum")]).rename_columns(["word", "count"])


def load(folder: str | os.PathLike) -> pa.Table:
    """Read a folder of COUNTS, sorted by word, so that the order does not depend on the number of files."""
    found = pq.read_table(folder, schema=COUNTS)
    found = found.set_column(0, "word", found["word"].cast(pa.large_string()))
    return found.sort_by("word").combine_chunks()


def digest(found: pa.Table) -> str:
    """Return a hash of words and counts as returned by `load`."""
    hashed = hashlib.blake2b(digest_size=16)
    for column in found.itercolumns():
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                hashed.update(buffer or b"")
    return hashed.hexdigest()


def segments(text: str, length: int = SEGMENT, longest: int = LONGEST) -> Iterator[str]:
    """Split a text into segments without changing its words: at the first safe place after `length` characters, at most at `longest`."""
    start = 0
    while len(text) - start > length:
        safe = _SAFE.search(text, start + length, start + longest)
        end = safe.start() if safe else start + longest
        yield text[start:end]
        start = end
    if start < len(text):
        yield text[start:]


def _batch(found: collections.Counter[str]) -> pa.RecordBatch:
    return pa.record_batch([pa.array(found.keys(), pa.string()), pa.array(found.values(), pa.int64())], schema=COUNTS)
