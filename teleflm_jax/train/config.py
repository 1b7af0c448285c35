"""Settings of `train.*` (length of a run, batch, evaluations, checkpoints) and `guard.*` (what a run does when something goes wrong)."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside, refuse_seed

ACCUMULATION_DTYPES = ("float32", "bfloat16")


def due(step: int, every: int) -> bool:
    """Return whether something that happens every `every` steps is due after this one; 0: never."""
    return bool(every) and step % every == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the training loop."""

    steps: int
    """Optimizer updates of the whole run, counted from step 0 also after a resume."""
    batch_size: int
    """Sequences per update over all devices."""
    microbatch_size: int = 0
    """Sequences that a data-parallel group processes at a time, accumulating gradients; 0: the group's whole share at once."""
    accumulation_dtype: str = "float32"
    """Dtype of the sums of gradients over microbatches and devices: float32, or bfloat16 with half the memory and traffic."""
    seed: int = 0
    """Seed of the initial weights."""
    init_from: str | None = None
    """`RUN@step`: start from the weights of another run's checkpoint, with a new optimizer at step 0 unless `init_optimizer` is set."""
    init_optimizer: bool = False
    """With `init_from`: also take the optimizer's state, the counters and the position in the data, so that the run is a branch of the
    other one. `steps` then counts from the other run's step 0; `optimizer.*` and the rates of `mup.*` may differ."""
    eval_every: int = 0
    """Steps between evaluations on the held-out sets; 0: only after the last step."""
    suite_every: int = 0
    """Steps between runs of the benchmark tasks of `suite.tasks`, and after the last one; 0: never."""
    eval_bytes: int = 100_000
    """UTF-8 bytes per domain in an evaluation during training; 0: the whole held-out set."""
    checkpoint_every: int = 1_000
    """Steps between checkpoints; the last step is always saved."""
    keep_last: int = 3
    """Number of newest checkpoints that are kept."""
    keep_every: int = 0
    """Checkpoints at multiples of this step are kept for ever; 0: none."""
    keep_best: int = 1
    """Number of checkpoints with the lowest weighted bits per byte that are kept; an evaluation among the best so far saves one."""

    def evaluates_text(self, step: int) -> bool:
        """Return whether bits per byte of held-out text are measured after a step."""
        return step == self.steps or due(step, self.eval_every)

    def evaluates_tasks(self, step: int) -> bool:
        """Return whether benchmark tasks are run after a step."""
        return self.suite_every > 0 and (step == self.steps or due(step, self.suite_every))

    def __post_init__(self):
        refuse_outside("train", self, steps=1, batch_size=1, microbatch_size=0, eval_every=0, suite_every=0, eval_bytes=0)
        refuse_outside("train", self, checkpoint_every=1, keep_last=1, keep_every=0, keep_best=0)
        refuse_seed("train", self.seed)
        if self.init_optimizer and self.init_from is None:
            raise UserError(
                "got train.init_optimizer=True without train.init_from; allowed: only with a run to branch from; set train.init_from, "
                "or remove train.init_optimizer"
            )
        if self.accumulation_dtype not in ACCUMULATION_DTYPES:
            raise UserError(
                f"got train.accumulation_dtype={self.accumulation_dtype!r}; allowed: {', '.join(ACCUMULATION_DTYPES)}; "
                "change train.accumulation_dtype"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """Reactions of a run when something goes wrong (docs/reliability.md). Source: our choice; the report names no thresholds."""

    max_skips: int = 5
    """Updates in a row that may be skipped because loss or gradient is not finite; one more rewinds. Skipping helps with a bad batch or
    two, but not with a broken state."""
    max_rewinds: int = 2
    """Times that the run may return to one checkpoint before it gives up: a third divergence from there is no accident of the data."""
    spike_sigmas: float = 6.0
    """Robust standard deviations above the recent median from which on a loss is a spike; noise alone almost never exceeds 6."""
    rise_steps: int = 20
    """Steps whose median is compared to detect a rise, so that single spikes do not count."""
    rise_sigmas: float = 3.0
    """Robust standard deviations by which their median loss exceeds the one before in a rise."""
    rise_norm: float = 2.0
    """Factor by which their median gradient norm exceeds the one before in a rise; a rising loss with a normal norm is left alone."""
    rewind_on_rise: bool = False
    """On a rise, return to the newest checkpoint and skip the data since, instead of only logging it."""
    copies_every: int = 100
    """Steps between comparisons of the copies of weights in data-parallel groups, beside those before a save; 0: never."""
    recompute_every: int = 0
    """Steps between gradients that are computed twice more and compared bit by bit, at the cost of two steps; 0: never."""
    probe_every: int = 100
    """Steps between short measurements of each process's devices, which identify slow processes; 0: never."""
    slow_ratio: float = 1.3
    """Factor by which the probe of a slow process exceeds the median of all."""
    hang_factor: float = 10.0
    """Factor of the median of recent steps after which a step counts as hung."""
    hang_floor_seconds: float = 120.0
    """Least time after which a step counts as hung: a disk or a network may pause for a minute and recover."""
    hang_other_seconds: float = 3600.0
    """Limit for anything but steps, such as restoring, compiling, evaluating or saving; 0 turns the watchdog off."""

    def __post_init__(self):
        refuse_outside("guard", self, max_skips=0, max_rewinds=0, rise_steps=1, copies_every=0, recompute_every=0, probe_every=0)
        refuse_outside("guard", self, spike_sigmas=1, rise_sigmas=0, rise_norm=1, slow_ratio=1, hang_factor=1)
        refuse_outside("guard", self, hang_floor_seconds=0, hang_other_seconds=0)
