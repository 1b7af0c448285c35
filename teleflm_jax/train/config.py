"""What `train.*` binds: the length of a run, its batch, and when it logs, evaluates and saves; and `telemetry.*` and `profile.*`."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside, refuse_seed

ACCUMULATION_DTYPES = ("float32", "bfloat16")


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
    """`RUN@step`: start from another run's weights, with a fresh optimizer and schedule."""
    eval_every: int = 0
    """Steps between evaluations on the held-out sets; 0: only after the last step."""
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

    def __post_init__(self):
        refuse_outside("train", self, steps=1, batch_size=1, microbatch_size=0, eval_every=0, eval_bytes=0)
        refuse_outside("train", self, checkpoint_every=1, keep_last=1, keep_every=0, keep_best=0)
        refuse_seed("train", self.seed)
        if self.accumulation_dtype not in ACCUMULATION_DTYPES:
            raise UserError(
                f"got train.accumulation_dtype={self.accumulation_dtype!r}; allowed: {', '.join(ACCUMULATION_DTYPES)}; "
                "change train.accumulation_dtype"
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class TelemetryConfig:
    """Where a run's figures go beside its folder."""

    wandb_project: str | None = None
    """A project of Weights & Biases; None: nothing is sent there."""
    prometheus_port: int = 0
    """Serve the newest figures as Prometheus' text on this TCP port; 0: do not."""
    prometheus_address: str = "127.0.0.1"
    """Where that port listens: by default only to this machine, as nobody is asked who they are; `0.0.0.0`: to all."""

    def __post_init__(self):
        refuse_outside("telemetry", self, prometheus_port=0)
        if self.prometheus_port >= 65_536:
            raise UserError(f"got telemetry.prometheus_port={self.prometheus_port}; allowed: 0 to 65535; change telemetry.prometheus_port")
        if self.wandb_project == "":
            raise UserError("got telemetry.wandb_project=''; allowed: a project's name, or None; change telemetry.wandb_project")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Which steps the profiler watches."""

    steps: tuple[int, int] | None = None
    """The first and the last one, both included; None: only what a signal asks for."""

    def __post_init__(self):
        if self.steps is not None and not 1 <= self.steps[0] <= self.steps[1]:
            raise UserError(f"got profile.steps={self.steps}; allowed: the first step, 1 or more, and the last; change profile.steps")
