"""Checkpoints that the disk has not kept, file by file."""

import pathlib

import jax
import numpy as np
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import checkpoint
from teleflm_jax.errors import UserError
from teleflm_jax.observability import run_log
from teleflm_jax.train import loop, restore
from tests import tiny
from tests.faults import commands
from tests.train import runs

pytestmark = pytest.mark.faults
OLDER, NEWEST, END = 6, 12, 18


def cut(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


DAMAGES = {"cut off": cut, "a bit flipped": flip, "removed": pathlib.Path.unlink}


def files(checkpoint_folder: pathlib.Path) -> list[str]:
    return list(commands.content(checkpoint_folder))


def plan(folder: pathlib.Path, steps: int) -> loop.Plan:
    layout = rules.layout(MeshConfig(), 32, jax.devices()[:1])
    return runs.plan(folder, tiny.CONFIG, layout, steps=steps, microbatch_size=24, checkpoint_every=6)


def begin(of: loop.Plan) -> restore.Restored:
    return restore.restore(of.folder, of.model, of.mup, of.train, of.layout, of.identity)


@pytest.fixture(scope="module")
def part(tmp_path_factory):
    """A run with two checkpoints, what it goes on from at each, and its rows when it goes on to the end."""
    folder = tmp_path_factory.mktemp("part") / "run"
    begun = {}
    for step in (OLDER, NEWEST):
        assert loop.train(plan(folder, step)).outcome == "completed"
        begun[step] = begin(plan(folder, END))
    whole = commands.copy(folder, folder.parent / "whole")
    assert loop.train(plan(whole, END)).outcome == "completed"
    return folder, begun, commands.exact_rows(whole)


def test_damage_to_any_file_of_the_newest_checkpoint_is_found_or_harmless(part, tmp_path, happened):
    folder, begun, whole = part
    newest = pathlib.Path(checkpoint.FOLDER, str(NEWEST))
    aside = pathlib.Path(checkpoint.FOLDER, f"{NEWEST}{checkpoint.ASIDE}")
    for name, damage in DAMAGES.items():
        found, harmless = [], []
        for number, file in enumerate(files(folder / newest)):
            run = commands.copy(folder, tmp_path / f"{name} {number}")
            damage(run / newest / file)
            damaged = commands.content(run / newest)
            older = commands.content(run / checkpoint.FOLDER / str(OLDER))
            beginning = begin(plan(run, END))
            step = beginning.counters.updates
            (found if beginning.set_aside else harmless).append(file)
            assert step == (OLDER if beginning.set_aside else NEWEST), (name, file)
            jax.tree.map(np.testing.assert_array_equal, beginning.state, begun[step].state)
            assert beginning.counters == begun[step].counters and beginning.mixture == begun[step].mixture
            assert [step for step, _ in beginning.set_aside] == [NEWEST] * (step == OLDER)
            assert commands.content(run / (aside if beginning.set_aside else newest)) == damaged
            assert commands.content(run / checkpoint.FOLDER / str(OLDER)) == older
            if number % 9 == 0:  # the state decides the rows; here it is seen
                assert loop.train(plan(run, END)).outcome == "completed"
                assert commands.exact_rows(run) == whole, (name, file)
        assert any("/d/" in file for file in found) and checkpoint.MARKER in found
        kinds = ", ".join(sorted({pathlib.Path(file).name for file in harmless})) or "none"
        sees = "`the checkpoint of step N is damaged (…); it was set aside, and the run resumes from step M`"
        told = f"set aside in {len(found)} cases; harmless in {len(harmless)} ({kinds}); state and rows equal"
        happened(f"each of {len(found) + len(harmless)} files of the newest checkpoint {name}", sees, 0, told)


def test_with_all_checkpoints_damaged_nothing_is_touched(part, tmp_path):
    run = commands.copy(part[0], tmp_path / "run")
    for step in (OLDER, NEWEST):
        flip(next((run / checkpoint.FOLDER / str(step) / "model" / "ocdbt.process_0" / "d").iterdir()))
    before = commands.content(run)
    with pytest.raises(UserError, match="got no sound checkpoint in .*nothing was changed"):
        begin(plan(run, END))
    assert commands.content(run) == before


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize(
    "name, file", [("a bit flipped", "*/ocdbt.process_{}/d/*"), ("removed", "_CHECKPOINT_METADATA"), ("cut off", "model/d/*")]
)
def test_a_run_falls_back_to_the_newest_sound_checkpoint(small, whole, half, tmp_path, happened, processes, name, file):
    folder = commands.copy(half(processes), tmp_path / "run")
    *_, older, newest = commands.sound(folder)
    path = next((folder / checkpoint.FOLDER / str(newest)).glob(file.format(processes - 1)))
    DAMAGES[name](path)
    said = small.run(folder, processes)
    (line,) = [line for line in said.splitlines() if f"the checkpoint of step {newest} is damaged (" in line]
    assert line.endswith(f"it was set aside, and the run resumes from step {older}")
    assert (folder / checkpoint.FOLDER / f"{newest}{checkpoint.ASIDE}").is_dir()
    commands.assert_same_run(folder, whole(processes))
    assert [row["step"] for row in run_log.rows(folder / run_log.EVENTS) if row["event"] == "damaged"] == [newest]
    short = pathlib.Path(file).parent.name + "/…" if file.endswith("*") else file
    happened(f"{short} of the newest checkpoint {name}, {processes} process(es)", f"`{line}`", 0, "renamed; older unharmed; rows equal")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_without_a_sound_checkpoint_stops_and_touches_nothing(small, half, tmp_path, happened, processes):
    folder = commands.copy(half(processes), tmp_path / "run")
    for step in commands.sound(folder):
        flip(next((folder / checkpoint.FOLDER / str(step)).glob(f"*/ocdbt.process_{processes - 1}/d/*")))
    before = commands.content(folder)
    line = commands.one_line(small.run(folder, processes, code=2).splitlines()[-1] + "\n")
    assert "got no sound checkpoint in " in line and "nothing was changed" in line
    assert commands.content(folder) == before
    happened(f"all checkpoints damaged, {processes} process(es)", f"`{line.replace(str(folder), '…')}`", 2, "unchanged")
