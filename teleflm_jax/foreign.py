"""Files that others made: plain files only, read within limits of size and nesting, and shown without what steers a terminal.

Every reader of a foreign model, run folder or configuration goes through here; readers of a corpus have bounds of their own, since they
count what is damaged and go on.
"""

import json
import os
import pathlib
import stat
from typing import Any, BinaryIO

from teleflm_jax import links
from teleflm_jax.errors import UserError

LARGEST_JSON = 1 << 28
"""Bytes of a JSON file; the largest tokenizers have some 30 MB."""
DEEPEST = 64
"""Values inside each other; files of models have fewer than ten. Python's own limit is its stack."""
MOST_VALUES = 1 << 23
"""Marks in JSON that part its values, which bound their number: some bytes of it may take a hundred of memory. The largest tokenizers have
three million."""
LONGEST_LINE = 2_000
"""Characters of a message; of a longer one the middle is left out."""


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Return the path of a plain file that lies in a folder after links, or in the blobs of the folder's own snapshot.

    Raises:
        UserError: the name or a link leaves the folder, or the file is missing or no plain one.
    """
    path = folder / name
    is_name = name not in ("", ".", "..") and not set(name) & set("/\\\0")
    if not is_name or (path.resolve().parent != folder.resolve() and not links.is_blob(path, links.blobs(folder))):
        raise UserError(
            f"got the file name {name!r} in {folder}, which leaves the folder; allowed: files that lie in it; copy them there (cp -L)"
        )
    if not path.exists():
        raise UserError(f"got {folder} without {name}; allowed: a folder that has it; fetch it again")
    if not path.is_file():
        raise _not_plain(path)
    return path


def open_plain(path: str | os.PathLike) -> BinaryIO:
    """Open a plain file for reading, without waiting for whoever might write into a FIFO.

    Raises:
        UserError: it is a FIFO, a device, a socket or a folder.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if pathlib.Path(path).is_socket():
            raise _not_plain(path) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _not_plain(path)
    return os.fdopen(descriptor, "rb")


def read(path: str | os.PathLike, most: int) -> bytes:
    """Return a plain file's content of at most so many bytes.

    Raises:
        UserError: it is no plain file, or larger.
        OSError: it cannot be read.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)  # a file may grow, and some of /proc say that they are empty
    if len(content) > most:
        raise UserError(f"got {path} of more than {most:,} bytes; allowed: at most so many; change the file")
    return content


def read_text(path: str | os.PathLike, most: int) -> str:
    """Return a plain file's content as UTF-8; errors as of `read`, and UserError where it is none."""
    try:
        return read(path, most).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"got {path}, which is not UTF-8 ({error}); allowed: a file in UTF-8; fetch it again") from error


def read_json(path: str | os.PathLike, most: int = LARGEST_JSON) -> Any:
    """Return a plain file's JSON value; errors as of `read`, and UserError where `parse_json` finds none."""
    content = read(path, most)
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"got {path}, which is no JSON ({error}); allowed: a whole JSON file; fetch it again") from error


def parse_json(content: bytes | str) -> Any:
    """Return a JSON value whose strings are Unicode, whose names differ, and which has at most MOST_VALUES and DEEPEST levels.

    Raises:
        ValueError: it is none; the message says why.
    """
    marks = ",:[{" if isinstance(content, str) else (b",", b":", b"[", b"{")
    if len(content) > MOST_VALUES and sum(map(content.count, marks)) > MOST_VALUES:
        raise ValueError(f"more than {MOST_VALUES:,} values")
    try:
        value = json.loads(content, object_pairs_hook=_once)
    except RecursionError as error:
        raise ValueError(f"more than {DEEPEST} levels") from error
    level = [value]
    for _ in range(DEEPEST):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return value
    raise ValueError(f"more than {DEEPEST} levels")


def printable(text: str, most: int = LONGEST_LINE) -> str:
    """Return a text in one line without what would steer a terminal, and not too long to be read."""
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-most // 2 :]}"
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name stands twice")
    return found


def _children(value: Any) -> list[Any]:
    """List the names and values in a value; raises for a string with half a character in it."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("a string with a lone surrogate") from error
    return value if isinstance(value, list) else []


def _not_plain(path: str | os.PathLike) -> UserError:
    return UserError(f"got {path}, which is no plain file; allowed: plain files; change the path")
