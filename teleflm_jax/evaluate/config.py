"""What `evaluation.*` binds."""

import dataclasses

from teleflm_jax.errors import refuse_outside


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Bits-per-byte evaluation."""

    batch_size: int = 8
    """Windows of the context length per forward pass, over all devices."""
    domains: tuple[str, ...] = ()
    """Held-out domains to measure; empty: all domains of data.proportions."""
    max_bytes: int = 0
    """UTF-8 bytes per domain; 0: everything."""

    def __post_init__(self):
        refuse_outside("evaluation", self, batch_size=1, max_bytes=0)
