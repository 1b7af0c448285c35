"""Conversion of errors and panics of the tokenizers library into ValueError."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def as_errors() -> Iterator[None]:
    """Raise a ValueError for everything that the library raises, including panics, which are not an `Exception`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(str(error)[:300] or type(error).__name__) from error
