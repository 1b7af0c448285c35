"""Schemas and Arrow record batches of the documents in the corpus pipeline: raw documents from readers, and text.

The id of a document encodes its position: `id >> ROW_BITS` is its partition, the remaining bits its index in the partition. Partitions are
numbered in the order of `corpus.sources`, so of two documents the one with the lower id comes from the source that is listed first.
"""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

ROW_BITS = 32
RAW_DOCUMENT = pa.schema(
    {
        "id": pa.int64(),
        "kind": pa.string(),  # html, text or code
        "origin": pa.string(),  # URL, or path and position inside the file
        "family": pa.string(),
        "date": pa.string(),
        "charset": pa.string(),  # as declared by the server or the file; empty if not declared
        "content": pa.binary(),
    }
)
"""Schema of the output of readers."""
DOCUMENT = pa.schema(
    {
        "id": pa.int64(),
        "domain": pa.string(),
        "source": pa.string(),
        "origin": pa.string(),
        "family": pa.string(),
        "date": pa.string(),
        "language": pa.string(),  # ISO 639-1, `code`, or empty before detection
        "quality": pa.float32(),  # null before scoring
        "text": pa.string(),
    }
)
"""Schema of the input and output of every later stage."""
BATCH_ROWS = 1024
BATCH_BYTES = 1 << 20
"""Target size of a batch: large enough for numpy to be efficient, small enough for its intermediates to stay in the CPU caches."""


def batches(rows: Iterable[tuple], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Group rows into batches of bounded size; the last value of a row is the long one."""
    held: list[tuple] = []
    size = 0
    for row in rows:
        held.append(row)
        size += len(row[-1])
        if size >= BATCH_BYTES or len(held) == BATCH_ROWS:
            yield _batch(held, schema)
            held, size = [], 0
    if held:
        yield _batch(held, schema)


def with_text(batch: pa.RecordBatch, texts: Sequence[str | None], **columns: Sequence) -> pa.RecordBatch:
    """Replace the texts and other columns of a batch of documents; rows whose text is None are removed."""
    for name, values in (columns | {"text": texts}).items():
        at = DOCUMENT.get_field_index(name)
        batch = batch.set_column(at, DOCUMENT.field(at), pa.array(values, DOCUMENT.field(at).type))
    if None in texts:
        batch = batch.filter(pa.array([text is not None for text in texts]))
    return batch


def _batch(rows: list[tuple], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema)
