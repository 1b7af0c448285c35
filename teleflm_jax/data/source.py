"""Records of packed shards by their number, while only some of the shards are open.

Opening a shard takes about ten times as long as reading a record from an open one, so as many stay open as the process may have
(`open_files.for_shards`); the one that was not read from for the longest time is closed first.
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
"""Of one shard, safe for threads. Readers start no threads of their own: all of a process share one pool."""
OPTIONS = {"options": "readahead_buffer_size:0", "file_reader_buffer_size": 32_768}
"""For random access: read no more than what is asked for."""
_CODES = {os.strerror(code): code for code in errno.errorcode}
_SYSTEM = re.compile(r"\w+\(\) failed: ([^;]+); ")
"""How the library's messages begin where the operating system refused something."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Records of several shards under one numbering; what Grain calls a random-access data source."""

    paths: Sequence[str]
    ends: Sequence[int]
    """For each shard, the number of records in it and in those before it."""
    reader: Callable[[str], Reader]
    """Gives an open shard; of `readers`."""

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: SupportsIndex) -> bytes:
        """One record; safe for threads.

        Raises:
            UserError: the shard is damaged or missing.
            OSError: the operating system refuses to open or to read it.
        """
        number = int(index)
        shard = bisect.bisect_right(self.ends, number)
        path, place = self.paths[shard], number - (self.ends[shard - 1] if shard else 0)
        try:
            return self.reader(path).read([place])[0]
        except RuntimeError as error:  # all that the library raises, also for a checksum that does not match
            if system := system_error(error, path):
                raise system from error
            raise UserError(
                f"got a damaged record in {path} (record {place} of the shard: {error}); allowed: the files that pack wrote; restore that "
                f"file from a copy, or run `{invocation.command('pack --force')}`; then the same command goes on"
            ) from error


def source(shards: Sequence[tuple[str, int]], reader: Callable[[str], Reader]) -> Source:
    """Make one of the path and the number of records of each shard, at least one."""
    paths, records = zip(*shards, strict=True)
    return Source(paths=paths, ends=tuple(itertools.accumulate(records)), reader=reader)


def readers(most: int | None = None) -> Callable[[str], Reader]:
    """Give a function that opens a shard, or returns it if it is still open.

    It keeps `most` of them open, or as many as the process may have. A reader that is dropped closes its file as soon as no thread reads
    from it any more.
    """
    return functools.lru_cache(most or open_files.for_shards())(opened)


def opened(path: str) -> Reader:
    """Open a shard.

    Raises:
        RuntimeError: it is damaged, missing, or cannot be opened.
    """
    reader = Reader(path, **OPTIONS)
    if not reader.ok():
        reader.read([0])  # it tells why only when it is used
    return reader


def system_error(error: RuntimeError, path: str) -> OSError | None:
    """What the operating system refused, if the library's error tells of that; None where a shard is damaged or missing."""
    said = _SYSTEM.match(str(error))
    code = _CODES.get(said[1]) if said else None
    return None if code in (None, errno.ENOENT) else OSError(code, os.strerror(code), path)
