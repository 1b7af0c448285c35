"""Reader of web crawls: WARC and ARC files of responses and WET files of text, compressed or not.

Source: ISO 28500; files of Common Crawl.
"""

import io
import os
import re
from collections.abc import Iterator

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from teleflm_jax.corpus.read import LONGEST, RawDocument, content_encoding, warc_records
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Statistics

HTML = ("text/html", "application/xhtml+xml")
ROOM = 1 << 20
"""Maximum bytes of a record in addition to its page."""
ENCODINGS = ("content-encoding", "transfer-encoding")
_TYPE = re.compile(r"\s*([^\s;,]*)(?:.*?charset\s*=[\s\"']*([A-Za-z0-9_:.-]+))?", re.IGNORECASE)
"""Media type and character set, also if the server omits the semicolon or repeats both."""
WANTED = WarcRecordType.response | WarcRecordType.resource | WarcRecordType.conversion


def read(path: str, file_range: work_units.FileRange, statistics: Statistics) -> Iterator[RawDocument]:
    """Yield the pages of responses, and the texts of WET records."""
    size = None if file_range.compression else os.path.getsize(path)
    form = warc_records.ARC if file_range.kind == "arc" else warc_records.WARC
    for one in warc_records.records(streams.chunks(path, file_range.compression), form, LONGEST + ROOM, size):
        if isinstance(one, streams.DamagedSpan):
            statistics.drop(one.reason, file_range.path, "", one.size)
            continue
        place = f"{file_range.path}@{one.offset}"
        try:
            data = _as_warc(one.data) if file_range.kind == "arc" else one.data
            record = next(iter(ArchiveIterator(io.BytesIO(data), record_types=WANTED, parse_http=False)), None)
            found = _page(record, place, statistics) if record else None
        except OSError:
            statistics.drop(streams.DAMAGED, place, "", len(one.data))
            continue
        if found:
            yield found


def _as_warc(record: bytes) -> bytes:
    """Write an ARC record as one of WARC; records that no web server answered, such as DNS records, become ones that readers skip."""
    line, _, content = record.partition(b"\n")
    address, _, date, *_ = line.split(b" ")
    moment = b"%s-%s-%sT%s:%s:%sZ" % (date[:4], date[4:6], date[6:8], *(date[i : i + 2] or b"00" for i in (8, 10, 12)))
    kind = b"response" if content.startswith(b"HTTP/") else b"metadata"
    length = int(line.split(b" ")[-1])
    headers = b"WARC-Type: %s\r\nWARC-Target-URI: %s\r\nWARC-Date: %s\r\n" % (kind, address, moment)
    return b"WARC/1.0\r\n%sContent-Type: application/http; msgtype=response\r\nContent-Length: %d\r\n\r\n%s" % (headers, length, content)


def _type(header: str) -> tuple[str, str]:
    found = _TYPE.match(header)
    assert found is not None  # it matches nothing as well
    return found[1].lower(), (found[2] or "").lower()


def _header(record: WarcRecord, name: str, default: str) -> str:
    value = record.headers.get(name)
    return default if value is None else value


def _page(record: WarcRecord, place: str, statistics: Statistics) -> RawDocument | None:
    address = _header(record, "WARC-Target-URI", place)
    date = _header(record, "WARC-Date", "")
    try:
        record.parse_http()  # the archive reader can parse headers and decode bodies itself, but stops after a damaged one
    except OSError:
        statistics.drop("HTTP headers that cannot be read", address, "")
        return None
    if record.record_type == WarcRecordType.conversion:
        kind, charset = "text/plain", "utf-8"
    elif record.is_http:
        status = record.http_headers.status_code
        if status not in (None, 200):
            statistics.drop(f"HTTP status {status}", address, "")
            return None
        kind, charset = _type(record.http_headers.get("Content-Type") or HTML[0])
    else:
        kind, charset = _type(_header(record, "Content-Type", ""))
    if kind not in (*HTML, "text/plain"):
        statistics.drop("neither HTML nor text", address, kind)
        return None
    content = record.reader.read(LONGEST + 1)
    if len(content) < min(record.content_length, LONGEST + 1):
        statistics.drop("truncated or damaged file", address, content)
        return None
    if record.is_http and len(content) <= LONGEST:
        try:
            named = (value for name, value in record.http_headers.items() if name.lower() in ENCODINGS)
            content = content_encoding.decoded(content, named, LONGEST)
        except OSError:
            statistics.drop("HTTP body that cannot be decoded", address, content)
            return None
    return RawDocument("html" if kind in HTML else "text", address, content, date=date, charset=charset)
