"""Settings of `telemetry.*` and `profile.*`."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside


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
