"""Settings of `telemetry.*` and `profile.*`."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside


@dataclasses.dataclass(frozen=True, kw_only=True)
class TelemetryConfig:
    """Destinations of a run's figures beside its folder."""

    wandb_project: str | None = None
    """Project at Weights & Biases; None: send nothing."""
    prometheus_port: int = 0
    """TCP port on which the newest figures are served for Prometheus; 0: none."""
    prometheus_address: str = "127.0.0.1"
    """Address of that port: by default only this machine can connect, since there is no authentication; `0.0.0.0`: all can."""

    def __post_init__(self):
        refuse_outside("telemetry", self, prometheus_port=0)
        if self.prometheus_port >= 65_536:
            raise UserError(f"got telemetry.prometheus_port={self.prometheus_port}; allowed: 0 to 65535; change telemetry.prometheus_port")
        if self.wandb_project == "":
            raise UserError("got telemetry.wandb_project=''; allowed: a project's name, or None; change telemetry.wandb_project")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Steps to profile."""

    steps: tuple[int, int] | None = None
    """First and last step, both included; None: only steps requested by a signal."""

    def __post_init__(self):
        if self.steps is not None and not 1 <= self.steps[0] <= self.steps[1]:
            raise UserError(f"got profile.steps={self.steps}; allowed: the first step, 1 or more, and the last; change profile.steps")
