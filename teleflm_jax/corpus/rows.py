"""Documents on their way through the corpus pipeline, as Arrow record batches: what readers find, and text.

A document's number says where it stands: `id >> ROW_BITS` is its part, the rest its place among what that held. Parts are numbered
in the order of `corpus.sources`, so of two documents the one with the lower number comes from the source that was named first.
"""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow as pa

ROW_BITS = 32
FOUND = pa.schema(
    {
        "id": pa.int64(),
        "kind": pa.string(),  # html, text or code
        "origin": pa.string(),  # address, or path and place inside it
        "family": pa.string(),
        "date": pa.string(),
        "charset": pa.string(),  # as the server or the file said it; empty if nobody did
        "content": pa.binary(),
    }
)
"""What a reader yields."""
DOCUMENT = pa.schema(
    {
        "id": pa.int64(),
        "domain": pa.string(),
        "source": pa.string(),
        "origin": pa.string(),
        "family": pa.string(),
        "date": pa.string(),
        "language": pa.string(),  # ISO 639-1, `code`, or empty before it is known
        "quality": pa.float32(),  # null before it is known
        "text": pa.string(),
    }
)
"""What every later stage takes and yields."""
BATCH_ROWS = 1024
BATCH_BYTES = 1 << 20
"""Enough for numpy to be worth its calls, little enough that what it makes of a batch stays in a processor's caches."""


def batches(rows: Iterable[tuple], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Group rows, whose last value is the long one, into batches of bounded size."""
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
    """Put other texts, and other columns, into a batch of documents; rows whose text is None are left out."""
    for name, values in (columns | {"text": texts}).items():
        at = DOCUMENT.get_field_index(name)
        batch = batch.set_column(at, DOCUMENT.field(at), pa.array(values, DOCUMENT.field(at).type))
    if None in texts:
        batch = batch.filter(pa.array([text is not None for text in texts]))
    return batch


def _batch(rows: list[tuple], schema: pa.Schema) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    return pa.record_batch([pa.array(values, field.type) for values, field in zip(columns, schema, strict=True)], schema=schema)
