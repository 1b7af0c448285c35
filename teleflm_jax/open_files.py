"""How many files a process may hold open at a time (RLIMIT_NOFILE).

The usual soft limit is 1,024, which programs may raise up to the hard limit by themselves. It stays low only for the sake of old programs
that call select(2).
"""

import contextlib
import resource

ENOUGH = 65_536
"""What the soft limit is raised to."""
MOST_SHARDS = 8_192
"""Open shards of packed data: 140 MB of memory, for 260 GB of text in shards of `pack.unit_bytes`."""
REST = 512
"""Files for all else: connections to the other processes, logs, and checkpoints, whose saving alone takes some 50."""


def raise_limit() -> None:
    """Raise the soft limit to `ENOUGH` or to the hard limit, whichever is lower; leave a higher one as it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = ENOUGH if hard == resource.RLIM_INFINITY else min(ENOUGH, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems refuse what their hard limit allows
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit() -> int:
    """The soft limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if soft == resource.RLIM_INFINITY else soft


def for_shards() -> int:
    """How many shards of packed data may be open, so that enough of the limit is left for all else; a quarter of a limit that is low."""
    return max(1, min(MOST_SHARDS, max(limit() // 4, limit() - REST)))
