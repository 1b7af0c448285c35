"""Classification of errors of libraries and disks: damaged files, or a full or failing disk."""

import contextlib
import errno
import os
import pathlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax

from teleflm_jax.checkpoint.paths import DESCRIPTORS
from teleflm_jax.checkpoint.record import why

TRIES, RETRY_SECONDS = 3, 1.0
"""Attempts to read, since a shared disk may show late what another machine has written."""


def attempted(read: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Read with several attempts; return the result and None, or None and the last error."""
    failure = None
    for attempt in range(TRIES):
        time.sleep(attempt * RETRY_SECONDS)
        try:
            return read(), None
        except Exception as error:  # TensorStore has no class of its own for damaged files
            failure = error
    return None, failure


def is_damage(error: Exception) -> bool:
    """Return whether an error is caused by the files, and not by a disk, a mount, or a lack of memory."""
    if isinstance(error, MemoryError | jax.errors.JaxRuntimeError) or (
        isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
    ):
        return False
    return not re.search(r"UNAVAILABLE|DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED|PERMISSION_DENIED|os_error_code='(?!2')", why(error))


@contextlib.contextmanager
def disk_errors(folder: pathlib.Path) -> Iterator[None]:
    """Convert TensorStore's errors of the disk to OSError, and name the folder in an OSError that names a descriptor."""
    try:
        yield
    except TimeoutError as error:  # Orbax's, which has no errno
        raise OSError(errno.ETIMEDOUT, "saving took too long", str(folder)) from error
    except OSError as error:
        if error.errno is None or not str(error.filename).startswith(str(DESCRIPTORS)):
            raise
        raise OSError(error.errno, error.strerror, str(folder)) from error
    except ValueError as error:
        code = re.search(r"os_error_code='(\d+)'", str(error))
        if not code:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder)) from error
