import json
import os
import pathlib
import re
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teleflm_jax import checkpoint, checksum
from teleflm_jax.checkpoint import failures, paths
from teleflm_jax.checkpoint.record import seal
from teleflm_jax.cli import main as commands
from teleflm_jax.errors import UserError

IDENTITY = {"model.num_heads": 4, "tokenizer": "abc"}
KEEP = checkpoint.Retention(last=9, every=0, best=0)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    """No disk here needs a moment to show what was written."""
    monkeypatch.setattr(failures, "RETRY_SECONDS", 0)


def arrays(seed: int = 0) -> dict:
    weights = {"blocks": {"query": jax.random.normal(jax.random.key(seed), (2, 24, 24))}, "gain": jnp.ones(7)}
    return {"model": weights, "optimizer": {"count": jnp.int32(seed), "mu": jax.tree.map(jnp.zeros_like, weights)}}


def save(folder: pathlib.Path, *steps: int, retention=KEEP, bpbs=()) -> None:
    with checkpoint.writer(folder, retention) as writer:
        for step, bpb in zip(steps, bpbs or [None] * len(steps), strict=True):
            record = checkpoint.Record(counters={"updates": step, "tokens": 10 * step}, identity=IDENTITY)
            writer.save(step, arrays(step), record, checksum.of_tree(arrays(step))[0])
            if bpb is not None:
                writer.measured(step, bpb)


def shapes(tree=None) -> dict:
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), tree or arrays())


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    save(folder, 3, 6)
    return folder


def test_what_was_saved_comes_back(saved):
    assert checkpoint.steps(saved) == [3, 6]
    found, record = checkpoint.restore(saved, 6, shapes(), IDENTITY)
    jax.tree.map(np.testing.assert_array_equal, found, arrays(6))
    assert record.counters == {"updates": 6, "tokens": 60} and record.identity == IDENTITY
    assert checkpoint.verify(saved, 6).counters == record.counters
    part, _ = checkpoint.restore(saved, 3, {"model": shapes()["model"]}, {})
    jax.tree.map(np.testing.assert_array_equal, part, {"model": arrays(3)["model"]})


def test_a_layer_is_stored_apart_from_the_others(saved):
    record = checkpoint.read(saved, 6)
    for name, chunk in (("model/blocks/query", (1, 24, 24)), ("optimizer/mu/blocks/query", (1, 24, 24)), ("model/gain", (7,))):
        store = checkpoint.opened((saved / "6").resolve(), name, record.arrays[name]["is"])
        assert store.chunk_layout.read_chunk.shape == chunk


STRANGE = {
    "pattern": "lr=[0.1]",
    "slice": "a[0:1]",
    "negated": "[!a]",
    "star": "a*",
    "stars": "**",
    "question": "a?",
    "braces": "{x}",
    "backslash": "a\\b",
    "store": "gs:",
    "space": " a b ",
    "chinese": "运行-ü",
    "percent": "100%41",
    "hash": "a#b",
    "pipe": "|zip:",
    "newline": "a\nb",
    "bytes": os.fsdecode(b"\xff\xfe"),
    "long": "/".join(["y" * 200] * 19),
}
"""Names of folders that a library could take for something else than a name."""


@pytest.mark.parametrize("name", STRANGE.values(), ids=STRANGE)
def test_what_was_saved_comes_back_from_a_folder_of_any_name(tmp_path, name):
    folder = tmp_path / name / "checkpoints"
    folder.parent.mkdir(parents=True)
    save(folder, 3, 6)
    assert checkpoint.steps(folder) == [3, 6]
    found, _ = checkpoint.restore(folder, 6, shapes(), IDENTITY)
    jax.tree.map(np.testing.assert_array_equal, found, arrays(6))
    assert checkpoint.verify(folder, 3).counters == {"updates": 3, "tokens": 30}


def test_a_folder_whose_name_is_a_pattern_takes_nothing_from_those_that_match_it(tmp_path):
    for name in ("ab", "a*", "a?"):
        (tmp_path / name).mkdir()
        save(tmp_path / name / "checkpoints", len(name + "x" * (name == "ab")))
    other = tmp_path / "ab/checkpoints/3/model"
    shutil.copytree(other, tmp_path / "ab/checkpoints/4.orbax-checkpoint-tmp/model.orbax-checkpoint-tmp")  # a save that is under way
    save(tmp_path / "a*/checkpoints", 4)
    found, _ = checkpoint.restore(tmp_path / "a*/checkpoints", 4, shapes(), IDENTITY)
    jax.tree.map(np.testing.assert_array_equal, found, arrays(4))


