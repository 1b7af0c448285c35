"""What `cluster.*` and `plan.*` bind: a cluster's rates, and the assumptions of a prediction; importing this imports no jax."""

import dataclasses
import re

from teleflm_jax.config import files
from teleflm_jax.errors import UserError, refuse_outside

CLUSTERS = files.CONFIGS / "clusters"
"""The clusters that come with the project."""


LEAST, MOST = 1e-3, 1e18
"""Of a share that something is divided by; of a rate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Equal nodes of equal GPUs. Rates are the vendor's, per GPU and second; how much of them is reached is said apart."""

    gpu: str
    """Name of the card."""
    nodes: int
    gpus_per_node: int
    memory_bytes: float
    """Of one card."""
    bf16_flops: float
    """Dense bfloat16 FLOP/s, never the sparse figure."""
    memory_rate: float
    """Bytes/s between a card and its memory."""
    link_rate: float
    """Bytes/s that a card sends to others of its node (NVLink), one direction."""
    network_rate: float
    """Bytes/s that a card sends to other nodes (InfiniBand, RoCE), one direction: its share of the node's adapters."""
    product_efficiency: float = 0.75
    """Share of `bf16_flops` that large matrix products reach."""
    attention_efficiency: float = 0.5
    """Share of `bf16_flops` that the attention kernel reaches on the half of the scores that a causal mask leaves."""
    watts: float = 0.0
    """Of one card with its share of the node under load; 0: energy is not predicted."""
    compute_capability: str = "8.0"
    """Of the card, for the compiler."""
    cores: int = 108
    """Multiprocessors of the card, for the compiler."""
    clock_ghz: float = 1.41
    """Of the card, for the compiler."""
    cache_bytes: int = 41_943_040
    """Level-2 cache of the card, for the compiler."""

    def __post_init__(self):
        rates = ("memory_bytes", "bf16_flops", "memory_rate", "link_rate", "network_rate")
        refuse_outside("cluster", self, nodes=1, gpus_per_node=1, cores=1, cache_bytes=1, watts=0, clock_ghz=None)
        refuse_outside("cluster", self, **dict.fromkeys(rates, 1))
        for name, most in {**dict.fromkeys(rates, MOST), "cores": 1e4, "cache_bytes": 1e12, "clock_ghz": 1e3, "watts": 1e6}.items():
            if getattr(self, name) > most:
                raise UserError(f"got cluster.{name}={getattr(self, name)}; allowed: up to {most:g}; change cluster.{name}")
        refuse_no_share("cluster", self, "product_efficiency", "attention_efficiency")
        if not re.fullmatch(r"[1-9]\d?\.\d", self.compute_capability):
            raise UserError(
                f"got cluster.compute_capability={self.compute_capability!r}; allowed: two numbers with a point, such as '9.0'; "
                "change cluster.compute_capability"
            )

    @property
    def gpus(self) -> int:
        """GPUs of all nodes."""
        return self.nodes * self.gpus_per_node


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Assumptions of a prediction. Where they come from stands in docs/plan.md."""

    allowance_bytes: float = 3e9
    """Of a card's memory, for what is no array of the program: CUDA's context, cuDNN's and cuBLAS's workspaces, NCCL's buffers."""
    spare: float = 0.1
    """Share of a card's memory that a layout must leave free to be proposed, by a search or as a remedy."""
    memory_efficiency: float = 0.8
    """Share of `cluster.memory_rate` that elementwise work reaches."""
    link_efficiency: float = 0.8
    """Share of `cluster.link_rate` that collectives reach."""
    network_efficiency: float = 0.85
    """Share of `cluster.network_rate` that collectives reach."""
    layer_overlap: float = 0.8
    """Share of ZeRO 3's gathers and reduce-scatters, layer by layer, that is hidden behind computation."""
    tensor_overlap: float = 0.0
    """Share of the traffic over `tensor` that is hidden behind computation."""
    target_tokens: float = 0.0
    """Tokens to reach; 0: those of `train.steps`."""
    goodput: float = 1.0
    """Share of the time that trains; the rest is checkpoints, evaluation, failures."""

    def __post_init__(self):
        refuse_outside("plan", self, allowance_bytes=0, target_tokens=0)
        refuse_no_share("plan", self, "memory_efficiency", "link_efficiency", "network_efficiency", "goodput")
        for name in ("layer_overlap", "tensor_overlap", "spare"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"got plan.{name}={getattr(self, name)}; allowed: 0 to 1; change plan.{name}")


SECTIONS = {"cluster": ClusterConfig, "plan": PlanConfig}
"""What a plan's configuration has besides a run's."""


def refuse_no_share(section: str, settings: object, *names: str) -> None:
    """Raise a `UserError` unless these are shares that something can be divided by."""
    for name in names:
        if not LEAST <= getattr(settings, name) <= 1:
            raise UserError(f"got {section}.{name}={getattr(settings, name)}; allowed: {LEAST} to 1; change {section}.{name}")
