import bz2
import gzip
import json
import lzma
import os
import random
import resource
import tempfile

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.documents import files, parquet, streams, work_units
from teleflm_jax.documents.statistics import Amount, Statistics
from teleflm_jax.documents.streams import DAMAGED
from teleflm_jax.errors import UserError

TEXTS = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: not text.isspace()), max_size=12)


def read(source, unit_bytes=1 << 20):
    statistics = Statistics()
    found = [document for unit in work_units.split_source(str(source), unit_bytes) for document in work_units.read(unit, statistics)]
    return found, {reason: amount.documents for reason, amount in statistics.dropped.items()}


def texts(source, unit_bytes=1 << 20):
    return [document.text for document in read(source, unit_bytes)[0]]


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@given(TEXTS, st.integers(1, 300), st.booleans(), st.booleans())
def test_every_line_is_read_once_wherever_the_units_border(rows, unit_bytes, escaped, final_newline):
    data = "\n".join(json.dumps({"text": row}, ensure_ascii=escaped) for row in rows) + "\n" * final_newline
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "a.jsonl")
        with open(path, "wb") as file:
            file.write(data.encode())
        assert texts(folder, unit_bytes) == rows
        assert len(work_units.split_source(folder, unit_bytes)) == max(1, -(-len(data.encode()) // unit_bytes))


def test_all_formats_give_the_same_documents_and_families(tmp_path):
    rows = [{"text": "alpha", "family": "f"}, {"text": "βήτα", "source": "s"}, {"text": "三\n四"}]
    (tmp_path / "a.jsonl").write_bytes(lines(rows))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines(rows[:1])) + gzip.compress(lines(rows[1:])))
    (tmp_path / "c.jsonl.zst").write_bytes(zstandard.compress(lines(rows[:2])) + zstandard.compress(lines(rows[2:])))
    table = pa.table({"text": [row["text"] for row in rows], "family": ["f", "s", None]})
    pa.parquet.write_table(table, tmp_path / "d.parquet", row_group_size=1)
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "plain.txt").write_text("\ufeffplain\n")
    for unit_bytes in (1, 1 << 20):
        found, malformed = read(tmp_path, unit_bytes)
        assert [document.text for document in found] == ["alpha", "βήτα", "三\n四"] * 4 + ["plain\n"]
        families = [document.family for document in found]
        assert families[:9] == ["f", "s", "a.jsonl", "f", "s", "b.jsonl.gz", "f", "s", "c.jsonl.zst"]
        assert families[9:] == ["f", "s", "d.parquet", "e/plain.txt"] and not malformed


