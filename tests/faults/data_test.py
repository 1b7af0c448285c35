"""Packed data that the disk has not kept."""

import shutil

import pytest

from teleflm_jax.observability import run_log
from tests.faults import commands

pytestmark = pytest.mark.faults


@pytest.fixture
def packed(small):
    """A copy of the packed data, and the binding that names it."""
    place = small.root / "packed-copy"
    shutil.rmtree(place, ignore_errors=True)
    return commands.copy(small.root / "packed", place), f"data.packed = '{place}'"


@pytest.mark.parametrize("processes", [1, 2])
def test_a_damaged_record_is_named_and_the_run_goes_on_with_a_sound_file(small, whole, packed, tmp_path, happened, processes):
    place, binding = packed
    (shard,) = (place / "email").glob("train-*")
    sound = shard.read_bytes()
    shard.write_bytes(sound[: len(sound) // 2] + bytes([sound[len(sound) // 2] ^ 1]) + sound[len(sound) // 2 + 1 :])
    folder = tmp_path / "run"
    said = small.run(folder, processes, binding, code=2)
    (line,) = [line for line in said.splitlines() if "error: " in line]
    assert f"error: got a damaged record in {shard} (record " in line and "restore that file from a copy" in line, said
    assert "Traceback" not in said
    commands.sound(folder)
    reached = commands.num_rows(folder)
    shard.write_bytes(sound)
    small.run(folder, processes, binding)
    commands.assert_same_run(folder, whole(processes))
    told = line.replace(str(shard), "…/email/train-….array_record")
    happened(f"a bit flipped in a packed shard, {processes} process(es)", f"`{told}`", 2, f"sound; reached step {reached}; then rows equal")


@pytest.mark.parametrize(
    "name, damage",
    [
        ("cut off", lambda text: text[: len(text) // 2]),
        ("empty", lambda text: ""),
        ("another JSON", lambda text: "[1]"),
        ("a field of another type", lambda text: text.replace('"records": ', '"records": -0.5, "was": ', 1)),
        ("not text", lambda text: "\udcff" + text),
    ],
)
def test_a_damaged_manifest_is_one_line(small, half, packed, tmp_path, happened, name, damage):
    place, binding = packed
    path = place / "json" / "manifest.json"
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8", errors="surrogateescape")
    folder = commands.copy(half(1), tmp_path / "run")
    before = commands.content(folder)
    line = commands.one_line(small.run(folder, 1, binding, code=2))
    assert str(path) in line and "pack --force" in line
    assert commands.content(folder) == before and list(run_log.rows(folder / run_log.METRICS))
    happened(f"manifest {name}", f"`{line.replace(str(path), '…/manifest.json')}`", 2, "unchanged")
