"""Settings `pack.*`: how documents become packed records."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside, refuse_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Packing of text into training records and held-out sets. The values are our choices; the report names none."""

    heldout_fraction: float = 0.005
    """Share of the families (source files, or a document's own `family`) that is held out for evaluation."""
    heldout_max_bytes: int = 4_000_000
    """Maximum UTF-8 bytes of a domain's held-out set; families that do not fit go to training."""
    max_malformed_fraction: float = 0.01
    """Maximum share of malformed documents in a domain, by number and by bytes; more is an error."""
    unit_bytes: int = 32_000_000
    """Source bytes that one worker packs into one shard; also the granularity of resuming."""
    processes: int = 0
    """Worker processes; 0 means one per core. The output does not depend on it."""
    seed: int = 0
    """Seed of the choice of held-out families."""
    text_columns: dict[str, str] = dataclasses.field(default_factory=dict)
    """Domain -> text column of its JSON and Parquet files, where it is not `text`."""

    def __post_init__(self):
        for name in ("heldout_fraction", "max_malformed_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"got pack.{name}={getattr(self, name)}; allowed: 0 up to but not 1; change pack.{name}")
        refuse_outside("pack", self, heldout_max_bytes=0, unit_bytes=1, processes=0)
        refuse_seed("pack", self.seed)
