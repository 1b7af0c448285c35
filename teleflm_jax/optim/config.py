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
        ranges = {
            "warmup_steps": (self.warmup_steps >= 0, "0 or more"),
            "decay_tokens": (self.decay_tokens >= 1, "1 or more"),
            "clip_norm": (self.clip_norm > 0, "above 0"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "beta1": (0 <= self.beta1 < 1, "0 up to but not 1"),
            "beta2": (0 <= self.beta2 < 1, "0 up to but not 1"),
            "epsilon": (self.epsilon > 0, "above 0"),
        }
        for name, (fits, allowed) in ranges.items():
            if not fits:
                raise UserError(f"got optimizer.{name}={getattr(self, name)}; allowed: {allowed}; change optimizer.{name}")
