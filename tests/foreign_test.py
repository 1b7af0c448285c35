"""Files from other people: a file that is not plain, too large, too deep or not JSON is refused in one line at once."""

import os
import socket
import sys
import tracemalloc

import pytest

from teleflm_jax import foreign
from teleflm_jax.cli import options
from teleflm_jax.errors import UserError


def test_plain_files_are_read(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b'{"a": [1, "\xe4\xbd\xa0"]}')
    (tmp_path / "link.json").symlink_to("a.json")
    assert foreign.read_json(path) == foreign.read_json(foreign.inside(tmp_path, "link.json")) == {"a": [1, "你"]}
    assert foreign.read_text(path, 100) == '{"a": [1, "你"]}'
    assert foreign.read(path, path.stat().st_size) == path.read_bytes()
    with pytest.raises(UserError, match="more than 15 bytes"):
        foreign.read(path, 15)
    with pytest.raises(FileNotFoundError):
        foreign.read(tmp_path / "none", 1)


def test_what_is_no_plain_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(tmp_path / "socket"))
        for path in (tmp_path / "fifo", tmp_path / "folder", tmp_path / "socket", "/dev/zero"):
            with pytest.raises(UserError, match="not a plain file"):
                foreign.read(path, 10)
    with pytest.raises(UserError, match="not a plain file"):
        foreign.inside(tmp_path, "fifo")


def test_a_file_without_a_size_is_bounded_too():
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux has /proc")
    with pytest.raises(UserError, match="more than 4 bytes"):
        foreign.read("/proc/self/status", 4)


@pytest.mark.parametrize("name", ["", ".", "..", "../a", "a/b", "a\\b", "a\0b", "/etc/passwd", "link", "gone"])
def test_names_and_links_stay_in_their_folder(tmp_path, name):
    (tmp_path / "model").mkdir()
    (tmp_path / "a").write_text("a")
    (tmp_path / "model" / "link").symlink_to("../a")
    with pytest.raises(UserError, match="allowed"):
        foreign.inside(tmp_path / "model", name)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"[" * 65 + b"]" * 65, "more than 64 levels"),
        (b"[" * 1_000_000, "more than 64 levels"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "more than 64 levels"),
        (b'{"a": 1, "a": 2}', "duplicate name"),
        (b'["\\ud800"]', "surrogate"),
        (b'{"\\udfff": 1}', "surrogate"),
        (b"[" + b"9" * 5000 + b"]", "digits"),
        (b'"\xff"', "utf-8"),
        (b"{", "Expecting"),
    ],
)
def test_what_is_no_json_is_refused_with_the_reason(tmp_path, content, why):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=why):
        foreign.read_json(path)


def test_as_deep_as_allowed():
    assert foreign.parse_json("[" * 64 + "]" * 64)


def test_a_large_file_is_not_read_to_its_end(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    tracemalloc.start()
    with pytest.raises(UserError, match="more than 1,000 bytes"):
        foreign.read(path, 1000)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_messages_are_one_line_that_steers_no_terminal(capsys):
    assert foreign.printable("a\x1b[2J\rb\u202ec\udc80 你好") == "a\\u001b[2J\\rb\\u202ec\\udc80 你好"
    assert len(foreign.printable("x" * 10_000_000)) < 2_100

    def refuse():
        raise UserError("got \x1b]0;title\x07 a\nb; allowed: c")

    assert options.run_command(refuse) == 2
    assert capsys.readouterr().err == "error: got \\u001b]0;title\\u0007 a b; allowed: c\n"
