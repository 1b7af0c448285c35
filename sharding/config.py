"""What `mesh.*` binds; apart from `mesh.py`, so that reading a configuration imports no jax."""

import dataclasses

from sharding.errors import UserError, refuse_outside

SHARDED = (0, 1, 3)
"""Stages of ZeRO: nothing, the optimizer's state and master weights, or the weights as well (FSDP)."""

VOCABULARY_MULTIPLE = 128
"""A vocabulary shard's rows come in multiples of this, as in the released checkpoints (80,384 = 157 · 4 · 128)."""


def padded_vocab_size(vocab_size: int, tensor: int) -> int:
    """Rows of embedding and head under `tensor`-way parallelism: from 2 ways on the next multiple of 128 · tensor."""
    multiple = VOCABULARY_MULTIPLE * tensor if tensor > 1 else 1
    return -(-vocab_size // multiple) * multiple


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes, and what is split over them (docs/parallelism.md)."""

    data: int = 0
    """Data-parallel groups; 0: as many as there are devices left."""
    pipe: int = 1
    """Pipeline stages."""
    tensor: int = 1
    """Tensor-parallel ways."""
    interleave: int = 1
    """Chunks of layers that a pipeline stage holds: more make the bubble smaller and the traffic over `pipe` larger."""
    sequence_parallel: bool = True
    """Split the residual stream and the norms along the sequence over `tensor`; saves memory at the same traffic."""
    zero: int = 1
    """Over `data`: 0 every group holds everything; 1 master weights and optimizer state are split, weights gathered once an update; 3
    weights are split too and gathered layer by layer (FSDP)."""

    def __post_init__(self):
        refuse_outside("mesh", self, data=0, pipe=1, tensor=1, interleave=1)
        if self.zero not in SHARDED:
            raise UserError(f"got mesh.zero={self.zero}; allowed: {', '.join(map(str, SHARDED))}; change mesh.zero")
        if self.interleave > 1 and self.pipe == 1:
            raise UserError(
                f"got mesh.interleave={self.interleave} with mesh.pipe=1; allowed: 1 without a pipeline; "
                "change mesh.interleave or mesh.pipe"
            )
