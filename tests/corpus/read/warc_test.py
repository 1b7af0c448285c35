import bz2
import gzip
import io
import lzma
import os
import zlib

import pytest
import zstandard
from fastwarc.stream_io import BrotliWriter, GzipWriter, ZstdWriter
from fastwarc.warc import WarcRecord, WarcRecordType
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus import read
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Amount, Statistics

HTML = b"Content-Type: text/html; charset=iso-8859-1\r\n"
PAGE = b"<html><body><p>A page about harbours.</p></body></html>"
DAMAGED = "truncated or damaged file"


def record(body, kind="response", uri="http://a.example/", content_type="application/http; msgtype=response"):
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: {uri}\r\nWARC-Date: 2024-05-06T07:08:09Z\r\n"
    return f"{head}Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body + b"\r\n\r\n"


def response(body=PAGE, headers=HTML, status=b"200 OK", uri="http://a.example/"):
    return record(b"HTTP/1.1 " + status + b"\r\n" + headers + b"\r\n" + body, uri=uri)


def chunked(body):
    return b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n"


def brotli(body):
    kept = io.BytesIO()
    with BrotliWriter(kept) as writer:
        writer.write(body)
    return kept.getvalue()


def contents(found):
    return [row["content"] for row in found]


def test_a_page_comes_with_its_address_date_and_charset(gather):
    found, reasons = gather({"a.warc": response()})
    assert not reasons and len(found) == 1
    del found[0]["id"]
    assert found[0] == {
        "kind": "html",
        "origin": "http://a.example/",
        "family": "http://a.example/",
        "date": "2024-05-06T07:08:09Z",
        "charset": "iso-8859-1",
        "content": PAGE,
    }


def test_a_text_of_a_wet_file_is_text(gather):
    text = "Grüße aus der Straße".encode()
    for name in ("a.wet", "b.warc"):
        found, reasons = gather({name: record(text, "conversion", content_type="text/plain")})
        assert (found[0]["kind"], found[0]["charset"], found[0]["content"]) == ("text", "utf-8", text) and not reasons


@pytest.mark.parametrize(("ending", "writer"), [("gz", GzipWriter), ("zst", ZstdWriter)])
def test_what_another_program_wrote_compressed_is_read(gather, ending, writer):
    buffer = io.BytesIO()
    with writer(buffer) as out:
        for number in range(3):
            one = WarcRecord()
            one.init_headers(record_type=WarcRecordType.response)
            one.headers["WARC-Target-URI"] = f"http://a.example/{number}"
            one.headers["Content-Type"] = "application/http; msgtype=response"
            one.set_bytes_content(b"HTTP/1.1 200 OK\r\n" + HTML + b"\r\n" + PAGE)
            one.write(out)
    found, reasons = gather({f"a.warc.{ending}": buffer.getvalue()})
    assert [row["origin"] for row in found] == [f"http://a.example/{i}" for i in range(3)] and not reasons
    assert contents(found) == [PAGE] * 3


def test_what_is_no_page_is_counted_by_its_reason(gather):
    records = [
        response(status=b"404 Not Found"),
        response(status=b"301 Moved"),
        response(b"%PDF-1.4", b"Content-Type: application/pdf\r\n"),
        response(b"a", b"Content-Type: \xff\xfe\r\n"),
        record(b"a picture", "resource", content_type="image/png"),
        response(b" \n "),
        record(b"GET / HTTP/1.1\r\n\r\n", "request"),
        record(b"software: a crawler", "warcinfo", content_type="application/warc-fields"),
        response(uri="http://last.example/"),
    ]
    found, reasons = gather({"a.warc": b"".join(records)})
    assert [row["origin"] for row in found] == ["http://last.example/"]
    assert reasons == {"HTTP status 404": 1, "HTTP status 301": 1, "neither HTML nor text": 3, "empty": 1}


@pytest.mark.parametrize(
    "content_type",
    [
        *('text/html; charset="GBK"', "text/html;charset = 'gbk'", "TEXT/HTML;CHARSET=GBK; x=1", "text/html charset=gbk"),
        *(
            "text/html; charset=gbk, text/html; charset=utf-8",
            "text/html, text/html;charset=gbk",
            "application/xhtml+xml; a=b; charset=gbk",
        ),
    ],
)
def test_a_charset_is_found_however_servers_write_it(gather, content_type):
    page = response(headers=b"Content-Type: " + content_type.encode() + b"\r\n") + record(PAGE, "resource", content_type=content_type)
    found, reasons = gather({"a.warc": page})
    assert [(row["kind"], row["charset"]) for row in found] == [("html", "gbk")] * 2 and not reasons


