"""Files that appear whole or not at all."""

import os

import pytest

from teleflm_jax import atomic_write


def test_a_file_appears_when_the_block_ends_and_nothing_else_stays(tmp_path):
    path = tmp_path / "file"
    for content in (b"one", b"two"):
        before = path.read_bytes() if path.exists() else None
        with atomic_write.replacing(path) as temporary:
            temporary.write_bytes(content)
            assert temporary.parent == tmp_path and (path.read_bytes() if path.exists() else None) == before
        assert path.read_bytes() == content and os.listdir(tmp_path) == ["file"]
    atomic_write.write(str(path), b"three")
    assert path.read_bytes() == b"three" and os.listdir(tmp_path) == ["file"]


def test_an_error_leaves_the_former_file_and_nothing_half_written(tmp_path):
    path = tmp_path / "file"
    for former in ([], ["file"]):
        with pytest.raises(KeyboardInterrupt), atomic_write.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise KeyboardInterrupt
        assert os.listdir(tmp_path) == former
        path.write_bytes(b"former")
    assert path.read_bytes() == b"former"


def test_the_content_reaches_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}"))) or fsync(file))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("replace") or replace(*names))
    atomic_write.write(tmp_path / "file", b"content")
    assert done == [f".file.{os.getpid()}.tmp", "replace", tmp_path.name]


def test_leftovers_of_killed_writers_are_removed_and_other_files_stay(tmp_path):
    for name in (".a[b].1.tmp", ".a[b].23.tmp", "a[b]", ".ab.1.tmp", ".a[b]c.1.tmp"):
        (tmp_path / name).touch()
    atomic_write.remove_leftovers(tmp_path / "a[b]")
    assert sorted(os.listdir(tmp_path)) == [".a[b]c.1.tmp", ".ab.1.tmp", "a[b]"]
