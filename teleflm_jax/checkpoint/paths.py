"""Paths that Orbax and TensorStore accept, for folders whose own paths they would misread."""

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

from teleflm_jax.errors import UserError

DESCRIPTORS = pathlib.Path("/proc/self/fd")
"""Open files and folders of a process under Linux."""
MISREAD = re.compile(r"[*?\[\]\\]|(^|/)\w+:/")
"""Paths that Orbax misreads: it globs for the parts of a save with the whole path as a pattern, and treats a folder `gs:` as a store."""
LONGEST = 3_000
"""Bytes of the longest path; names inside a checkpoint are up to 200 longer, and Linux allows 4,095."""


@contextlib.contextmanager
def plain(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield an absolute path of an existing folder that the libraries read correctly; it is valid inside the context.

    If the folder's own path is not suitable, the folder is opened and named by its descriptor. A symbolic link elsewhere would work as
    well, but survives a killed process, and programs that clean up temporary folders remove it during a long run.

    Raises:
        UserError: a descriptor's name is needed and this system has none.
    """
    path = folder.resolve()
    if _is_plain(str(path)):
        yield path
        return
    if not DESCRIPTORS.is_dir():
        raise UserError(
            f"got {path}, which the checkpoint library would misread; allowed on this system: valid UTF-8 without * ? [ ] \\ and "
            f"without folders that end in a colon, up to {LONGEST:,} bytes; use another folder"
        )
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield DESCRIPTORS / str(descriptor)
    finally:
        os.close(descriptor)


def _is_plain(path: str) -> bool:
    try:
        return not MISREAD.search(path) and len(path.encode()) <= LONGEST
    except UnicodeEncodeError:  # surrogates that stand for bytes outside UTF-8
        return False
