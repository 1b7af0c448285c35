"""Learning-rate schedules: pure functions of the tokens trained on, in a table by the name that `optimizer.schedule` has.

They compute with plain Python numbers: the training loop counts tokens in integers of any size and passes the rate to the compiled step,
so no counter wraps (32-bit tokens would after 390 steps of 5.5 M).
"""

import math
from collections.abc import Mapping
from typing import Protocol

from teleflm_jax.errors import UserError
from teleflm_jax.optim.config import OptimizerConfig


class Schedule(Protocol):
    """Learning rate after the warm-up."""

    def __call__(self, peak: float, minimum: float, *, tokens: int, warmup_tokens: int, config: OptimizerConfig) -> float:
        """Return the learning rate of the update that starts after `tokens` tokens.

        Args:
            peak: Rate at the end of the warm-up.
            minimum: Rate at the end of the decay.
            tokens: Tokens trained on before the update, `warmup_tokens` or more.
            warmup_tokens: Tokens of the warm-up.
            config: Ends of the other phases, in tokens.
        """
        ...


def cosine(peak: float, minimum: float, *, tokens: int, warmup_tokens: int, config: OptimizerConfig) -> float:
    """Decay along half a cosine from the end of the warm-up to `decay_tokens`, then stay at the minimum. Source: report, table 4."""
    done = _done(tokens, warmup_tokens, config.decay_tokens)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * done))


def linear(peak: float, minimum: float, *, tokens: int, warmup_tokens: int, config: OptimizerConfig) -> float:
    """Decay along a line from the end of the warm-up to `decay_tokens`, then stay at the minimum."""
    done = _done(tokens, warmup_tokens, config.decay_tokens)
    return peak * (1 - done) + minimum * done


def constant(peak: float, minimum: float, *, tokens: int, warmup_tokens: int, config: OptimizerConfig) -> float:
    """Stay at the peak."""
    return peak


def wsd(peak: float, minimum: float, *, tokens: int, warmup_tokens: int, config: OptimizerConfig) -> float:
    """Stay at the peak up to `stable_tokens` (warm-up, stable, decay), then decay along a line to `decay_tokens` and stay at the minimum.

    Source: MiniCPM (Hu et al. 2024) for the three phases; that the decay is linear is our choice (docs/sources.md).
    """
    done = _done(tokens, config.stable_tokens, config.decay_tokens)
    return peak * (1 - done) + minimum * done


SCHEDULES: Mapping[str, Schedule] = {"cosine": cosine, "linear": linear, "constant": constant, "wsd": wsd}
"""Value of `optimizer.schedule` -> the schedule."""


def learning_rate(peak: float, minimum: float, *, tokens: int, tokens_per_step: int, config: OptimizerConfig) -> float:
    """Return the learning rate of the update that starts after `tokens` tokens: a linear warm-up, then the configured schedule.

    Of n warm-up steps the first has peak / n and the last has the peak, so that every update moves the weights.

    Args:
        peak: Rate of the last warm-up step.
        minimum: Rate at the end of the decay.
        tokens: Tokens trained on before the update.
        tokens_per_step: Tokens of one update, since the warm-up is stated in steps.
        config: Name of the schedule and length of its phases.

    Raises:
        UserError: If the warm-up does not end before the decay starts or, of cosine and linear, ends.

    Source: report, table 4; that the warm-up starts at peak / n, and the decay where the warm-up ends, is our choice (docs/sources.md).
    """
    warmup_tokens = config.warmup_steps * tokens_per_step
    _refuse_long_warmup(config, warmup_tokens)
    if tokens < warmup_tokens:
        return peak * (tokens // tokens_per_step + 1) / config.warmup_steps
    return SCHEDULES[config.schedule](peak, minimum, tokens=tokens, warmup_tokens=warmup_tokens, config=config)


def borders(config: OptimizerConfig, tokens_per_step: int) -> list[int]:
    """Return the tokens at which the schedule's phases end: warm-up, stable phase (of wsd), decay (of all but constant)."""
    stable = [config.stable_tokens] if config.schedule == "wsd" else []
    decay = [config.decay_tokens] if config.schedule != "constant" else []
    return [config.warmup_steps * tokens_per_step, *stable, *decay]


def decay_step(config: OptimizerConfig, tokens_per_step: int) -> int | None:
    """Return the number of updates after which the learning rate has reached its minimum; None if it stays at its peak."""
    return None if config.schedule == "constant" else -(-config.decay_tokens // tokens_per_step)


def end(config: OptimizerConfig, tokens_per_step: int, steps: int) -> str:
    """Return a sentence that says where the decay ends, compared with a run's last step."""
    last = decay_step(config, tokens_per_step)
    if last is None:
        return f"the learning rate stays at its peak after {config.warmup_steps:,} warm-up steps"
    stable = ""
    drawn = f"and the run draws {steps * tokens_per_step:,} tokens"
    if config.schedule == "wsd":
        start = -(-config.stable_tokens // tokens_per_step)
        if start >= steps:
            described = f"optimizer.stable_tokens is {config.stable_tokens:,}, {drawn}"
            return f"the run ends at step {steps:,}, before the learning rate decays after step {start:,} ({described})"
        stable = f"the learning rate stays at its peak up to step {start:,}; "
    drawn = f"optimizer.decay_tokens is {config.decay_tokens:,}, {drawn}"
    if last == steps:
        return f"{stable}the learning rate reaches its minimum at step {steps:,}, the last one"
    if last < steps:
        return f"{stable}the learning rate reaches its minimum at step {last:,} of {steps:,} and stays there ({drawn})"
    return f"{stable}the run ends at step {steps:,}, before the learning rate reaches its minimum at step {last:,} ({drawn})"


def _done(tokens: int, start: int, end: int) -> float:
    """Return the share of the decay from `start` to `end` that is done, 0 to 1."""
    return min(1.0, max(0.0, (tokens - start) / (end - start)))


def _refuse_long_warmup(config: OptimizerConfig, warmup_tokens: int) -> None:
    if config.schedule == "constant":
        return
    name = "stable_tokens" if config.schedule == "wsd" else "decay_tokens"
    if warmup_tokens >= getattr(config, name):
        raise UserError(
            f"got optimizer.warmup_steps={config.warmup_steps} ({warmup_tokens} tokens) with optimizer.{name}={getattr(config, name)}; "
            "allowed: a warm-up that ends before the decay; change one of the two"
        )