def test_where_the_system_cannot_name_such_a_folder_it_is_refused_before_anything_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DESCRIPTORS", tmp_path / "none")
    with pytest.raises(UserError, match=r"got .*lr=\[0\.1\].*; allowed on this system: .*; use another folder"):
        (tmp_path / "lr=[0.1]").mkdir()
        save(tmp_path / "lr=[0.1]", 3)
    assert list((tmp_path / "lr=[0.1]").iterdir()) == []


def test_a_save_that_cannot_be_read_back_is_not_silent(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MISREAD", re.compile("(?!)"))  # as if nobody had foreseen it: Orbax merges nothing and reports no error
    (tmp_path / "lr=[0.1]").mkdir()
    with pytest.raises(UserError, match=r"got the checkpoint of step 3 in .* cannot be read back \(.*\); allowed: .*use another folder"):
        save(tmp_path / "lr=[0.1]", 3)


def test_what_a_probe_reads_is_missed_where_it_is_lost(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    for part in checkpoint.PARTS:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder)
        checkpoint.probe(folder, 6)
        for data in (folder / "6" / part).rglob("d/*"):
            data.write_bytes(bytes(data.stat().st_size))
        with pytest.raises(ValueError):  # Damaged, or TensorStore's
            checkpoint.probe(folder, 6)


def damages(path: pathlib.Path):
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 4
    yield "truncated", lambda: path.write_bytes(whole[: len(whole) // 2])
    yield "flipped", lambda: path.write_bytes(bytes(flipped))
    yield "removed", path.unlink


def test_whatever_is_damaged_is_noticed_or_has_done_no_harm(saved, tmp_path):
    """A file of each kind in one of three ways, and those that must be noticed in all of them; `make test-faults` does all files."""
    noticed, seen = set(), set()
    folder = tmp_path / "checkpoints"
    names = sorted(path.relative_to(saved) for path in (saved / "6").rglob("*") if path.is_file())
    must = ("manifest.ocdbt", "data", checkpoint.MARKER)
    for number, name in enumerate(names):
        kind_of_file = "data" if "d" in name.parts else name.name
        if (name.parts[1], kind_of_file) in seen:
            continue
        seen.add((name.parts[1], kind_of_file))
        every_way = kind_of_file in must and "optimizer" not in name.parts
        for how in range(3) if every_way else [number % 3]:
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(saved, folder)
            kind, damage = list(damages(folder / name))[how]
            damage()
            try:
                found, _ = checkpoint.restore(folder, 6, shapes(), IDENTITY)
            except checkpoint.Damaged as error:
                assert str(folder / "6") in str(error) and error.reason
                noticed.add((kind_of_file, kind))
            else:
                jax.tree.map(np.testing.assert_array_equal, found, arrays(6))
            jax.tree.map(np.testing.assert_array_equal, checkpoint.restore(folder, 3, shapes(), IDENTITY)[0], arrays(3))
    for file in must:
        assert {(file, kind) for kind in ("truncated", "flipped", "removed")} <= noticed
    assert len(names) > 12


def test_a_flipped_bit_in_an_array_is_named_by_restore_and_by_verify(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    data = max((folder / "6" / "model").rglob("d/*"), key=lambda file: file.stat().st_size)
    whole = bytearray(data.read_bytes())
    whole[len(whole) // 2] ^= 1
    data.write_bytes(whole)
    with pytest.raises(checkpoint.Damaged, match="model/blocks/query"):
        checkpoint.restore(folder, 6, shapes(), IDENTITY)
    with pytest.raises(checkpoint.Damaged, match="model/blocks/query"):
        checkpoint.verify(folder, 6)
    checkpoint.restore(folder, 6, {"optimizer": shapes()["optimizer"]}, IDENTITY)


def test_metadata_that_only_orbax_reads_are_verified_too(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    for change, reason in (
        (lambda text: text.replace('"key": "gain"', '"key": "gait"'), "other arrays"),
        (lambda text: text.replace("[2, 24, 24]", "[2, 24, 24"), "cannot be read"),
        (lambda text: text.replace('"value_type": "jax.Array"', '"value_type": "jax.Arrax"'), "metadata"),
    ):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(saved, folder)
        file = folder / "6" / "model" / "_METADATA"
        file.write_text(change(file.read_text()))
        with pytest.raises(checkpoint.Damaged, match=reason):
            checkpoint.verify(folder, 6)
        checkpoint.restore(folder, 6, shapes(), IDENTITY)


def test_a_record_that_was_edited_breaks_its_seal(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    marker = folder / "6" / checkpoint.MARKER
    content = json.loads(marker.read_text())
    content["custom_metadata"]["record"]["counters"]["tokens"] = 61
    marker.write_text(json.dumps(content))
    with pytest.raises(checkpoint.Damaged, match="not as it was written"):
        checkpoint.read(folder, 6)


def test_differences_are_all_found_and_ten_are_named(saved):
    wanted = shapes()
    wanted["model"]["gain"] = shapes({"x": jnp.ones(8)})["x"]
    wanted["model"]["more"] = {f"w{i:02}": wanted["model"]["gain"] for i in range(12)}
    with pytest.raises(
        UserError, match=r"model/gain is float32\[7\] there and float32\[8\] here; model/more/w00 is absent there.* and 3 more"
    ):
        checkpoint.restore(saved, 6, wanted, IDENTITY)
    with pytest.raises(UserError, match="model.num_heads is 4 there and 8 here"):
        checkpoint.restore(saved, 6, shapes(), IDENTITY | {"model.num_heads": 8})
    fewer = shapes()
    del fewer["optimizer"]["mu"]
    with pytest.raises(UserError, match="optimizer/mu/gain is .* there and absent here"):
        checkpoint.restore(saved, 6, fewer, IDENTITY)


def test_no_thread_with_its_files_outlives_a_save(tmp_path):
    """A run saves thousands of times: each thread holds three files, and the usual limit is 1,024."""
    record = checkpoint.Record(counters={"updates": 1}, identity=IDENTITY)
    with checkpoint.writer(tmp_path / "c", checkpoint.Retention(last=1, every=0, best=0)) as writer:
        for step in range(1, 4):
            writer.save(step, arrays(), record, checksum.of_tree(arrays())[0])
            assert sum("_run_loop" in thread.name for thread in threading.enumerate()) == 1
        writer.wait()
        assert not any("_run_loop" in thread.name for thread in threading.enumerate())


def test_retention_keeps_the_last_the_best_and_the_multiples(tmp_path):
    bpbs = [5.0, 1.0, 4.0, None, 2.0, 3.0]
    save(tmp_path / "c", 10, 20, 30, 40, 50, 60, retention=checkpoint.Retention(last=1, every=30, best=2), bpbs=bpbs)
    assert checkpoint.steps(tmp_path / "c") == [20, 30, 50, 60]


def test_a_figure_that_comes_after_the_last_save_decides_what_stays(tmp_path):
    retention = checkpoint.Retention(last=1, every=0, best=1)
    save(tmp_path / "c", 10, 20, retention=retention, bpbs=[1.0, 2.0])
    with checkpoint.writer(tmp_path / "c", retention, {10: 1.0, 20: 2.0}) as writer:
        record = checkpoint.Record(counters={"updates": 30}, identity=IDENTITY)
        writer.save(30, arrays(30), record, checksum.of_tree(arrays(30))[0])
        assert not writer.measured(30, 1.0)  # no better than the first
        writer.wait()
        writer.prune()
        assert checkpoint.steps(tmp_path / "c") == [10, 30]
        assert writer.measured(30, 0.9)
        writer.prune()
        assert checkpoint.steps(tmp_path / "c") == [30] and not writer.holds(10)
    jax.tree.map(np.testing.assert_array_equal, checkpoint.restore(tmp_path / "c", 30, shapes(), IDENTITY)[0], arrays(30))


def test_a_record_with_a_name_that_is_not_known_is_read_without_it(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "c")
    marker = tmp_path / "c" / "6" / checkpoint.MARKER
    content = json.loads(marker.read_text())
    content["custom_metadata"] = seal(content["custom_metadata"]["record"] | {"bpb": 1.5})
    marker.write_text(json.dumps(content))
    assert checkpoint.read(tmp_path / "c", 6) == checkpoint.read(saved, 6)


def test_a_damaged_checkpoint_frees_its_step_and_is_not_deleted(saved, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    before = sorted(path.name for path in (folder / "6").iterdir())
    assert checkpoint.set_aside(folder, 6).name == "6.damaged"
    save(folder, 6)
    assert checkpoint.set_aside(folder, 6).name == "6.damaged-2"
    assert checkpoint.steps(folder) == [3] and sorted(path.name for path in (folder / "6.damaged").iterdir()) == before


def test_the_command_lists_and_verifies(saved, tmp_path, capsys):
    assert commands.main(["checkpoints", str(saved.parent), "--verify"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("sound: every array") == 2 and "60" in printed and "1.2345" not in printed
    (saved.parent / "evals.jsonl").write_text('{"step": 6, "bpb": 1.23454}\n{"step": 3, "suite/x": 0.5}\n{"step": 9, "bpb": NaN}\n')
    assert commands.main(["checkpoints", str(saved.parent)]) == 0
    assert "1.2345" in capsys.readouterr().out
    folder = tmp_path / "checkpoints"
    shutil.copytree(saved, folder)
    (folder / "6" / "model" / "manifest.ocdbt").write_bytes(b"")
    assert commands.main(["checkpoints", str(tmp_path)]) == 0
    assert commands.main(["checkpoints", str(tmp_path), "--verify"]) == 1
    assert "damaged: " in capsys.readouterr().out
    with pytest.raises(UserError, match="without checkpoints/"):
        commands.main(["checkpoints", str(tmp_path / "nowhere")])


def _resealed(saved, tmp_path, change) -> pathlib.Path:
    """A copy of step 6 whose record was changed and sealed again, as whoever wrote it could."""
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    marker = folder / "6" / checkpoint.MARKER
    found = json.loads(marker.read_text())
    record = found["custom_metadata"]["record"]
    change(record)
    marker.write_text(json.dumps(found | {"custom_metadata": seal(record)}))
    return folder


QUERY = "model/blocks/query"
OTHER_TYPES = {
    "counters that are none": lambda record: record.update(counters=[1]),
    "a counter in words": lambda record: record["counters"].update(tokens="many"),
    "a counter beyond 64 bits": lambda record: record["counters"].update(tokens=10**30),
    "a counter that is true": lambda record: record["counters"].update(tokens=True),
    "an identity that is none": lambda record: record.update(identity=7),
    "arrays that are none": lambda record: record.update(arrays=[QUERY]),
    "an array that is none": lambda record: record["arrays"].update({QUERY: None}),
    "a checksum in words": lambda record: record["arrays"][QUERY].update(checksum="1"),
    "a shape of 80,000 dimensions": lambda record: record["arrays"][QUERY].update({"is": f"float32{[1] * 80_000}"}),
    "a shape of long numbers": lambda record: record["arrays"][QUERY].update({"is": f"float32[{'9' * 4000}]"}),
    "a shape that is none": lambda record: record["arrays"][QUERY].update({"is": 5}),
    "an array of another folder": lambda record: record["arrays"].update({"../6/model/gain": record["arrays"]["model/gain"]}),
    "a mixture in words": lambda record: record.update(mixture="none"),
    "a mixture without weights": lambda record: record.update(mixture=[[0, 1]]),
    "a mixture of words": lambda record: record.update(mixture=[[0, {"a": "b"}]]),
    "a mixture that begins in words": lambda record: record.update(mixture=[["a", {}]]),
    "a deep record": lambda record: record["identity"].update(deep=json.loads("[" * 90 + "]" * 90)),
}


@pytest.mark.parametrize("name", OTHER_TYPES)
def test_a_record_of_other_types_is_damage_although_it_is_sealed(saved, tmp_path, capsys, name):
    folder = _resealed(saved, tmp_path, OTHER_TYPES[name])
    with pytest.raises(checkpoint.Damaged, match="not as it was written"):
        checkpoint.read(folder, 6)
    (folder.parent / "run").mkdir()
    folder.rename(folder.parent / "run" / "checkpoints")
    assert commands.main(["checkpoints", str(folder.parent / "run")]) == 1
    assert "damaged: _CHECKPOINT_METADATA is not as it was" in " ".join(capsys.readouterr().out.split())


def test_arrays_that_its_files_cannot_hold_are_damage_before_memory_is_taken(saved, tmp_path):
    folder = _resealed(saved, tmp_path, lambda record: record["arrays"][QUERY].update({"is": "float32[1000000, 1000000]"}))
    for read in (checkpoint.read, checkpoint.verify, checkpoint.probe):
        with pytest.raises(checkpoint.Damaged, match="its arrays have 1,000,0.* values and its files"):
            read(folder, 6)


@pytest.mark.parametrize("name", [checkpoint.MARKER, "model/_METADATA", "model/manifest.ocdbt", "model/array_metadatas/process_0"])
@pytest.mark.parametrize("kind", ["a FIFO", "a device", "a deep file"])
def test_what_would_never_be_read_to_its_end_is_damage(saved, tmp_path, name, kind):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    path = folder / "6" / name
    path.unlink()
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.write_text("[" * 1_000_000)
    with pytest.raises(checkpoint.Damaged):
        checkpoint.verify(folder, 6)


def test_folders_whose_names_no_step_has_are_none(saved, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(saved, folder)
    for name in ("9" * 200, "99999999999", "007", "-1", "\u0663", "6.damaged"):
        (folder / name).mkdir()
        (folder / name / checkpoint.MARKER).touch()
    assert checkpoint.numbered(folder) == [3, 6]