def test_a_page_without_a_type_and_one_of_plain_text_are_taken(gather):
    plain = response(b"words", b"Content-Type: TEXT/PLAIN; charset=KOI8-R\r\n")
    found, reasons = gather({"a.warc": response(headers=b"") + plain + record(PAGE, "resource", content_type="text/html; charset=x")})
    assert [row["kind"] for row in found] == ["html", "text", "html"] and not reasons
    assert found[1]["charset"].lower() == "koi8-r"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Encoding: gzip\r\n", gzip.compress(PAGE, mtime=0)),
        (b"content-encoding: X-GZIP\r\n", gzip.compress(PAGE, mtime=0)),
        (b"Content-Encoding: deflate\r\n", zlib.compress(PAGE)),
        (b"Content-Encoding: zstd\r\n", zstandard.compress(PAGE)),
        (b"Transfer-Encoding: chunked\r\n", chunked(PAGE)),
        (b"Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", chunked(gzip.compress(PAGE, mtime=0))),
        (b"Content-Encoding: br\r\n", brotli(PAGE)),
    ],
)
def test_a_body_that_the_server_encoded_is_decoded(gather, headers, body):
    found, reasons = gather({"a.warc": response(body, HTML + headers) * 2})
    assert contents(found) == [PAGE] * 2 and not reasons


NAMES = ["gzip", "x-gzip", "deflate", "br", "zstd", "identity", "none", "UTF-8", "compress", "gzip, gzip", '"gzip";q=1', "gzip," * 1000, ""]
IN_CHUNKS = b"".join(b"%X  ;a=b\r\n%b\r\n" % (len(part), part) for part in (PAGE[:20], PAGE[20:]))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("framing", ["", "Transfer-Encoding: chunked\r\n", "X-Crawl-Transfer-Encoding: chunked\r\n"])
def test_a_body_is_decoded_by_what_it_is_whatever_the_headers_name(gather, name, framing):
    headers = HTML + framing.encode() + b"Content-Length: 7\r\nContent-Encoding: " + name.encode() + b"\r\n"
    zipped = gzip.compress(PAGE, mtime=0)
    bodies = [PAGE, zipped, gzip.compress(zipped), zipped + gzip.compress(b"", mtime=0) + b"\r\n", zstandard.compress(PAGE)]
    bodies += [chunked(PAGE), chunked(zipped), IN_CHUNKS + b"0\r\nTrailer: a\r\n\r\n", IN_CHUNKS.replace(b"\r\n", b"\n") + b"0\n\n"]
    if name.strip('"')[:4] in ("gzip", "x-gz", "defl", "br"):  # of these nothing but a header tells
        bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        bodies += [zlib.compress(PAGE), bare.compress(PAGE) + bare.flush(), brotli(PAGE), chunked(zlib.compress(PAGE))]
    found, reasons = gather({"a.warc": b"".join(response(body, headers) for body in bodies)})
    assert contents(found) == [PAGE] * len(bodies) and not reasons


def test_encodings_in_several_headers_and_chunks_without_their_last_are_read(gather):
    twice = HTML + b"Content-Encoding: identity\r\nContent-Encoding: deflate\r\n"
    pages = [response(zlib.compress(PAGE), twice), response(IN_CHUNKS, HTML + b"Transfer-Encoding: chunked\r\n")]
    found, reasons = gather({"a.warc": b"".join(pages)})
    assert contents(found) == [PAGE] * 2 and not reasons


