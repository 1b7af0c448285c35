"""The places where a gin file is looked for: the path as given, then the configurations that come with the package."""

import os
import pathlib
from collections.abc import Sequence

CONFIGS = pathlib.Path(__file__).resolve().parents[1] / "configs"
"""The configurations of the package: a link to the checkout's `configs/`, or the copy in an installed package."""


def candidates(name: str, folders: Sequence[pathlib.Path] = (pathlib.Path(),)) -> list[pathlib.Path]:
    """List the paths that a name may stand for, in the order in which they are tried.

    Args:
        name: A path; `configs/runs/quickstart.gin` and `runs/quickstart.gin` both name a file of the package.
        folders: Folders that a relative path may begin at; the default is the current folder.

    Returns:
        The path in each of the folders, then in the package's configurations, unless it is absolute or contains `..`.
    """
    path = pathlib.PurePath(name)
    given = [folder / path for folder in folders]
    if path.is_absolute() or ".." in path.parts:
        return given
    return [*given, CONFIGS / (path.relative_to(CONFIGS.name) if path.parts[:1] == (CONFIGS.name,) else path)]


def first(paths: Sequence[pathlib.Path]) -> pathlib.Path | None:
    """Return the first path that exists. A path that cannot be looked up counts as one, so that the reader's error names it."""
    return next((path for path in paths if _exists(path)), None)


def _exists(path: pathlib.Path) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    except OSError:
        return True
    return True
