"""Paths that Orbax and TensorStore can take, for folders whose own paths they cannot."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

from teleflm_jax.errors import UserError

DESCRIPTORS = pathlib.Path("/proc/self/fd")
"""A process's open files and folders, as Linux names them."""
MISREAD = re.compile(r"[*?\[\]\\]|(^|/)\w+:/")
"""Orbax looks for the shares of a save by a glob whose pattern begins with the whole path, and takes a folder `gs:` for a store."""
LONGEST = 3_000
"""Bytes of a path; inside of a checkpoint names are up to 200 longer, and Linux allows 4,095."""


@contextlib.contextmanager
def plain(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """An absolute path of a folder that is there, which the libraries take for that folder and nothing else; use it inside the context.

    Where its own path will not do, the folder is opened and named by its descriptor. A symbolic link elsewhere would do as well, but
    outlives a process that is killed, and programs that clean up temporary folders remove it during a long run.

    Raises:
        UserError: it would be needed, and this system has no such names.
    """
    path = folder.resolve()
    if _is_plain(str(path)):
        yield path
        return
    if not DESCRIPTORS.is_dir():
        raise UserError(
            f"got {path}, which the library of checkpoints would misread; allowed on this system: valid UTF-8 without * ? [ ] \\ and "
            f"without folders that end in a colon, up to {LONGEST:,} bytes; change --workdir"
        )
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield DESCRIPTORS / str(descriptor)
    finally:
        os.close(descriptor)


def _is_plain(path: str) -> bool:
    try:
        return not MISREAD.search(path) and len(path.encode()) <= LONGEST
    except UnicodeEncodeError:  # bytes that are no UTF-8, as Python names them
        return False
