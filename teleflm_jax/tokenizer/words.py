"""Cuts text into the words that pieces may not reach across, and counts them in bounded memory."""

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
STRETCH = 1 << 16
"""Characters that are cut into words at one time: each word takes some 200 bytes until it is counted."""
LONGEST = 1 << 18
"""A stretch without a safe place to cut, which text that people write does not have, is cut after so many characters, through a word."""
BATCH_CHARACTERS = 1 << 24
"""Of text whose counts are held at one time."""
_SAFE = re.compile(r"(?<=\n)(?=\S)|(?<=\S)(?= )")
"""No alternative of a pattern reaches across, or looks across, the end of a line before a letter, or a letter before a space."""


def splitter(pattern: str = patterns.TELEFLM) -> pre_tokenizers.Split:
    """The cut into words, of the library."""
    return pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")


def count(texts: Iterable[str], *, pattern: str = patterns.TELEFLM, characters: int = BATCH_CHARACTERS) -> Iterator[pa.RecordBatch]:
    """Count words: batches of COUNTS, one for every `characters` of text, so that a word may stand in several.

    A document ends a word. Texts must be Unicode: a lone surrogate raises.
    """
    cut = splitter(pattern)
    found: collections.Counter[str] = collections.Counter()
    held = 0
    for text in texts:
        for stretch in stretches(text):
            found.update(word for word, _ in cut.pre_tokenize_str(stretch))
            held += len(stretch)
            if held >= characters:
                yield _batch(found)
                found.clear()
                held = 0
    if found:
        yield _batch(found)


def gather(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """Add up batches of COUNTS: each word once, in no particular order."""
    found, waiting, held = COUNTS.empty_table(), [], 0
    for batch in batches:
        waiting.append(batch)
        held += batch.num_rows
        if held > len(found):  # so that no more than twice the distinct words are held, and each is moved only a few times
            found, waiting, held = _summed(found, waiting), [], 0
    return _summed(found, waiting)


def _summed(found: pa.Table, batches: list[pa.RecordBatch]) -> pa.Table:
    wide = pa.schema({"word": pa.large_string(), "count": pa.int64()})  # one array of strings holds 2 GB at most
    joined = pa.concat_tables([found.cast(wide), pa.Table.from_batches(batches, COUNTS).cast(wide)])
    return joined.group_by("word").aggregate([("count", "sum")]).rename_columns(["word", "count"])


def load(folder: str | os.PathLike) -> pa.Table:
    """Read a folder of COUNTS in the words' order, which no number of files changes."""
    found = pq.read_table(folder, schema=COUNTS)
    found = found.set_column(0, "word", found["word"].cast(pa.large_string()))
    return found.sort_by("word").combine_chunks()


def digest(found: pa.Table) -> str:
    """Hash words and counts, as `load` gives them."""
    hashed = hashlib.blake2b(digest_size=16)
    for column in found.itercolumns():
        for chunk in column.chunks:
            for buffer in chunk.buffers():
                hashed.update(buffer or b"")
    return hashed.hexdigest()


def stretches(text: str, length: int = STRETCH, longest: int = LONGEST) -> Iterator[str]:
    """Cut a text where that changes no word, behind `length` characters at the first safe place, at the latest behind `longest`."""
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