@pytest.mark.parametrize(
    "text", [b"10\r\nis a number", b"2\r\nab\r\n3\r\nand no chunk", b"{'a': 1}", b"some words", b"\xb9\xfa\xbb\xaa\r\n", b"K"]
)
def test_text_that_begins_as_something_encoded_might_stays(gather, text):
    plain = b"Content-Type: text/plain\r\n"
    lies = [plain, plain + b"Content-Encoding: deflate\r\n", plain + b"Content-Encoding: br\r\n"]
    found, reasons = gather({"a.warc": b"".join(response(text, headers) for headers in lies)})
    assert contents(found) == [text] * 3 and not reasons


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (b"Content-Encoding: zstd\r\n", zstandard.compress(PAGE)[:-5]),
        (b"Content-Encoding: gzip\r\n", gzip.compress(PAGE, mtime=0)[:-20]),
        (b"", gzip.compress(PAGE, mtime=0)[:-4]),
        (b"Content-Encoding: gzip\r\n", gzip.compress(PAGE, mtime=0)[:-8] + bytes(8)),
        (b"Content-Encoding: gzip\r\n", gzip.compress(bytes(range(256)), mtime=0)[20:200]),
        (b"Content-Encoding: gzip\r\n", gzip.compress(b"a", mtime=0) * 1000),
        (b"Content-Encoding: deflate\r\n", zlib.compress(PAGE)[:-5]),
        (b"Content-Encoding: br\r\n", brotli(PAGE)[:-3]),
        (b"Content-Encoding: compress\r\n", b"\x1f\x9d\x90\x3c\x02"),
        (b"Content-Encoding: x-unknown\r\n", bytes(range(256))),
        (b"Transfer-Encoding: chunked\r\n", IN_CHUNKS[:-10]),
        (b"Transfer-Encoding: chunked\r\n", IN_CHUNKS + b"zz\r\n" + PAGE),
    ],
)
def test_a_body_that_cannot_be_decoded_costs_no_other_record(gather, headers, body):
    found, reasons = gather({"a.warc": response(body, HTML + headers) + response() * 2})
    assert contents(found) == [PAGE] * 2 and reasons == {"HTTP body that cannot be decoded": 1}


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_truncated_file_gives_its_whole_records_and_is_counted(gather, compress):
    pages = [os.urandom(2000).hex().encode() for _ in range(20)]
    data = b"".join(compress(response(page)) for page in pages)
    name = f"a.warc.{'gz' if compress is gzip.compress else 'zst'}"
    for lost in (500, len(data) // 2 + 100):
        found, reasons = gather({name: data[:-lost]})
        assert contents(found) == pages[: len(found)] and 5 < len(found) < 20 and reasons == {DAMAGED: 1}


def test_a_truncated_plain_file_gives_no_half_page(gather):
    found, reasons = gather({"a.warc": (response() + response(PAGE * 10))[:-100]})
    assert contents(found) == [PAGE] and reasons == {DAMAGED: 1}


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz", "a.warc.zst", "a.wet.gz"])
def test_garbage_is_counted(gather, name):
    assert gather({name: b"garbage that is nothing of the kind\n" * 50}) == ([], {DAMAGED: 1})
    assert gather({name: (gzip.compress if name.endswith("gz") else zstandard.compress)(b"more garbage\n" * 50)}) == ([], {DAMAGED: 1})


def test_bombs_are_bounded_and_cost_no_other_record(gather):
    bomb = gzip.compress(bytes(100 << 20), 1)
    too_long = [
        response(bomb, HTML + b"Content-Encoding: gzip\r\n"),
        response(b"a" * (20 << 20)),
        record(b"a" * (17 << 20), "conversion", content_type="text/plain"),
    ]
    found, reasons = gather({"a.warc": b"".join(one + response() for one in too_long)})
    assert contents(found) == [PAGE] * 3 and reasons == {"longer than 16 MiB": 3}


def test_a_record_of_zeros_in_a_small_file_is_bounded(gather):
    found, reasons = gather({"a.warc.gz": gzip.compress(response(bytes(100 << 20)), 1) + gzip.compress(response())})
    assert contents(found) == [PAGE] and reasons == {"longer than 16 MiB": 1}


@pytest.mark.parametrize(
    "data",
    [
        b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
        b"WARC/1.0\r\nWARC-Type: response\r\nContent-Length: -5\r\n\r\nabc",
        b"WARC/1.0\r\nWARC-Type: response\r\n" + b"X: " + b"a" * (20 << 20),
        b"WARC/1.0\r\n" * 10_000,
    ],
)
def test_made_up_headers_end_the_file_and_are_counted(gather, data):
    found, reasons = gather({"a.warc": response() + data})
    assert contents(found) == [PAGE] and DAMAGED in reasons


def test_http_headers_without_end_cost_no_other_record(gather):
    endless = [response(headers=b"X: " + b"a" * (20 << 20) + b"\r\n"), record(b"a" * (20 << 20))]
    found, reasons = gather({"a.warc": b"".join(one + response() for one in endless)})
    assert contents(found) == [PAGE] * 2 and reasons == {"HTTP headers that cannot be read": 2}


def test_bytes_that_are_no_text_in_headers_do_no_harm(gather):
    data = response().replace(b"http://a.example/", b"http://\xff\xfe.example/") + response(
        headers=b"Content-Type: text/html; charset=\xff\r\n"
    )
    found, reasons = gather({"a.warc": data + response(status=b"abc OK")})
    assert contents(found) == [PAGE] * 3 and not reasons


def counted(tmp_path, name, data):
    """Contents, and what was dropped with its bytes."""
    (tmp_path / name).write_bytes(data)
    statistics = Statistics()
    (unit,) = work_units.split_source(str(tmp_path / name), 1 << 30)
    return [content for batch in read.read(unit, "", 0, statistics) for content in batch["content"].to_pylist()], statistics.dropped


def numbered(count):
    return [response(b"<p>page %d %s</p>" % (i, b"words " * 50), uri=f"http://a.example/{i}") for i in range(count)]


PAGES = [b"<p>page %d %s</p>" % (i, b"words " * 50) for i in range(12)]


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.ZstdCompressor(write_checksum=True).compress])
@pytest.mark.parametrize("at", [0, 20, "middle", -3])
def test_a_flipped_bit_in_a_member_costs_its_page(tmp_path, compress, at):
    members = [bytearray(compress(one)) for one in numbered(12)]
    members[2][len(members[2]) // 2 if at == "middle" else at] ^= 0x10
    found, dropped = counted(tmp_path, "a.warc.gz" if compress is gzip.compress else "a.warc.zst", b"".join(members))
    assert found == PAGES[:2] + PAGES[3:] and dropped == {DAMAGED: Amount(1, len(members[2]))}


@pytest.mark.parametrize("length", [b"1", b"200", b"99999", b"9999999999", b"-3", b"x", b""])
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_wrong_length_costs_its_record(tmp_path, compress, length):
    records = numbered(12)
    true = b"Content-Length: %d" % (len(records[4]) - records[4].index(b"\r\n\r\n") - 8)
    assert true in records[4]
    records[4] = records[4].replace(true, b"Content-Length: " + length)
    found, dropped = counted(tmp_path, "a.warc", b"".join(map(compress, records)))
    assert found == PAGES[:4] + PAGES[5:] and dropped.keys() == {DAMAGED} and dropped[DAMAGED].documents == 1
    assert dropped[DAMAGED].bytes == len(records[4])


def test_bytes_between_records_and_a_torn_record_are_counted(tmp_path):
    records = numbered(12)
    torn = records[5][:200]
    found, dropped = counted(tmp_path, "a.warc", b"".join([*records[:2], b"garbage\r\n", *records[2:5], torn, b"\r\n", *records[6:]]))
    assert found == PAGES[:5] + PAGES[6:] and dropped == {DAMAGED: Amount(2, 9 + 202)}


def test_a_file_is_told_by_its_content(tmp_path):
    for name, compress in (("crawl.dat", bytes), ("crawl", gzip.compress), ("a.txt", bz2.compress), ("b.warc.xz", lzma.compress)):
        assert counted(tmp_path, name, b"".join(map(compress, numbered(3)))) == (PAGES[:3], {})


@given(st.integers(1, 5000), st.integers(0, 3), st.sampled_from([bytes, gzip.compress]))
def test_records_do_not_depend_on_how_much_is_read_at_a_time(tmp_path_factory, size, blanks, compress):
    data = b"".join(compress(one + b"\r\n" * blanks) for one in numbered(12))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streams, "CHUNK", size)
        assert counted(tmp_path_factory.mktemp("warc"), "a.warc", data) == (PAGES, {})


