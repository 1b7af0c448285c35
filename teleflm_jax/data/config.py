"""Settings `data.*`: the text of each domain, its share of the mixture, and the packed records."""

import dataclasses
import math

from teleflm_jax.errors import UserError, refuse_seed


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The domains of a run. Source: report, table 1."""

    tokenizer: str
    """Path of the run's tokenizer.json."""
    packed: str
    """Folder with one packed data set per domain: PACKED/<domain>/."""
    proportions: dict[str, float]
    """Domain -> sampling weight; weights are normalized to a sum of 1, so percentages can be given as in the report."""
    change_proportions: bool = False
    """Allow a resumed run to change its proportions from its next batch on; each domain continues from its current position."""
    max_epochs: dict[str, float] = dataclasses.field(default_factory=dict)
    """Domain -> maximum number of passes over its records; domains without an entry are repeated without limit."""
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    """Domain -> folder or file of documents, read by `tokenizer train` and `pack`; training needs only the packed records."""
    seed: int = 0
    """Seed of the order of records and of the mixture."""

    def __post_init__(self):
        wrong = {d: w for d, w in self.proportions.items() if not (w > 0 and math.isfinite(w))}
        if wrong or not self.proportions:
            raise UserError(
                f"got data.proportions={wrong or self.proportions}; allowed: at least one domain, each weight above 0; "
                "change data.proportions"
            )
        for name in ("max_epochs", "sources"):
            unknown = sorted(set(getattr(self, name)) - set(self.proportions))
            if unknown:
                raise UserError(
                    f"got data.{name} for {', '.join(unknown)}; "
                    f"allowed: domains of data.proportions ({', '.join(self.proportions)}); change data.{name}"
                )
        refuse_seed("data", self.seed)
        wrong = {d: epochs for d, epochs in self.max_epochs.items() if not (epochs >= 0 and math.isfinite(epochs))}
        if wrong:
            raise UserError(f"got data.max_epochs={wrong}; allowed: finite, 0 or more, or no entry for no limit; change data.max_epochs")
        for path in (self.tokenizer, self.packed, *self.sources.values()):
            if "\0" in path:
                raise UserError(f"got {path!r} in data.*; allowed: paths without a NUL character; change the path")
            if "://" in path:
                raise UserError(f"got {path!r} in data.*; allowed: paths on a local or shared disk; mount the store or change the path")
        try:
            self.packed.encode()
        except UnicodeEncodeError:
            raise UserError(
                f"got data.packed={self.packed!r}; allowed: a path in UTF-8, because the record reader accepts no other; rename the folder"
            ) from None
        for domain in self.proportions:
            if not domain.isprintable() or not domain or "/" in domain or domain.startswith("."):
                raise UserError(f"got the domain {domain!r} in data.proportions; allowed: a plain folder name; rename it")
