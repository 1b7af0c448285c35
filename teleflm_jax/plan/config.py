"""Settings of `cluster.*` and `plan.*`: a cluster's rates and the assumptions of a prediction. Importing this imports no jax."""

import dataclasses
import re

from teleflm_jax.config import files
from teleflm_jax.errors import UserError, refuse_outside

CLUSTERS = files.CONFIGS / "clusters"
"""Folder of the clusters that come with the project."""
JSON, PICTURE = "plan.json", "plan.png"
"""Files of a plan."""


LEAST, MOST = 1e-3, 1e18
"""Smallest share that is used as a divisor, and largest rate."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Equal nodes of equal GPUs. Rates are the vendor's, per GPU and second; separate fields give the share that is reached."""

    gpu: str
    """Name of the card."""
    nodes: int
    gpus_per_node: int
    memory_bytes: float
    """Memory of one card."""
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
    """Power of one card with its share of the node under load; 0: energy is not predicted."""
    compute_capability: str = "8.0"
    """Compute capability of the card, for the compiler."""
    cores: int = 108
    """Multiprocessors of the card, for the compiler."""
    clock_ghz: float = 1.41
    """Clock rate of the card, for the compiler."""
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
    """Assumptions of a prediction; docs/plan.md gives their sources."""

    allowance_bytes: float = 3e9
    """Memory of a card outside of the program's arrays: CUDA's context, workspaces of cuDNN and cuBLAS, NCCL's buffers."""
    spare: float = 0.1
    """Share of a card's memory that a layout must leave free to be proposed, by a search or as a remedy."""
    memory_efficiency: float = 0.8
    """Share of `cluster.memory_rate` that elementwise work reaches."""
    link_efficiency: float = 0.8
    """Share of `cluster.link_rate` that collectives reach."""
    network_efficiency: float = 0.85
    """Share of `cluster.network_rate` that collectives reach."""
    layer_overlap: float = 0.8
    """Share of ZeRO 3's layer-by-layer gathers and reduce-scatters that computation hides."""
    tensor_overlap: float = 0.0
    """Share of the traffic over `tensor` that computation hides."""
    target_tokens: float = 0.0
    """Tokens to reach; 0: those of `train.steps`."""
    goodput: float = 1.0
    """Share of wall time spent training; the rest is checkpoints, evaluation and failures."""

    def __post_init__(self):
        refuse_outside("plan", self, allowance_bytes=0, target_tokens=0)
        refuse_no_share("plan", self, "memory_efficiency", "link_efficiency", "network_efficiency", "goodput")
        for name in ("layer_overlap", "tensor_overlap", "spare"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"got plan.{name}={getattr(self, name)}; allowed: 0 to 1; change plan.{name}")


SECTIONS = {"cluster": ClusterConfig, "plan": PlanConfig}
"""Sections of a plan's configuration beside those of a run."""


def refuse_no_share(section: str, settings: object, *names: str) -> None:
    """Raise a `UserError` unless these fields are shares from `LEAST` to 1."""
    for name in names:
        if not LEAST <= getattr(settings, name) <= 1:
            raise UserError(f"got {section}.{name}={getattr(settings, name)}; allowed: {LEAST} to 1; change {section}.{name}")
