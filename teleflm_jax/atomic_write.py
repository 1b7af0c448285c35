"""Files that appear whole or not at all, also after a crash of the machine."""

import contextlib
import errno
import glob
import os
import pathlib
from collections.abc import Iterator

_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP)
"""Errors of file systems that cannot flush a folder."""


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Yield the path of a temporary file beside `path`, which replaces it when the block ends without an error.

    The content is on the disk before it gets the name, and the name before the context returns. After an error the temporary file is
    removed and the old file at `path` is unchanged; a killed process may leave `.<name>.<process id>.tmp`.
    """
    target = pathlib.Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    try:
        _flush(target.parent)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove files that killed writers of `path` left beside it; call it only if no other process can be writing that file."""
    target = pathlib.Path(path)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        leftover.unlink(missing_ok=True)


def _flush(path: pathlib.Path) -> None:
    """Wait until a file's content, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
