"""Limit of open files per process (RLIMIT_NOFILE).

The usual soft limit is 1,024. A program may raise it up to the hard limit; it is low only for old programs that call select(2).
"""

import contextlib
import resource

ENOUGH = 65_536
"""Soft limit after `raise_limit`."""
MOST_SHARDS = 8_192
"""Largest number of open shards of packed data: 140 MB of memory, for 260 GB of text in shards of `pack.unit_bytes`."""
REST = 512
"""Files for everything else: connections to other processes, logs, and checkpoints, which need about 50 while saving."""


def raise_limit() -> None:
    """Raise the soft limit to `ENOUGH` or to the hard limit, whichever is lower; a higher one stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems refuse what their hard limit allows
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit() -> int:
    """Return the soft limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def for_shards() -> int:
    """Return the number of shards of packed data that may be open: the limit less `REST`, or a quarter of a low limit."""
    return max(1, min(MOST_SHARDS, max(limit() // 4, limit() - REST)))