def arc(pages, lie=None):
    head = b"filedesc://a.arc 0.0.0.0 20080102030405 text/plain 76\n1 0 Org\nURL IP-address Archive-date Content-type Archive-length\n"
    records = [head.replace(b" 76\n", b" %d\n" % (len(head) - head.index(b"\n") - 1)) + b"\n"]
    records.append(b"dns:a.example 1.2.3.4 20080102030405 text/dns 5\nwords\n")
    for i, page in enumerate(pages):
        content = b"HTTP/1.1 200 OK\r\n" + HTML + b"\r\n" + page
        size = len(content) if i != lie else 99_999
        records.append(b"http://a.example/%d 1.2.3.4 20080102030405 text/html %d\n" % (i, size) + content + b"\n")
    return records


def test_arc_files_give_pages(gather):
    for name, compress in (("a.arc", bytes), ("b.arc.gz", gzip.compress), ("c", gzip.compress)):
        found, reasons = gather({name: b"".join(map(compress, arc(PAGES)))})
        assert contents(found[-12:]) == PAGES and not reasons
        assert (found[-1]["origin"], found[-1]["date"], found[-1]["charset"]) == (
            "http://a.example/11",
            "2008-01-02T03:04:05Z",
            "iso-8859-1",
        )


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_wrong_length_in_an_arc_file_costs_its_record(tmp_path, compress):
    found, dropped = counted(tmp_path, "a.arc", b"".join(map(compress, arc(PAGES, lie=3))))
    assert found == PAGES[:3] + PAGES[4:] and dropped.keys() == {DAMAGED} and dropped[DAMAGED].documents == 1
