"""Random access to the records of packed shards, with a bounded number of open shards.

Opening a shard takes about ten times as long as reading a record from an open one, so as many stay open as the process may have
(`open_files.for_shards`); the least recently used one is closed first.
"""

import bisect
import dataclasses
import errno
import functools
import itertools
import os
import re
from collections.abc import Callable, Sequence
from typing import SupportsIndex

from array_record.python import array_record_module

from teleflm_jax import invocation, open_files
from teleflm_jax.errors import UserError

Reader = array_record_module.ArrayRecordReader
"""Reader of one shard, thread-safe. Readers start no threads of their own: all readers of a process share one pool."""
OPTIONS = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32_768}
"""Options for random access: read only the requested records."""
_CODES = {os.strerror(code): code for code in errno.errorcode}
_SYSTEM = re.compile(r"\w+\(\) failed: ([^;]+); ")
"""Start of the library's messages for errors of the operating system."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RecordSource:
    """Records of several shards under one numbering; a random-access data source in Grain's sense."""

    paths: Sequence[str]
    ends: Sequence[int]
    """For each shard, the number of records in it and in all shards before it."""
    reader: Callable[[str], Reader]
    """Returns an open shard by its path; made by `reader_cache`."""

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: SupportsIndex) -> bytes:
        """Return a record; thread-safe.

        Raises:
            UserError: The shard is damaged or missing.
            OSError: The operating system refuses to open or read it.
        """
        number = int(index)
        shard = bisect.bisect_right(self.ends, number)
        path, place = self.paths[shard], number - (self.ends[shard - 1] if shard else 0)
        try:
            return self.reader(path).read([place])[0]
        except RuntimeError as error:  # the library raises nothing else, also for a checksum mismatch
            if system := system_error(error, path):
                raise system from error
            raise UserError(
                f"got a damaged record in {path} (record {place} of the shard: {error}); allowed: the files as written by pack; restore "
                f"that file from a copy, or run `{invocation.command('pack --force')}`; then run the same command again to continue"
            ) from error


def open_source(shards: Sequence[tuple[str, int]], reader: Callable[[str], Reader]) -> RecordSource:
    """Return a source of one or more shards, each given by path and number of records."""
    paths, records = zip(*shards, strict=True)
    return RecordSource(paths=paths, ends=tuple(itertools.accumulate(records)), reader=reader)


def reader_cache(max_open: int | None = None) -> Callable[[str], Reader]:
    """Return a function that opens a shard, or returns it if it is still open.

    It keeps `max_open` shards open, or as many as the process may have. An evicted reader closes its file once no thread reads from it.
    """
    return functools.lru_cache(max_open or open_files.for_shards())(open_reader)


def open_reader(path: str) -> Reader:
    """Open a shard.

    Raises:
        RuntimeError: The shard is damaged, missing, or cannot be opened.
    """
    reader = Reader(path, **OPTIONS)
    if not reader.ok():
        reader.read([0])  # raises the reason, which only a read reports
    return reader


def system_error(error: RuntimeError, path: str) -> OSError | None:
    """Return the error of the operating system if the library's error reports one; None for a damaged or missing shard."""
    message = _SYSTEM.match(str(error))
    code = _CODES.get(message[1]) if message else None
    return None if code in (None, errno.ENOENT) else OSError(code, os.strerror(code), path)
