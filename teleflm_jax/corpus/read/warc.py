"""Web crawls: WARC files of responses and WET files of text, plain or compressed by gzip, zstd or LZ4.

Source: ISO 28500; Common Crawl's files.
"""

import io
import os
from collections.abc import Iterator

from fastwarc.stream_io import BrotliReader, ChunkedReader, GzipReader, ZstdReader
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from teleflm_jax.corpus import documents, streams
from teleflm_jax.corpus.read import LONGEST, Found, records
from teleflm_jax.corpus.tally import Tally

HTML = ("text/html", "application/xhtml+xml")
ROOM = 1 << 20
"""Bytes of a record besides its page."""
MAX_CODINGS = 4
"""Encodings of a body inside one another."""
WANTED = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion


def read(path: str, piece: documents.Piece, tally: Tally) -> Iterator[Found]:
    """Yield pages that a server answered with, and texts of WET records."""
    size = None if piece.compression else os.path.getsize(path)
    for one in records.records(streams.chunks(path, piece.compression), LONGEST + ROOM, size):
        if isinstance(one, streams.Gap):
            tally.drop(one.reason, piece.path, "", one.size)
            continue
        place = f"{piece.path}@{one.offset}"
        try:
            record = next(iter(ArchiveIterator(io.BytesIO(one.data), record_types=WANTED, parse_http=False)), None)
            found = _page(record, place, tally) if record else None
        except OSError:
            tally.drop(streams.DAMAGED, place, "", len(one.data))
            continue
        if found:
            yield found


def _page(record: WarcRecord, place: str, tally: Tally) -> Found | None:
    address = record.headers.get("WARC-Target-URI", place)
    date = record.headers.get("WARC-Date", "")
    try:
        record.parse_http()  # the archive's own reader can do it, as it can decode bodies, but goes no further after one that is damaged
    except OSError:
        tally.drop("HTTP headers that cannot be read", address, "")
        return None
    if record.record_type == WarcRecordType.conversion:
        kind, charset = "text/plain", "utf-8"
    elif record.is_http:
        status = record.http_headers.status_code
        if status not in (None, 200):
            tally.drop(f"HTTP status {status}", address, "")
            return None
        kind, charset = record.http_content_type or HTML[0], record.http_charset or ""
    else:
        kind, charset = record.headers.get("Content-Type", "").partition(";")[0].strip(), ""
    if kind.lower() not in (*HTML, "text/plain"):
        tally.drop("neither HTML nor text", address, kind)
        return None
    content = record.reader.read(LONGEST + 1)
    if len(content) < min(record.content_length, LONGEST + 1):
        tally.drop("truncated or damaged file", address, content)
        return None
    if record.is_http and len(content) <= LONGEST:
        try:
            content = _decoded(content, record)
        except OSError:
            tally.drop("HTTP body that cannot be decoded", address, content)
            return None
    return Found("html" if kind.lower() in HTML else "text", address, content, date=date, charset=charset)


def _decoded(content: bytes, record: WarcRecord) -> bytes:
    """A body without its HTTP encodings."""
    codings = [
        coding.strip()
        for name in ("Content-Encoding", "Transfer-Encoding")
        for coding in record.http_headers.get(name, "").lower().split(",")
    ]
    known = [coding for coding in codings if coding in ("gzip", "x-gzip", "deflate", "br", "zstd", "chunked")]
    if len(known) > MAX_CODINGS:
        raise OSError("more encodings than anybody uses")
    stream = io.BytesIO(content)
    for coding in reversed(known):
        if coding == "deflate":
            stream = GzipReader(stream, zlib=True)
        else:
            stream = {"br": BrotliReader, "zstd": ZstdReader, "chunked": ChunkedReader}.get(coding, GzipReader)(stream)
    return stream.read(LONGEST + 1)
