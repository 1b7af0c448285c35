"""Settings of the server."""

import dataclasses
import math
import re

from teleflm_jax.errors import UserError

MAX_BODY_BYTES = 4 << 20
"""Largest body of a request; far more text than any context holds."""
BODY_SECONDS = 30.0
"""Seconds in which a request's body must arrive."""
API_KEY = "TELEFLM_API_KEY"
"""Environment variable with the key that requests to /v1 must carry; unset: no key."""
LARGEST_PORT = 65_535
ANY = "*"
ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
"""Pattern of an origin as a browser sends it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Settings of the server."""

    host: str = "127.0.0.1"
    """Address to listen at; the default is reachable only from this machine."""
    port: int = 8000
    """Port; 0: any free one."""
    slots: int = 16
    """Sequences that are decoded at one time."""
    queue: int = 64
    """Sequences that may wait; more are refused."""
    grace: float = 30.0
    """Seconds that running requests have to finish when the server is asked to stop."""
    allowed_origins: tuple[str, ...] = ()
    """Origins whose pages may send requests from a browser; `*`: all."""
    cache_gb: float | None = None
    """Memory for sequences on each device in GB, without the weights; None: most of what is free at start."""

    def __post_init__(self):
        for name, valid, allowed in (
            ("port", 0 <= self.port <= LARGEST_PORT, f"0 (any) to {LARGEST_PORT}"),
            ("slots", self.slots >= 1, "1 or more"),
            ("queue", self.queue >= 0, "0 or more"),
            ("allowed_origins", all(map(_is_origin, self.allowed_origins)), "such as https://example.org or http://localhost:3000; or *"),
            ("grace", 0 <= self.grace < math.inf, "a number of seconds from 0 up"),
            ("cache_gb", self.cache_gb is None or 0 < self.cache_gb < math.inf, "a number of gigabytes above 0"),
        ):
            if not valid:
                value = getattr(self, name)
                shown = " ".join(value) if isinstance(value, tuple) else value
                raise UserError(f"got {name} {shown}; allowed: {allowed}; change --{name}")


def _is_origin(text: str) -> bool:
    return text == ANY or ORIGIN.fullmatch(text) is not None
