"""Disks that are full or may not be written."""

import os
import pathlib
import subprocess

import pytest

from tests.faults import commands

pytestmark = pytest.mark.faults
KEEP_ALL = "train.keep_last = 100"
"""Some 14 MB in the end."""


@pytest.fixture
def disk(tmp_path):
    """A small disk, and how to mount it anew with other options."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options, *what):
        return subprocess.run(["mount", "-o", options, *what, str(place)], check=False, capture_output=True)

    if os.geteuid() or mount("size=6m", "-t", "tmpfs", "none").returncode:
        pytest.skip("mounting a disk needs root and the right to mount")
    yield place, mount
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def remount(mount, options):
    assert mount(f"remount,{options}").returncode == 0


@pytest.mark.parametrize("processes", [1, 2])
def test_a_save_that_fills_the_disk_is_one_line_and_harms_nothing(small, whole, disk, happened, processes):
    place, mount = disk
    folder = place / "run"
    said = small.run(folder, processes, KEEP_ALL, code=2)
    line = next(line.removeprefix("[1] ") for line in said.splitlines() if "error: " in line)  # of two, either may meet it first
    assert "No space left on device; allowed: a disk with room left" in line and said.count("error: ") == 1, said
    assert "Traceback" not in said
    saved = commands.sound(folder)
    assert len(saved) > 2 and saved[-1] < commands.STEPS
    before = {step: commands.content(folder / "checkpoints" / str(step)) for step in saved}
    again = commands.one_line(small.run(folder, 1, KEEP_ALL, code=2)) if processes == 1 else ""
    assert commands.sound(folder) == saved, again
    remount(mount, "size=64m")
    small.run(folder, processes, KEEP_ALL)
    commands.assert_same_run(folder, whole(processes))
    assert before == {step: commands.content(folder / "checkpoints" / str(step)) for step in saved}
    told = line.replace(str(place), "…")
    happened(f"disk full during a save, {processes} process(es)", f"`{told}`", 2, "older ones unchanged; after more room rows equal")


def test_a_disk_that_others_fill_is_one_line(small, whole, disk, happened):
    place, mount = disk
    remount(mount, "size=64m")
    folder = place / "run"
    process = small.start(folder)
    assert commands.until(process, lambda: commands.num_rows(folder) > 8), process.communicate()
    fill(place / "ballast")
    line = commands.one_line("".join(f"{said}\n" for said in commands.ended(process, 2).splitlines() if said.startswith("error")))
    assert f"got {folder}" in line and "No space left on device" in line
    again = commands.one_line(small.run(folder, code=2))
    commands.sound(folder)
    (place / "ballast").unlink()
    small.run(folder)
    commands.assert_same_run(folder, whole(1))
    told, again = line.replace(str(place), "…"), again.replace(str(place), "…")
    happened("disk filled by others while running", f"`{told}`; started again: `{again}`", 2, "sound; after more room rows equal")


def fill(ballast: pathlib.Path) -> None:
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\0" * size):
                    pass
            except OSError:
                pass


def test_a_folder_that_may_not_be_written_is_one_line(small, whole, half, disk, happened):
    place, mount = disk
    remount(mount, "size=64m")
    for name, folder in {"fresh": place / "fresh", "half done": commands.copy(half(1), place / "run")}.items():
        before = commands.content(place)
        remount(mount, "ro")
        line = commands.one_line(small.run(folder, code=2))
        assert "Read-only file system; allowed: a disk that can be written" in line
        remount(mount, "rw")
        assert commands.content(place) == before
        small.run(folder)
        commands.assert_same_run(folder, whole(1))
        told = line.replace(str(place), "…")
        happened(f"read-only folder, run {name}", f"`{told}`", 2, "unchanged; once it may be written rows equal")
