"""The commands that messages tell the user to run: the package's own, named as the user called this one, and pip's for an extra."""

import importlib.util
import pathlib
import sys
from collections.abc import Iterable

from teleflm_jax.errors import UserError

CONSOLE = "teleflm"
"""The console command of an installed package."""
MODULE = "python -m teleflm_jax"


def program() -> str:
    """Return `teleflm` if the console command started this process, else `python -m teleflm_jax`, which works everywhere."""
    return CONSOLE if sys.argv and pathlib.PurePath(sys.argv[0]).name == CONSOLE else MODULE


def command(arguments: str) -> str:
    """Return the command line that runs another command of this package, such as `pack --force`."""
    return f"{program()} {arguments}"


def install(extra: str) -> str:
    """Return the advice that installs an extra; `requirements-EXTRA.txt` is its list in a checkout."""
    return f"pip install 'teleflm_jax[{extra}]', or in a checkout pip install -r requirements-{extra}.txt"


def refuse_missing(extra: str, modules: Iterable[str]) -> None:
    """Raise if a module that comes with an extra is not installed.

    Raises:
        UserError: Names the first such module, and how to install the extra.
    """
    for name in modules:
        if importlib.util.find_spec(name) is None:
            raise UserError(f"got no module {name}; allowed: an environment with the extra {extra}; run {install(extra)}")
