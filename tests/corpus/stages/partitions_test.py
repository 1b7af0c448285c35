import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.corpus import rows
from teleflm_jax.corpus.stages import partitions
from teleflm_jax.documents import statistics
from teleflm_jax.documents.statistics import Amount, Statistics


def batches(*texts):
    return list(rows.batches([(i, "web", "s", f"o {i}", "", "", "en", None, text) for i, text in enumerate(texts)], rows.DOCUMENT))


def write(folder, number, *texts):
    counted = Statistics()
    partitions.write(folder, number, counted.leaving(counted.entering(batches(*texts))), rows.DOCUMENT, counted)
    return counted


def texts(folder, number):
    return [text for batch in partitions.read(folder, number) for text in batch["text"].to_pylist()]


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_stage_is_begun_written_and_finished_and_then_left_alone(tmp_path):
    stage = tmp_path / "work" / "1-read"
    assert partitions.begin(stage, {"a": 1})
    counted = [write(stage, 0, "one", "zwei ß"), write(stage, 1, "three")]
    whole = partitions.finish(stage, 2, said="so")
    assert names(stage) == ["begun.json", "manifest.json"] + [f"part-00000{i}.{kind}" for i in (0, 1) for kind in ("json", "parquet")]
    assert whole == statistics.merge(counted) == partitions.statistics_of(stage) and whole.into == Amount(3, 15)
    manifest = partitions.read_json(stage / "manifest.json")
    assert (manifest["finished"], manifest["parts"], manifest["said"]) == (True, 2, "so")
    assert not partitions.begin(stage, {"a": 1}) and texts(stage, 0) == ["one", "zwei ß"]


def test_a_stopped_stage_goes_on_with_the_parts_that_are_missing(tmp_path):
    partitions.begin(tmp_path / "stage", [1])
    write(tmp_path / "stage", 1, "done")
    assert partitions.begin(tmp_path / "stage", [1])
    assert partitions.done(tmp_path / "stage") == {1}
    assert texts(tmp_path / "stage", 1) == ["done"]


@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_remove_what_was_there(tmp_path, finished):
    stage = tmp_path / "stage"
    partitions.begin(stage, {"a": 1})
    write(stage, 0, "old")
    (stage / "step" / "part=0").mkdir(parents=True)
    (stage / "step" / "part=0" / "a.parquet").write_text("old")
    if finished:
        partitions.finish(stage, 1)
    before = partitions.fingerprint(stage)
    assert partitions.begin(stage, {"a": 2}) and names(stage) == ["begun.json"] and 0 not in partitions.done(stage)
    assert partitions.fingerprint(stage) != before
    partitions.begin(stage, {"a": 1})
    assert partitions.fingerprint(stage) == before


def test_another_version_of_the_program_removes_what_was_there(tmp_path, monkeypatch):
    partitions.begin(tmp_path, 1)
    write(tmp_path, 0, "old")
    monkeypatch.setattr(partitions, "VERSION", partitions.VERSION + 1)
    assert partitions.begin(tmp_path, 1) and names(tmp_path) == ["begun.json"]


def test_a_folder_without_its_beginning_is_begun_anew(tmp_path):
    partitions.begin(tmp_path, 1)
    write(tmp_path, 0, "old")
    partitions.finish(tmp_path, 1)
    (tmp_path / "begun.json").unlink()
    assert partitions.begin(tmp_path, 1) and names(tmp_path) == ["begun.json"]


def test_a_part_that_breaks_off_leaves_nothing(tmp_path):
    def broken():
        yield from batches("one")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        partitions.write(tmp_path, 0, broken(), rows.DOCUMENT, Statistics())
    assert names(tmp_path) == [] and 0 not in partitions.done(tmp_path)


def test_a_half_written_temporary_never_counts(tmp_path):
    partitions.begin(tmp_path, 1)
    (tmp_path / "part-000000.99999.tmp").write_bytes(b"PAR1 half")
    (tmp_path / ".part-000000.json.99999.tmp").write_text('{"into"')
    assert partitions.begin(tmp_path, 1) and 0 not in partitions.done(tmp_path)
    write(tmp_path, 0, "whole")
    assert 0 in partitions.done(tmp_path) and texts(tmp_path, 0) == ["whole"] and partitions.finish(tmp_path, 1).into.documents == 1


