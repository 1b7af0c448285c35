"""Errors and panics of the tokenizers library, as one class of errors."""

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def as_errors() -> Iterator[None]:
    """Raise a ValueError for whatever the library raises, its panics included, which are no `Exception`."""
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(str(error)[:300] or type(error).__name__) from error
