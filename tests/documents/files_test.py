import bz2
import gzip
import lzma

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from teleflm_jax.documents import files, work_units
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.errors import UserError

ROW = b'{"text": "some words"}\n'
ARRAY = b'[\n {"text": "one"},\n {"text": "two"}\n]\n'
WARC = b"WARC/1.0\r\nWARC-Type: warcinfo\r\nContent-Length: 0\r\n\r\n\r\n\r\n"
COMPRESS = {"gz": gzip.compress, "zst": zstandard.compress, "zstd": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        *(
            (name, ROW, "jsonl")
            for name in ("a.jsonl", "a.JSONL", "a.ndjson", "a.jsonlines", "a.ldjson", "a.json", "a.jsonl.1", "part-00000")
        ),
        ("a.jsonl", b"torn", "jsonl"),
        ("a.json", b'{"text": "torn\n{"text": "whole"}\n', "jsonl"),
        ("a.json", ARRAY, "json"),
        ("a.json", b'{\n "text": "one"\n}\n', "json"),
        ("a.json", b'[{"text": "one"}]', "json"),
        ("a.py", b"{1: 2}\n", "plain"),
        ("a.geojson", b'{"type": "FeatureCollection"}\n', "plain"),
        ("a.txt", b'{"text": "row"}\n{"text": "row"}\n', "jsonl"),
        ("a", b'{"text": "' + b"x" * 100_000 + b'"}\n', "jsonl"),
        ("a.txt", WARC, "warc"),
        ("a.warc", b"\xff\0\xff\0 damaged", "warc"),
        ("a.arc", b"filedesc://a.arc 0.0.0.0 20080101000000 text/plain 1\n", "arc"),
        ("a.dat", b"filedesc://a.arc 0.0.0.0 20080101000000 text/plain 1\n", "arc"),
        ("a.HTM", b"words", "html"),
        ("index", b"\n<!-- x --><!DOCTYPE html>\n<p>", "html"),
        ("index.php", b"<html lang=de>", "html"),
        ("a.xml", b'<mediawiki xml:lang="en"><page>', "wikipedia"),
        ("a.xml", b'\xef\xbb\xbf<?xml version="1.0"?>\n<posts>\n', "stackexchange"),
        ("a.txt", "grüße".encode("latin-1"), "plain"),
        ("a.txt", b"", "plain"),
        ("a.png", b"\x89PNG\0\0\0\0", "plain"),
        ("a.txt", b"PK\x03\x04 a zip file", files.UNKNOWN),
        ("a.7z", b"7z\xbc\xaf\x27\x1c", files.UNKNOWN),
        ("a.br", bytes(range(256)), files.UNKNOWN),
    ],
)
def test_content_goes_before_the_name(tmp_path, name, content, kind):
    (tmp_path / name).write_bytes(content)
    assert files.kind_of(str(tmp_path / name)) == (kind, "")
    for ending, compress in COMPRESS.items():
        path = tmp_path / f"{name}.{ending}"
        path.write_bytes(compress(content))
        assert files.kind_of(str(path)) == (kind, {"gz": "gzip", "bz2": "bzip2", "xz": "xz"}.get(ending, "zstd"))


