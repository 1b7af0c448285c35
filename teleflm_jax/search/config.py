"""Settings `search.*`: the space, the sampler, and how trials are repeated and claimed. Importing this imports no jax."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside

SAMPLERS = ("grid", "random", "tpe")
MUP, STANDARD = "mup", "standard"
PARAMETRISATIONS = (MUP, STANDARD)

Range = tuple[int | float, ...] | dict[str, tuple[int | float | str, ...]]
"""Values of one setting: a list of them, `{'log': (low, high, n)}`, `{'linear': (low, high, n)}`, or `{'times': (setting, factor)}`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search. Every trial is a run of the base configuration in which the settings of `space` have other values."""

    space: dict[str, Range] = dataclasses.field(default_factory=dict)
    """Setting -> its range. `(v, v, …)`: these values. `{'log': (low, high, n)}`: n values evenly spaced in log, ends included; random and
    tpe draw from the whole interval, uniformly in log. `{'linear': (low, high, n)}`: the same without log.
    `{'times': (setting, factor)}`: the value of another setting of the space times a factor. Ranges of whole numbers are rounded."""
    sampler: str = "grid"
    """grid (every combination), random, or tpe (Optuna's sampler, which learns from finished trials; requirements-search.txt)."""
    points: int | None = None
    """Number of points that random and tpe draw; a grid has as many as it has combinations."""
    widths: tuple[int, ...] = ()
    """Values of model.d_model at which every point is trained, with heads of the model's size; without any, the model as it is."""
    parametrisations: tuple[str, ...] = (MUP,)
    """Ways to other widths: mup (values are transferred from mup.base_width), standard (values stay: every width is its own base)."""
    seeds: int = 1
    """Runs of each point, with train.seed and data.seed 0, 1, … above those of the base configuration."""
    sampler_seed: int = 0
    """Seed of random and tpe."""
    rank_by: tuple[str, ...] = ("heldout", "decrease", "residual", "spikes", "gradient_variation", "gradient_slope")
    """Criteria of the ranking, each of which decides among points that tie in those before it (docs/search.md)."""
    lease_seconds: float = 60.0
    """Time after which another worker takes over a trial whose worker has not renewed its claim."""
    limit_points: int = 64
    """Number of grid points above which the command asks for --yes."""

    def __post_init__(self):
        refuse_outside("search", self, seeds=1, sampler_seed=0, lease_seconds=None, limit_points=1)
        if self.sampler not in SAMPLERS:
            raise UserError(f"got search.sampler={self.sampler!r}; allowed: {', '.join(SAMPLERS)}; change search.sampler")
        if not self.parametrisations or not set(self.parametrisations) <= set(PARAMETRISATIONS):
            raise UserError(
                f"got search.parametrisations={self.parametrisations!r}; allowed: {', '.join(PARAMETRISATIONS)}; change "
                "search.parametrisations"
            )
        if len(set(self.widths)) < len(self.widths) or any(width < 1 for width in self.widths):
            raise UserError(f"got search.widths={self.widths!r}; allowed: different widths; change search.widths")
        if self.widths and self.sampler == "tpe":
            raise UserError("got search.widths with search.sampler='tpe'; allowed: with grid and random; change search.sampler")
        if self.sampler == "grid" and self.points is not None:
            raise UserError(
                f"got search.points={self.points} with search.sampler='grid'; allowed: only with random and tpe; remove search.points, "
                "or change search.sampler"
            )
        if self.sampler != "grid" and (self.points is None or self.points < 1):
            raise UserError(
                f"got search.points={self.points} with search.sampler={self.sampler!r}; allowed: the number of points to draw, from 1; "
                "set search.points"
            )


SECTIONS = {"search": SearchConfig}
"""Section of a search's configuration beside those of a run."""
