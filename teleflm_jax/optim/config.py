"""Settings of `optimizer.*`: AdamW and the learning-rate schedule. Peak and minimum rates are µP's (`mup.py`)."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside

SCHEDULES = ("cosine", "linear", "constant", "wsd")
"""Allowed values of `optimizer.schedule`; `schedule.SCHEDULES` has a function for each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer and schedule. Source: report, table 4, unless a field says otherwise."""

    schedule: str = "cosine"
    """Course of the learning rate after the warm-up: cosine or linear (decay from the end of the warm-up to the minimum), constant, or wsd
    (the peak up to `stable_tokens`, then a linear decay). Those other than cosine are our addition."""
    warmup_steps: int = 2_000
    stable_tokens: int = 0
    """Tokens, warm-up included, at which the decay of wsd starts; the other schedules do not have it."""
    decay_tokens: int = 2_500_000_000_000
    """Tokens, warm-up and stable phase included, at which the learning rate has reached its minimum; constant ignores it."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    weight_decay: float = 0.0
    """Decoupled weight decay, times the learning rate of the role; for matrix-like weights only."""
    beta1: float = 0.9
    """Our choice: not stated in the report; FLM-101B by the same authors used 0.9 and 0.95."""
    beta2: float = 0.95
    epsilon: float = 1e-8
    """Our choice: not stated in the report."""

    def __post_init__(self):
        refuse_outside("optimizer", self, warmup_steps=0, stable_tokens=0, decay_tokens=1, clip_norm=None, weight_decay=0)
        refuse_outside("optimizer", self, beta1=0, beta2=0, epsilon=None)
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise UserError(f"got optimizer.{name}={getattr(self, name)}; allowed: 0 up to but not 1; change optimizer.{name}")
        if self.schedule not in SCHEDULES:
            raise UserError(f"got optimizer.schedule={self.schedule!r}; allowed: {', '.join(SCHEDULES)}; change optimizer.schedule")
        if self.schedule == "wsd" and not 0 < self.stable_tokens < self.decay_tokens:
            raise UserError(
                f"got optimizer.stable_tokens={self.stable_tokens} with optimizer.schedule='wsd'; allowed: the tokens at which the decay "
                f"starts, from 1 to less than optimizer.decay_tokens={self.decay_tokens}; change one of the two"
            )
        if self.schedule != "wsd" and self.stable_tokens:
            raise UserError(
                f"got optimizer.stable_tokens={self.stable_tokens} with optimizer.schedule={self.schedule!r}; allowed: only with wsd; "
                "remove it, or set optimizer.schedule = 'wsd'"
            )