def test_small_files_are_grouped_and_large_ones_split(tmp_path):
    for i in range(10):
        (tmp_path / f"{i}.txt").write_text("x" * 10)
    (tmp_path / "z.jsonl").write_bytes(lines([{"text": "y" * 20}] * 3))
    work = work_units.split_source(str(tmp_path), 50)
    assert [[file_range.path for file_range in unit.ranges] for unit in work[:2]] == [
        [f"{i}.txt" for i in range(5)],
        [f"{i}.txt" for i in range(5, 10)],
    ]
    assert [(file_range.start, file_range.stop) for unit in work[2:] for file_range in unit.ranges] == [(0, 50), (50, 99)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"title": "a"}', "no text"),
        (b'{"text": 7}', "text is not a string"),
        (b'{"text": null}', "text is not a string"),
        (b'{"text": " \\n"}', "empty"),
        (b'{"text": "\xff"}', "not UTF-8"),
    ],
)
def test_malformed_lines_are_counted_by_reason(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n' + line + b'\n\n  \n{"text": "two"}\n')
    found, malformed = read(tmp_path)
    assert [document.text for document in found] == ["one", "two"] and malformed == {reason: 1}


@pytest.mark.parametrize(("name", "compress"), [("a.jsonl.gz", gzip.compress), ("a.jsonl.zst", zstandard.compress)])
def test_a_truncated_file_gives_what_it_holds_and_is_counted(tmp_path, name, compress):
    data = compress(lines({"text": f"{i} {os.urandom(50).hex()}"} for i in range(5000)))
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    found, malformed = read(tmp_path)
    assert 100 < len(found) < 5000 and malformed == {"truncated or damaged file": 1}
    (tmp_path / name).write_bytes(b"garbage that is nothing of the kind")
    assert read(tmp_path) == ([], {"truncated or damaged file": 1})


def test_damaged_parquet_is_counted(tmp_path):
    table = pa.table({"text": ["a" * 1000] * 50})
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(data[:-30])
    pa.parquet.write_table(pa.table({"body": ["a"]}), tmp_path / "b.parquet")
    pa.parquet.write_table(pa.table({"text": pa.array([None, "fine", ""], pa.string())}), tmp_path / "c.parquet")
    for unit_bytes in (1, 1 << 20):
        found, malformed = read(tmp_path, unit_bytes)
        assert [document.text for document in found] == ["fine"]
        assert malformed == {"truncated or damaged file": 1, "no text": 2, "empty": 1}


def test_plain_files_that_are_no_text_are_counted(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG\0\0")
    (tmp_path / "b.txt").write_bytes("grüße".encode("latin-1"))
    (tmp_path / "c.py").write_bytes(b"")
    (tmp_path / "d.txt").write_text("text")
    found, malformed = read(tmp_path)
    assert [document.family for document in found] == ["d.txt"]
    assert malformed == {"binary": 1, "not UTF-8": 1, "empty file": 1}


def test_nothing_outside_of_the_folder_is_read(tmp_path):
    inside = tmp_path / "inside"
    (inside / ".git").mkdir(parents=True)
    (inside / ".git" / "config").write_text("hidden")
    (tmp_path / "secret.txt").write_text("secret")
    (inside / "file").symlink_to(tmp_path / "secret.txt")
    (inside / "folder").symlink_to(tmp_path)
    os.mkfifo(inside / "pipe")
    (inside / "a.txt").write_text("mine")
    found, malformed = read(inside)
    assert [document.text for document in found] == ["mine"]
    assert malformed == {"hidden file or folder": 1, "symbolic link": 2, "not a regular file": 1}
    assert set(malformed) <= set(files.SKIPPED)


def test_a_bomb_costs_no_memory(tmp_path):
    compressor = zstandard.ZstdCompressor().compressobj()
    with open(tmp_path / "a.jsonl.zst", "wb") as file:
        for _ in range(20):
            file.write(compressor.compress(b" " * (50 << 20)))
        file.write(compressor.compress(b"\n" + lines([{"text": "after"}])) + compressor.flush())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, malformed = read(tmp_path)
    assert [document.text for document in found] == ["after"] and malformed == {"longer than 64 MiB": 1}
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 5 * work_units.LONGEST_DOCUMENT


def test_a_line_that_is_too_long_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "LONGEST_DOCUMENT", 40)
    (tmp_path / "a.jsonl").write_bytes(lines([{"text": "a"}, {"text": "b" * 100}, {"text": "c"}]))
    (tmp_path / "b.txt").write_text("d" * 41)
    for unit_bytes in (10, 1 << 20):
        found, malformed = read(tmp_path, unit_bytes)
        assert [document.text for document in found] == ["a", "c"] and malformed == {"longer than 64 MiB": 2}


def test_identity_follows_content_and_names_but_not_time(tmp_path):
    (tmp_path / "a.txt").write_text("one")

    def identity():
        return work_units.identity(work_units.split_source(str(tmp_path), 100))

    first = identity()
    os.utime(tmp_path / "a.txt", (1, 1))
    assert identity() == first and first.startswith("1 files of 3 bytes with")
    (tmp_path / "a.txt").write_text("two")
    assert identity() != first


def test_a_source_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*No such file.*change data\.sources"):
        work_units.split_source(str(tmp_path / "nowhere"), 10)


def test_one_file_is_a_source(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines([{"text": "one"}]))
    (tmp_path / "b.txt").write_text("not mine")
    assert texts(tmp_path / "a.jsonl") == ["one"]


def compressed(name, data):
    ending = name.rpartition(".")[2]
    return {"gz": gzip.compress, "zst": zstandard.compress, "bz2": bz2.compress, "xz": lzma.compress}.get(ending, bytes)(data)


@pytest.mark.parametrize(
    "name", ["a.ndjson", "a.JSONL", "a.jsonlines", "a.json.gz", "a.json.zst", "a.JSON.bz2", "a.ndjson.xz", "part-0.gz"]
)
def test_json_lines_are_read_under_all_their_names(tmp_path, name):
    (tmp_path / name).write_bytes(compressed(name, lines([{"text": "one"}, {"text": "two"}])))
    assert texts(tmp_path) == ["one", "two"] and not read(tmp_path)[1]


@pytest.mark.parametrize(
    "data",
    [
        b'[{"text": "one"}, {"text": "two"}]',
        b'{\n "text": "one"\n}\n{\n "text": "two"\n}\n',
        b'\xef\xbb\xbf[\n{"text": "one"},\n{"text": "two"}\n]\n',
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1 << 16])
def test_a_json_file_of_objects_is_read(tmp_path, monkeypatch, data, size):
    monkeypatch.setattr(streams, "CHUNK", size)
    (tmp_path / "a.json").write_bytes(data)
    found, malformed = read(tmp_path)
    assert [document.text for document in found] == ["one", "two"] and not malformed


def test_behind_damage_a_json_array_is_counted_in_bytes(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[\n{"text": "one"},\n{"text" "two"},\n{"text": "three"}]')
    statistics = Statistics()
    found = [document.text for unit in work_units.split_source(str(tmp_path), 1 << 20) for document in work_units.read(unit, statistics)]
    assert found == ["one"] and statistics.dropped == {"not JSON": Amount(1, len(b'{"text" "two"},\n{"text": "three"}]'))}


def test_the_text_may_stand_in_another_column(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines([{"content": "one", "text": 7}, {"text": "two"}]))
    pa.parquet.write_table(pa.table({"content": ["three"]}), tmp_path / "b.parquet")
    pa.parquet.write_table(pa.table({"text": ["four", "five"]}), tmp_path / "c.parquet")
    statistics = Statistics()
    units = work_units.split_source(str(tmp_path), 1 << 20, text_column="content")
    assert [document.text for unit in units for document in work_units.read(unit, statistics)] == ["one", "three"]
    assert statistics.dropped["no content"].documents == 3 and statistics.dropped["no content"].bytes > 20


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.jsonl.bz2", "a.jsonl.xz"])
def test_damage_costs_the_rows_of_its_member_and_the_two_on_its_borders(tmp_path, name):
    rows = [{"text": f"{i} {random.Random(i).randbytes(40).hex()}"} for i in range(400)]
    data, step = lines(rows), 5000
    members = [bytearray(compressed(name, data[i : i + step])) for i in range(0, len(data), step)]
    members[3][len(members[3]) // 2] ^= 0x10
    if name.endswith("zst"):
        members[3][0] ^= 1  # without a checksum, any text is as good as another
    (tmp_path / name).write_bytes(b"".join(members))
    statistics = Statistics()
    found = [document.text for unit in work_units.split_source(str(tmp_path), 1 << 20) for document in work_units.read(unit, statistics)]
    ends = [len(lines(rows[: i + 1])) for i in range(len(rows))]
    kept = [row["text"] for row, end in zip(rows, ends, strict=True) if end <= 3 * step or end - len(lines([row])) >= 4 * step]
    assert found == kept and 340 < len(found) < 399
    assert statistics.dropped.keys() == {DAMAGED} and statistics.dropped[DAMAGED].documents == 1
    assert len(members[3]) < statistics.dropped[DAMAGED].bytes < len(members[3]) + 2 * len(lines(rows[:1])) + 20


def test_a_member_that_begins_and_ends_with_a_row_costs_no_other(tmp_path):
    members = [bytearray(gzip.compress(lines([{"text": f"text {i}"}]))) for i in range(6)]
    members[2][-6] ^= 1
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(members))
    found, malformed = read(tmp_path)
    assert [document.text for document in found] == ["text 0", "text 1", "text 3", "text 4", "text 5"] and malformed == {DAMAGED: 1}


def test_what_costs_no_more_than_itself_is_mended(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a\\ud800b\\ud83d\\ude00"}\n{"text": "tab\there\x01"}\n\0\0\0{"text": "hole"}\0\n')
    (tmp_path / "b.txt").write_bytes(b"one \0 zero")
    statistics = Statistics()
    found = [document.text for unit in work_units.split_source(str(tmp_path), 1 << 20) for document in work_units.read(unit, statistics)]
    assert found == ["a\ufffdb\U0001f600", "tab\there\x01", "hole", "one  zero"] and not statistics.dropped
    assert {reason: one.documents for reason, one in statistics.changed.items()} == {"lone surrogates replaced": 1, "U+0000 taken out": 1}


def test_a_damaged_row_group_costs_its_own_rows(tmp_path):
    path = tmp_path / "a.parquet"
    rows = [f"{i} {random.Random(i).randbytes(500).hex()}" for i in range(100)]
    pa.parquet.write_table(pa.table({"text": rows}), path, row_group_size=20, use_dictionary=False, write_page_checksum=True)
    column = pa.parquet.read_metadata(path).row_group(2).column(0)
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size // 2] ^= 1
    path.write_bytes(data)
    for unit_bytes in (1, 1 << 20):
        statistics = Statistics()
        units = work_units.split_source(str(tmp_path), unit_bytes)
        found = [document.text for unit in units for document in work_units.read(unit, statistics)]
        assert (
            found == rows[:40] + rows[60:]
            and statistics.dropped[DAMAGED].documents == 20
            and 15_000 < statistics.dropped[DAMAGED].bytes < 25_000
        )


def test_what_is_passed_over_is_counted_in_bytes(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\ntorn\n[1, 2]\n{"title": "a"}\n{"text": "\xff"}\n{"text": 7}\n{"text": "last')
    (tmp_path / "b.png").write_bytes(b"\x89PNG\0\0\0")
    (tmp_path / "c.warc").write_bytes(b"WARC/1.0\r\nabc")
    statistics = Statistics()
    assert [
        document.text for unit in work_units.split_source(str(tmp_path), 1 << 20) for document in work_units.read(unit, statistics)
    ] == ["one"]
    assert statistics.dropped == {
        "not JSON": Amount(2, 5 + 15),
        "not a JSON object": Amount(1, 6),
        "no text": Amount(1, 14),
        "not UTF-8": Amount(1, 14),
        "text is not a string": Amount(1, 1),
        "binary": Amount(1, 7),
        "web archive, which `corpus` reads": Amount(1, 13),
    }


def _named(value, times):
    """A column that names one value of its dictionary so often."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array([value]))


@pytest.mark.parametrize("keeps_schema", [True, False], ids=["as a dictionary", "as strings"])
@pytest.mark.parametrize(
    "columns, documents_, reasons",
    [
        ({"text": _named("a" * 2_000_000, 4)}, 0, {"longer than 1 MiB": Amount(4, 8_000_000)}),
        ({"text": _named("a" * 5_000_000, 32)}, 0, {"dictionary longer than 4 MiB": Amount(32, 5_000_052)}),
        ({"text": _named("a" * 1_000_000, 300)}, 8, {"rows that unfold too far": 292}),
        ({"text": _named("", 20_000)}, 0, {"empty": 8_192, "rows that unfold too far": 11_808}),
        ({"text": _named("", 9_000)}, 0, {"empty": 9_000}),
        ({"text": pa.array([[["a" * 100] * 1000]] * 1000)}, 0, {"text is not a string": 1000}),
        ({"text": ["a", None], "family": _named("f" * 3_000_000, 2)}, 1, {"no text": 1}),
        ({"text": ["a"], "family": pa.array([[1]])}, 1, {}),
    ],
    ids=["long", "too long", "many", "rows", "empty", "nested", "family", "family of numbers"],
)
def test_parquet_unfolds_within_bounds(tmp_path, monkeypatch, columns, documents_, reasons, keeps_schema):
    """The bounds are 64 times as large in use."""
    monkeypatch.setattr(work_units, "LONGEST_DOCUMENT", 1 << 20)
    monkeypatch.setattr(parquet, "HELD", 4 << 20)
    monkeypatch.setattr(parquet, "MINIMUM_BYTES", 8_100_000)
    monkeypatch.setattr(parquet, "MINIMUM_ROWS", 9_000)
    monkeypatch.setattr(parquet, "UNFOLDED", 1)
    pyarrow.parquet.write_table(pa.table(columns), tmp_path / "a.parquet", compression="zstd", store_schema=keeps_schema)
    statistics, pool = Statistics(), pa.default_memory_pool()
    del columns
    before, most, count = pool.bytes_allocated(), 0, 0
    for unit in work_units.split_source(str(tmp_path), 1 << 30):
        for _ in work_units.read(unit, statistics):
            count, most = count + 1, max(most, pool.bytes_allocated() - before)
    assert count == documents_ and most <= 16 << 20
    dropped = {
        reason: amount if isinstance(reasons.get(reason), Amount) else amount.documents for reason, amount in statistics.dropped.items()
    }
    assert dropped == reasons
