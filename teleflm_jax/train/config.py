"""What `train.*` binds: the length of a run, its batch, and when it logs, evaluates and saves; and `telemetry.*` and `profile.*`."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside, refuse_seed

ACCUMULATION_DTYPES = ("float32", "bfloat16")


def due(step: int, every: int) -> bool:
    """Whether what comes every so many steps comes after this one; 0 is never."""
    return bool(every) and step % every == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop's settings."""

    steps: int
    """Optimizer updates of the whole run, counted from step 0 also after a resume."""
    batch_size: int
    """Sequences per update, over all devices."""
    microbatch_size: int = 0
    """Sequences that one data-parallel group takes at a time; gradients of the rest accumulate. 0: all of a group's share at once."""
    accumulation_dtype: str = "float32"
    """Of the sums of gradients over microbatches and devices: float32 or bfloat16, which halves their memory and traffic."""
    seed: int = 0
    """Initial weights."""
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
    """Held-out UTF-8 bytes per domain in an evaluation during training; 0: all of them."""
    checkpoint_every: int = 1_000
    """Steps between checkpoints; the last step is always saved."""
    keep_last: int = 3
    """Newest checkpoints kept."""
    keep_every: int = 0
    """Checkpoints at multiples of this step are kept for ever; 0: none."""
    keep_best: int = 1
    """Checkpoints with the lowest weighted bits per byte that are kept as well; an evaluation that is among the best so far saves one."""

    def measures(self, step: int) -> bool:
        """Whether held-out text is measured after a step."""
        return step == self.steps or due(step, self.eval_every)

    def asks(self, step: int) -> bool:
        """Whether benchmark tasks are asked after a step."""
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
    """What a run does by itself when something goes wrong (docs/reliability.md). Source: our choice; the report names no thresholds."""

    max_skips: int = 5
    """Updates in a row that may be skipped because loss or gradient is not finite; one more rewinds. A bad batch or two heal by skipping,
    a broken state does not."""
    max_rewinds: int = 2
    """Times that the run may go back to one checkpoint before it gives up: a third divergence from there is no accident of the data."""
    spike_sigmas: float = 6.0
    """A loss so many robust standard deviations above the recent median is a spike; noise alone passes 6 about never."""
    rise_steps: int = 20
    """Steps over whose median a rise is judged, so that single spikes do not count."""
    rise_sigmas: float = 3.0
    """A rise: their median loss is so many robust standard deviations above the one before."""
    rise_norm: float = 2.0
    """And their median gradient norm is so many times the one before; a loss that rises under a normal norm is left alone."""
    rewind_on_rise: bool = False
    """Go back to the newest checkpoint and skip the data in between, instead of a warning alone."""
    copies_every: int = 100
    """Steps between comparisons of the weights that data-parallel groups hold alike, beside those before a save; 0: never."""
    recompute_every: int = 0
    """Steps between gradients that are computed twice more and compared bit by bit; each costs two steps. 0: never."""
    probe_every: int = 100
    """Steps between short measurements of each process's device, by which slow ones are named; 0: never."""
    slow_ratio: float = 1.3
    """A process is slow whose probe takes so many times the median of all."""
    hang_factor: float = 10.0
    """A step that takes so many times the median of the recent ones has hung."""
    hang_floor_seconds: float = 120.0
    """But never in less than this: a disk or a network may pause for a minute and come back."""
    hang_other_seconds: float = 3600.0
    """Limit of what is no step: restoring, compiling, an evaluation, a save; 0 turns the watchdog off."""

    def __post_init__(self):
        refuse_outside("guard", self, max_skips=0, max_rewinds=0, rise_steps=1, copies_every=0, recompute_every=0, probe_every=0)
        refuse_outside("guard", self, spike_sigmas=1, rise_sigmas=0, rise_norm=1, slow_ratio=1, hang_factor=1)
        refuse_outside("guard", self, hang_floor_seconds=0, hang_other_seconds=0)