def test_documents_without_statistics_are_not_done_and_are_written_again(tmp_path):
    def broken():
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError):
        partitions.write(tmp_path, 0, batches("old"), rows.DOCUMENT, Statistics(), beside=broken)
    assert names(tmp_path) == ["part-000000.parquet"] and 0 not in partitions.done(tmp_path)
    partitions.write(tmp_path, 0, batches("new"), rows.DOCUMENT, Statistics(), beside=lambda: (tmp_path / "beside").write_text(""))
    assert names(tmp_path) == ["beside", "part-000000.json", "part-000000.parquet"] and texts(tmp_path, 0) == ["new"]


def test_a_stage_with_a_part_missing_cannot_be_finished(tmp_path):
    partitions.begin(tmp_path, 1)
    write(tmp_path, 0, "one")
    with pytest.raises(FileNotFoundError):
        partitions.finish(tmp_path, 2)
    assert partitions.begin(tmp_path, 1)


def test_batches_come_back_as_they_were_written(tmp_path):
    written = [batches(*map(str, range(first, last)))[0] for first, last in ((0, 3), (3, 4), (4, 900))]
    partitions.write(tmp_path, 0, written, rows.DOCUMENT, Statistics())
    assert list(partitions.read(tmp_path, 0)) == written
    assert [batch.schema.names for batch in partitions.read(tmp_path, 0, ["id", "text"])] == [["id", "text"]] * 3
    partitions.write(tmp_path, 1, [], rows.DOCUMENT, Statistics())
    assert list(partitions.read(tmp_path, 1)) == [] and pq.read_schema(partitions.path(tmp_path, 1)) == rows.DOCUMENT


def test_equal_parts_are_equal_bytes(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name, 3, "one", "two")
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_rows_of_a_table_are_those_of_a_part(tmp_path):
    for partition in (0, 1):
        (tmp_path / f"part={partition}").mkdir()
        for piece, text in enumerate("ab"):
            pq.write_table(pa.table({"id": [partition], "text": [text]}), tmp_path / f"part={partition}" / f"{piece}.parquet")
    assert list(partitions.rows_of(tmp_path, 1)) == [{"id": 1, "text": "a"}, {"id": 1, "text": "b"}]
    assert list(partitions.rows_of(tmp_path, 2)) == []


RULES = st.sampled_from(["length", "语言", "a b"])
EVENTS = st.lists(st.tuples(st.sampled_from(["drop", "change", "enter", "leave", "count"]), RULES, st.text(max_size=20)), max_size=12)


def statistics_of(events):
    counted = Statistics()
    for kind, rule, text in events:
        if kind in ("drop", "change"):
            getattr(counted, kind)(rule, f"origin of {rule}", text)
        elif kind == "count":
            counted.distributions[rule][text] += 1
        else:
            list((counted.entering if kind == "enter" else counted.leaving)(batches(text)))
    return counted


@given(EVENTS)
def test_statistics_survive_json(events):
    counted = statistics_of(events)
    written = json.dumps(statistics.to_json(counted), ensure_ascii=False)
    again = statistics.from_json(json.loads(written))
    assert again == counted and json.dumps(statistics.to_json(again), ensure_ascii=False) == written
    again.drop("new", "origin", b"\xff" * 3)
    again.distributions["new"]["value"] += 1
    assert again.dropped["new"] == Amount(1, 3)


@given(st.lists(EVENTS, max_size=4))
def test_merged_statistics_are_those_of_everything(several):
    apart = [statistics_of(events) for events in several]
    before = json.dumps([statistics.to_json(one) for one in apart])
    assert statistics.merge(apart) == statistics_of([event for events in several for event in events])
    assert json.dumps([statistics.to_json(one) for one in apart]) == before


def test_samples_are_the_first_ones_and_short():
    counted = Statistics()
    for i in range(statistics.SAMPLES + 3):
        counted.drop("rule", f"{i}" * 1000, b"\xe4\xbd\xa0" * 5000 if i else "é" * 5000, 7 if i else None)
    held = counted.samples["rule"]
    assert [sample["origin"][0] for sample in held] == [str(i) for i in range(statistics.SAMPLES)]
    assert {len(value) for sample in held for value in sample.values()} == {statistics.SAMPLE_CHARACTERS}
    assert counted.dropped["rule"] == Amount(statistics.SAMPLES + 3, 10_000 + 7 * (statistics.SAMPLES + 2))
    assert statistics.total(counted.dropped) == counted.dropped["rule"]


def test_leftovers_of_this_process_are_not_in_the_way(tmp_path):
    (tmp_path / f".part-000000.parquet.{os.getpid()}.tmp").write_bytes(b"half")
    write(tmp_path, 0, "whole")
    assert names(tmp_path) == ["part-000000.json", "part-000000.parquet"]
