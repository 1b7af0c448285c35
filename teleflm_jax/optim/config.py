"""What `optimizer.*` binds: AdamW and the shape of the schedule. Rates themselves are µP's (`mup.py`)."""

import dataclasses

from teleflm_jax.errors import UserError


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
        if self.decay_tokens < 1 or self.warmup_steps < 0:
            raise UserError(f"got optimizer.decay_tokens={self.decay_tokens}, optimizer.warmup_steps={self.warmup_steps}; allowed: at least 1 and 0")
        if not self.clip_norm > 0:
            raise UserError(f"got optimizer.clip_norm={self.clip_norm}; allowed: above 0; change optimizer.clip_norm")