def test_a_compressed_file_is_one_without_the_name_and_none_by_the_name_alone(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(gzip.compress(ROW))
    (tmp_path / "b.jsonl.gz").write_bytes(ROW)
    (tmp_path / "c.jsonl.gz").write_bytes(b"garbage")
    assert [files.kind_of(str(tmp_path / name)) for name in ("a.jsonl", "b.jsonl.gz", "c.jsonl.gz")] == [
        ("jsonl", "gzip"),
        ("jsonl", ""),
        ("jsonl", "gzip"),
    ]
    pa.parquet.write_table(pa.table({"text": ["a"]}), tmp_path / "d")
    assert files.kind_of(str(tmp_path / "d")) == ("parquet", "")


def test_the_text_column_tells_a_row_from_other_json(tmp_path):
    (tmp_path / "a").write_bytes(b'{"content": "words"}\n')
    assert files.kind_of(str(tmp_path / "a")) == ("plain", "") and files.kind_of(str(tmp_path / "a"), "content") == ("jsonl", "")


@pytest.mark.parametrize(
    ("text", "is_binary"),
    [
        (b"a\0b", False),
        (b"a\0b\0", True),
        (b"x" * 199 + b"\0", False),
        (b"x" * 200 + b"\0\0\0", True),
        (b"\0\1", True),
        (bytes(range(256)), True),
    ],
)
def test_a_control_character_makes_no_binary_file(text, is_binary):
    assert files.is_binary(text) == is_binary


def units(folder):
    return work_units.split_source(str(folder), 1 << 20)


def test_a_source_of_unknown_files_is_refused_with_those_that_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(ROW * 1000)
    (tmp_path / "b.7z").write_bytes(b"7z\xbc\xaf\x27\x1c" + bytes(1000))
    with pytest.raises(
        UserError, match=r"got 1,006 of 24,006 bytes in 1 files.*the first is b\.7z.*\.ndjson.*Parquet.*\.xz.*change data\.x"
    ):
        work_units.refuse_unknown(units(tmp_path), 0.01, "data.x")
    work_units.refuse_unknown(units(tmp_path), 0.05, "data.x")
    (tmp_path / "b.7z").rename(tmp_path / "b.png")
    (tmp_path / "b.png").write_bytes(b"\x89PNG" + bytes(1000))
    work_units.refuse_unknown(units(tmp_path), 0.01, "data.x")  # what stands beside text is counted when it is read


def snapshot(root, repository="datasets--o--n"):
    folder = root / "hub" / repository / "snapshots" / "f00"
    (folder / "data").mkdir(parents=True)
    (folder.parents[1] / "blobs").mkdir()
    (folder.parents[1] / "blobs" / "abc").write_bytes(ROW)
    (folder / "data" / "a.jsonl").symlink_to("../../../blobs/abc")
    return folder


def read(folder):
    statistics = Statistics()
    texts = [document.text for unit in units(folder) for document in work_units.read(unit, statistics)]
    return texts, {reason: one.documents for reason, one in statistics.dropped.items()}


def test_a_snapshot_of_hugging_faces_cache_is_read(tmp_path):
    folder = snapshot(tmp_path)
    assert read(folder) == read(folder / "data") == (["some words"], {})
    (tmp_path / "link").symlink_to(folder)
    assert read(tmp_path / "link") == (["some words"], {})


def test_links_that_leave_a_snapshots_repository_are_counted(tmp_path):
    folder = snapshot(tmp_path)
    other = snapshot(tmp_path, "datasets--o--other")
    (tmp_path / "secret.jsonl").write_bytes(ROW)
    (folder / "b.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (folder / "c.jsonl").symlink_to(other.parents[1] / "blobs" / "abc")
    (folder.parents[1] / "blobs" / "out").symlink_to(tmp_path / "secret.jsonl")
    (folder / "d.jsonl").symlink_to("../../blobs/out")
    (folder / "e.jsonl").symlink_to("../../blobs/missing")
    (folder / "f").symlink_to("../../blobs")
    assert read(folder) == (["some words"], {"symbolic link": 5})
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.jsonl").symlink_to(folder.parents[1] / "blobs" / "abc")
    assert read(tmp_path / "plain") == ([], {"symbolic link": 1})
    blobs = other.parents[1] / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    assert read(other) == ([], {"symbolic link": 1})


def test_comments_before_the_root_are_read_once(tmp_path):
    """Sixty of them had more readings than there is time for."""
    (tmp_path / "a").write_bytes(b"<?xml version='1.0'?>" + b"<!---->\n" * 60 + b"<nothing>")
    (tmp_path / "b").write_bytes(b"<?xml version='1.0'?>" + b"<!-- a -- b -->\n" * 60 + b"<mediawiki>")
    assert [files.kind_of(str(tmp_path / name)) for name in "ab"] == [("plain", ""), ("wikipedia", "")]
