"""What `optimizer.*` binds: AdamW and the shape of the schedule. Rates themselves are µP's (`mup.py`)."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Source: report, table 4, unless a field says otherwise."""

    warmup_steps: int = 2_000
    decay_tokens: int = 2_500_000_000_000
    """Tokens at which the cosine, warm-up included, has come down to the minimum."""
    clip_norm: float = 1.0
    """Largest global norm of the gradient."""
    weight_decay: float = 0.0
    """Decoupled, times the learning rate of the role; matrix-like weights only."""
    beta1: float = 0.9
    """Our choice: not stated in the report; FLM-101B by the same authors used 0.9 and 0.95."""
    beta2: float = 0.95
    epsilon: float = 1e-8
    """Our choice: not stated in the report."""

    def __post_init__(self):
        refuse_outside("optimizer", self, warmup_steps=0, decay_tokens=1, clip_norm=None, weight_decay=0, beta1=0, beta2=0, epsilon=None)
        for name in ("beta1", "beta2"):
            if getattr(self, name) >= 1:
                raise UserError(f"got optimizer.{name}={getattr(self, name)}; allowed: 0 up to but not 1; change optimizer.{name}")
