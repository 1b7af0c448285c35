"""The learning-rate schedule, as a function of the tokens seen.

Plain Python numbers: the training loop counts tokens in whole numbers of any size and hands the rate to the compiled step, so no
counter wraps (32-bit tokens would after 390 steps of 5.5 M).
"""

import math

from teleflm_jax.errors import UserError
from teleflm_jax.optim.config import OptimizerConfig


def decay_step(config: OptimizerConfig, tokens_per_step: int) -> int:
    """Return the number of updates after which the learning rate has come down to its minimum."""
    return -(-config.decay_tokens // tokens_per_step)


def end(config: OptimizerConfig, tokens_per_step: int, steps: int) -> str:
    """Say in a sentence where the decay ends against a run's last step."""
    last = decay_step(config, tokens_per_step)
    drawn = f"optimizer.decay_tokens is {config.decay_tokens:,}, and the run draws {steps * tokens_per_step:,} tokens"
    if last == steps:
        return f"the learning rate reaches its minimum at step {steps:,}, the last one"
    if last < steps:
        return f"the learning rate reaches its minimum at step {last:,} of {steps:,} and stays there ({drawn})"
    return f"the run ends at step {steps:,}, before the learning rate reaches its minimum at step {last:,} ({drawn})"


def cosine(peak: float, minimum: float, *, tokens: int, tokens_per_step: int, config: OptimizerConfig) -> float:
    """Learning rate of the update that starts after `tokens`: linear warm-up, half a cosine to `minimum` at `decay_tokens`, then that.

    Of n warm-up steps the first has peak / n and the last has the peak, so that every update moves the weights.

    Args:
        peak: Rate of the last warm-up step.
        minimum: Rate at the end of the cosine.
        tokens: Tokens trained on before the update.
        tokens_per_step: Tokens of one update, since the warm-up is stated in steps.
        config: Length of warm-up and decay.

    Raises:
        UserError: If the warm-up is as long as the whole schedule.

    Source: report, table 4; that the warm-up starts at peak / n, and the cosine where the warm-up ends, is our choice (docs/sources.md).
    """
    warmup_tokens = config.warmup_steps * tokens_per_step
    if warmup_tokens >= config.decay_tokens:
        raise UserError(
            f"got optimizer.warmup_steps={config.warmup_steps} ({warmup_tokens} tokens) with optimizer.decay_tokens={config.decay_tokens}; "
            "allowed: a warm-up that ends before the decay; change one of the two"
        )
    if tokens < warmup_tokens:
        return peak * (tokens // tokens_per_step + 1) / config.warmup_steps
    done = min(1.0, (tokens - warmup_tokens) / (config.decay_tokens - warmup_tokens))
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * done))
