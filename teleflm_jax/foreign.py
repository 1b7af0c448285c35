"""Reading of files from other people: plain files only, with limits of size and nesting, and control characters escaped in messages.

Every reader of a foreign model, run folder or configuration uses this module. Readers of a corpus have their own limits, since they count
damage and continue.
"""

import json
import os
import pathlib
import stat
from typing import Any, BinaryIO

from teleflm_jax import links
from teleflm_jax.errors import UserError

LARGEST_JSON = 1 << 28
"""Largest JSON file in bytes; the largest tokenizers have about 30 MB."""
DEEPEST = 64
"""Deepest nesting of values; files of models have fewer than ten levels. Python's own limit is its stack."""
MOST_VALUES = 1 << 23
"""Largest number of separators in JSON, which bounds the number of values: a few bytes may take a hundred bytes of memory. The largest
tokenizers have three million."""
LONGEST_LINE = 2_000
"""Largest message in characters; a longer one is cut in the middle."""


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Return the path of a plain file that is in a folder after resolving links, or in the blobs of the folder's own snapshot.

    Raises:
        UserError: the name or a link leaves the folder, or the file is missing or not plain.
    """
    path = folder / name
    is_name = name not in ("", ".", "..") and not set(name) & set("/\\\0")
    if not is_name or (path.resolve().parent != folder.resolve() and not links.is_blob(path, links.blobs(folder))):
        raise UserError(
            f"got the file name {name!r} in {folder}, which leaves the folder; allowed: files inside it; copy them there (cp -L)"
        )
    if not path.exists():
        raise UserError(f"got {folder} without {name}; allowed: a folder with it; fetch it again")
    if not path.is_file():
        raise _not_plain(path)
    return path


def open_plain(path: str | os.PathLike) -> BinaryIO:
    """Open a plain file for reading; does not block on a FIFO.

    Raises:
        UserError: the path is a FIFO, a device, a socket or a folder.
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
    """Return the content of a plain file of at most `most` bytes.

    Raises:
        UserError: the path is not a plain file, or the file is larger.
        OSError: it cannot be read.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)  # a file may grow, and some files of /proc report size 0
    if len(content) > most:
        raise UserError(f"got {path} with more than {most:,} bytes; allowed: at most {most:,}; change the file")
    return content


def read_text(path: str | os.PathLike, most: int) -> str:
    """Return a plain file's content as UTF-8; raises the errors of `read`, and a UserError for other encodings."""
    try:
        return read(path, most).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"got {path}, which is not UTF-8 ({error}); allowed: a file in UTF-8; fetch it again") from error


def read_json(path: str | os.PathLike, most: int = LARGEST_JSON) -> Any:
    """Return a plain file's JSON value; raises the errors of `read`, and a UserError if `parse_json` fails."""
    content = read(path, most)
    try:
        return parse_json(content)
    except ValueError as error:
        raise UserError(f"got {path}, which is not JSON ({error}); allowed: a whole JSON file; fetch it again") from error


def parse_json(content: bytes | str) -> Any:
    """Parse JSON with valid Unicode strings, unique names, at most MOST_VALUES values and at most DEEPEST levels.

    Raises:
        ValueError: the content violates this; the message gives the reason.
    """
    if len(content) > MOST_VALUES and _separators(content) > MOST_VALUES:
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
    """Return a text as one line of at most `most` characters, with control characters escaped."""
    if len(text) > most:
        text = f"{text[: most // 2]} … {text[-most // 2 :]}"
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a duplicate name")
    return found


def _separators(content: bytes | str) -> int:
    """Count the characters that begin or separate the values of JSON."""
    if isinstance(content, str):
        return sum(map(content.count, ",:[{"))
    return sum(map(content.count, b",:[{"))


def _children(value: Any) -> list[Any]:
    """Return the names and values in a value; raises for a string with a lone surrogate."""
    if isinstance(value, dict):
        return [*value, *value.values()]
    if isinstance(value, str) and not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("a string with a lone surrogate") from error
    return value if isinstance(value, list) else []


def _not_plain(path: str | os.PathLike) -> UserError:
    return UserError(f"got {path}, which is not a plain file; allowed: plain files; change the path")
