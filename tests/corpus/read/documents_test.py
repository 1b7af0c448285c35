import bz2
import gzip
import json
import lzma
import os

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from teleflm_jax.corpus import read, rows
from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Amount, Statistics
from teleflm_jax.documents.streams import DAMAGED
from teleflm_jax.errors import UserError


def lines(texts, **more):
    return "".join(json.dumps({"text": text, **more}) + "\n" for text in texts).encode()


def texts(found):
    return [row["content"].decode() for row in found]


def test_every_format_of_documents_is_read(gather, tmp_path):
    (tmp_path / "source").mkdir()
    pa.parquet.write_table(pa.table({"text": ["four", "five"], "family": ["f", None]}), tmp_path / "source" / "d.parquet")
    files = {"a.jsonl": lines(["one"], family="f"), "b.jsonl.gz": gzip.compress(lines(["two"])), "e.txt": "sechs ß".encode()}
    found, reasons = gather(files | {"c.jsonl.zst": zstandard.compress(lines(["three"]))})
    assert texts(found) == ["one", "two", "three", "four", "five", "sechs ß"] and not reasons
    assert [row["origin"] for row in found] == ["a.jsonl#0", "b.jsonl.gz#0", "c.jsonl.zst#0", "d.parquet#0", "d.parquet#1", "e.txt#0"]
    assert [row["family"] for row in found] == ["f", "b.jsonl.gz", "c.jsonl.zst", "f", "d.parquet", "e.txt"]
    assert {(row["kind"], row["charset"]) for row in found} == {("text", "utf-8")}


def test_malformed_documents_are_counted_by_reason(gather):
    malformed = b'{"text": 7}\n[1]\n{"title": "a"}\n{\n{"text": "\xff"}\n{"text": " "}\n'
    found, reasons = gather({"a.jsonl": lines(["one"]) + malformed + lines(["two"]), "b.txt": "ü".encode("latin-1"), "c.bin": b"\0\1"})
    assert texts(found) == ["one", "two"]
    assert reasons == {
        "text is not a string": 1,
        "not a JSON object": 1,
        "no text": 1,
        "not JSON": 1,
        "not UTF-8": 2,
        "empty": 1,
        "binary": 1,
    }


def test_a_line_of_20_megabytes_is_counted(gather):
    found, reasons = gather({"a.jsonl": lines(["one", "x" * (20 << 20), "two"])})
    assert texts(found) == ["one", "two"] and reasons == {"longer than 16 MiB": 1}


@pytest.mark.parametrize(("name", "compress"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)])
def test_a_truncated_file_gives_what_it_holds_and_is_counted(gather, name, compress):
    data = compress(lines(f"{i} {os.urandom(50).hex()}" for i in range(3000)))
    found, reasons = gather({name: data[: len(data) // 2]})
    assert 100 < len(found) < 3000 and reasons == {"truncated or damaged file": 1}


def test_what_is_not_to_be_read_is_counted(gather, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "source" / "link.txt").symlink_to(tmp_path / "secret")
    found, reasons = gather({".hidden": b"words", "a.txt": b"mine"})
    assert texts(found) == ["mine"] and reasons == {"hidden file or folder": 1, "symbolic link": 1}


@pytest.mark.parametrize("form", ["", "documents", "code", "html"])
def test_rows_and_ids_do_not_depend_on_where_batches_border(tmp_path, monkeypatch, form):
    for number in range(40):
        (tmp_path / f"{number:02d}.{'py' if form == 'code' else 'html' if number % 2 else 'txt'}").write_text(
            f"x = {number}\n" * (number % 7 + 1)
        )
    (unit,) = work_units.split_source(str(tmp_path), 1 << 20)

    def collected():
        batches = list(read.read(unit, form, 5 << rows.ROW_BITS, Statistics()))
        return pa.Table.from_batches(batches), len(batches)

    whole, count = collected()
    assert count == 1 and whole["id"].to_pylist() == list(range(5 << rows.ROW_BITS, (5 << rows.ROW_BITS) + whole.num_rows))
    for batch_rows, batch_bytes in ((1, 1 << 20), (7, 1 << 20), (1000, 10)):
        monkeypatch.setattr(rows, "BATCH_ROWS", batch_rows)
        monkeypatch.setattr(rows, "BATCH_BYTES", batch_bytes)
        parts, count = collected()
        assert count > 1 and parts.equals(whole)


def test_an_origin_names_the_range_of_a_split_file(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines(f"text {i}" for i in range(20)))
    origins = [
        origin
        for unit in work_units.split_source(str(tmp_path), 100)
        for batch in read.read(unit, "", 0, Statistics())
        for origin in batch["origin"].to_pylist()
    ]
    assert len(set(origins)) == 20 and origins[0] == "a.jsonl#0" and "a.jsonl@100#0" in origins


def test_a_file_that_is_named_in_no_text_is_read(gather):
    name = os.fsdecode(b"a\xff.txt")
    found, reasons = gather({name: b"words", name + ".gz": b"\0"})
    assert [(row["origin"], row["family"], row["content"]) for row in found] == [("a\ufffd.txt#0", "a\ufffd.txt", b"words")]
    assert reasons == {DAMAGED: 1}


def test_an_unknown_format_is_refused_with_those_that_there_are():
    read.refuse_unknown(dict.fromkeys("abc", "latex"))
    with pytest.raises(UserError, match=r"corpus\.formats\['mine'\]='pdf'.*stackexchange.*change corpus\.formats"):
        read.refuse_unknown({"mine": "pdf"})


def test_files_tell_what_they_are_without_a_format(gather):
    page = b'<mediawiki xml:lang="en"><page><title>T</title><ns>0</ns><id>1</id><revision><text>words</text></revision></page></mediawiki>'
    posts = b'<posts><row Id="1" PostTypeId="1" Body="Q"/><row Id="2" PostTypeId="2" ParentId="1" Score="1" Body="A"/></posts>'
    record = b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nwet\r\n\r\n"
    files = {
        "a.json.gz": gzip.compress(lines(["C4"])),
        "b.json.zst": zstandard.compress(lines(["Dolma"])),
        "c.NDJSON": lines(["rows"]),
        "d": gzip.compress(record),
        "e/Posts.xml": posts,
        "f.xml.bz2": bz2.compress(page),
        "g.php": b"<!doctype html><p>page",
        "h.txt.xz": lzma.compress(b"plain"),
        "i.html.gz": gzip.compress(b"<p>packed"),
        "j.html.gz": gzip.compress(b"<p>torn")[:-9],
    }
    found, reasons = gather(files)
    assert [(row["kind"], row["content"]) for row in found] == [
        ("text", b"C4"),
        ("text", b"Dolma"),
        ("text", b"rows"),
        ("text", b"wet"),
        ("text", b"Q: Q\n\nA: A"),
        ("text", b"T\n\nwords"),
        ("html", b"<!doctype html><p>page"),
        ("text", b"plain"),
        ("html", b"<p>packed"),
    ]
    assert reasons == {DAMAGED: 1}


def test_what_cannot_be_read_is_counted_in_bytes(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"torn\n" + lines(["one"]))
    (tmp_path / "b.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\0")
    statistics = Statistics()
    list(read.read(work_units.split_source(str(tmp_path), 1 << 20)[0], "", 0, statistics))
    assert statistics.dropped == {"not JSON": Amount(1, 5), "binary": Amount(1, 8)} and statistics.into == Amount(3, 3 + 13)
    assert [one["origin"] for one in statistics.samples["not JSON"]] == ["a.jsonl"]
