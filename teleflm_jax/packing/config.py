"""Settings of `pack.*`: how documents become packed records."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside, refuse_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Packing of text into training records and held-out sets; our choices, the report names none."""

    heldout_fraction: float = 0.005
    """Share of the families (source files, or what a document names as its `family`) kept for evaluation."""
    heldout_max_bytes: int = 4_000_000
    """A domain's held-out set holds at most so many UTF-8 bytes; families over it go to training."""
    max_malformed_fraction: float = 0.01
    """More malformed documents than this share of a domain, by number or by bytes, is an error."""
    unit_bytes: int = 32_000_000
    """Source bytes that one worker packs into one shard; the unit of resuming."""
    processes: int = 0
    """Worker processes; 0 means one per core. The bytes written do not depend on it."""
    seed: int = 0
    """Chooses the held-out families."""
    text_columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Domain -> the column of its JSON and Parquet files that holds the text, where that is not `text`."""

    def __post_init__(self):
        for name in ("heldout_fraction", "max_malformed_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"got pack.{name}={getattr(self, name)}; allowed: 0 up to but not 1; change pack.{name}")
        refuse_outside("pack", self, heldout_max_bytes=0, unit_bytes=1, processes=0)
        refuse_seed("pack", self.seed)
