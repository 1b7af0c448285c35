import gzip
import json

import pyarrow
import pyarrow.parquet
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import local_data
from tests.evaluate import asked

ROWS = [{"q": "a\nb", "n": 1}, {"q": "你好", "n": 2}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    "name, place",
    [
        ("easy", "o/set/easy/val.jsonl"),
        ("easy", "o/set/val/easy.json"),
        ("easy", "o/set/easy/data/val-00000-of-00001.json"),
        (None, "o/set/val.json"),
        (None, "o/set/data/val-00000-of-00001.jsonl"),
        (None, "o/set/m-val.json"),
    ],
)
def test_a_copy_of_the_set_s_repository_will_do(tmp_path, name, place):
    asked.put(tmp_path / place, LINES)
    asked.put(tmp_path / "o/set/easy/other.jsonl", LINES)
    assert local_data.find(tmp_path, "o/set", name, "val") == [tmp_path / place]


def test_a_configuration_is_never_taken_for_another(tmp_path):
    asked.put(tmp_path / "o/set/val.jsonl", LINES)
    with pytest.raises(UserError, match=r"got no val items of the data set o/set \(easy\) in .*put them at .*/o/set/easy/val.jsonl"):
        local_data.find(tmp_path, "o/set", "easy", "val")


def test_every_format_gives_the_same_items(tmp_path):
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "lines.json").write_text(LINES, encoding="utf-8")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(LINES.encode()))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for file in tmp_path.iterdir():
        assert local_data.read([file]) == ROWS, file
    (tmp_path / "a.csv").write_text('q,n\n"a\nb",1\n你好,2\n', encoding="utf-8")
    assert local_data.read([tmp_path / "a.csv"]) == [{"q": row["q"], "n": str(row["n"])} for row in ROWS]


def test_an_item_that_is_no_object_keeps_its_text(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([[["p"], [{"question": "q"}], "id"]]))
    (item,) = local_data.read([tmp_path / "a.json"])
    assert json.loads(item[local_data.WRAPPED]) == [["p"], [{"question": "q"}], "id"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"\n"])
def test_a_file_that_holds_nothing_is_one_line(tmp_path, content):
    for ending in (".jsonl", ".parquet", ".jsonl.gz"):
        (tmp_path / f"a{ending}").write_bytes(content)
        with pytest.raises(UserError, match="^got .*; allowed: .*; put .*$"):
            local_data.read([tmp_path / f"a{ending}"])
