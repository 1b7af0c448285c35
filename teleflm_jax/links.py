"""Links of Hugging Face's cache: the files of `models--OWNER--NAME/snapshots/REVISION` are links into `models--OWNER--NAME/blobs`.

Other links out of a data folder are not followed, since their targets are not part of the folder. A repository's blobs are its own.
"""

import os
import pathlib
import re

_REPOSITORY = re.compile(r"(?:models|datasets|spaces)--[^/]+")


def blobs(folder: str | os.PathLike) -> pathlib.Path | None:
    """Return the folder that the links of a snapshot, or of a folder inside one, point into; None for any other folder."""
    real = pathlib.Path(os.path.realpath(folder))
    for snapshots in real.parents:
        repository = snapshots.parent
        if snapshots.name == "snapshots" and _REPOSITORY.fullmatch(repository.name):
            found = repository / "blobs"
            return found if found.is_dir() and not found.is_symlink() else None
    return None


def is_blob(path: str | os.PathLike, blobs: pathlib.Path | None) -> bool:
    """Return True if a path resolves to a regular file in this folder of blobs."""
    real = os.path.realpath(path)
    return blobs is not None and os.path.dirname(real) == str(blobs) and os.path.isfile(real)
