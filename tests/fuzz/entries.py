"""All entries: a module of this folder that has ENTRIES, name -> function of bytes, has its part in `make fuzz` and in `seeds_test.py`.

An entry raises for what must not be: an exception that is none of its own, a property that does not hold. Its seeds are the files in
`seeds/NAME/`.
"""

import importlib
import pathlib
import pkgutil
from collections.abc import Callable

FOLDER = pathlib.Path(__file__).parent
SEEDS = FOLDER / "seeds"
_OTHERS = ("entries", "run", "seeds_test")


def modules() -> dict[str, str]:
    """Name of each entry -> module that has it; modules are imported to be asked."""
    names = [module.name for module in pkgutil.iter_modules([str(FOLDER)]) if module.name not in _OTHERS]
    return {name: module for module in names for name in getattr(importlib.import_module(f"tests.fuzz.{module}"), "ENTRIES", {})}


def entry(module: str, name: str) -> Callable[[bytes], None]:
    """Return an entry of a module."""
    return importlib.import_module(f"tests.fuzz.{module}").ENTRIES[name]
