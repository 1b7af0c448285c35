"""Web crawls: WARC files of responses and WET files of text, plain or compressed by gzip, zstd or LZ4.

Source: ISO 28500; Common Crawl's files.
"""

from collections.abc import Iterator

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from teleflm_jax.corpus import documents
from teleflm_jax.corpus.read import LONGEST, Found
from teleflm_jax.corpus.tally import Tally

HTML = ("text/html", "application/xhtml+xml")
WANTED = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion


def read(path: str, piece: documents.Piece, tally: Tally) -> Iterator[Found]:
    """Yield pages that a server answered with, and texts of WET records."""
    records = iter(ArchiveIterator(path, record_types=WANTED, auto_decode="all", fsspec_args=False))
    while True:
        try:
            record = next(records, None)
            found = _page(record, piece.path, tally) if record else None
        except OSError:
            tally.drop("truncated or damaged file", piece.path, "")
            return
        if record is None:
            return
        if found:
            yield found


def _page(record: WarcRecord, path: str, tally: Tally) -> Found | None:
    address = record.headers.get("WARC-Target-URI", f"{path}@{record.stream_pos}")
    date = record.headers.get("WARC-Date", "")
    if record.record_type == WarcRecordType.conversion:
        return Found("text", address, record.reader.read(LONGEST + 1), date=date, charset="utf-8")
    if record.is_http:
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
    return Found("html" if kind.lower() in HTML else "text", address, record.reader.read(LONGEST + 1), date=date, charset=charset)
