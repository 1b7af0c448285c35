"""The section `mesh` of a configuration, in a module of its own so that reading a configuration does not import jax."""

import dataclasses

from sharding import axes
from sharding.errors import UserError, refuse_outside

SHARDED = (0, 1, 3)
"""Stages of ZeRO: nothing is split, the optimizer state and master weights are, or the weights are as well (FSDP)."""

VOCABULARY_MULTIPLE = 128
"""Rows of a vocabulary shard are a multiple of this, as in the released checkpoints (80,384 = 157 · 4 · 128)."""


def padded_vocab_size(vocab_size: int, tensor: int) -> int:
    """Return the rows of embedding and head on `tensor` shards: from 2 shards on, the next multiple of 128 · tensor."""
    multiple = VOCABULARY_MULTIPLE * tensor if tensor > 1 else 1
    return -(-vocab_size // multiple) * multiple


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes (`sharding/axes.py`), and what is split over them (docs/parallelism.md)."""

    data: int = 0
    """Data-parallel groups; 0 for as many as there are devices left."""
    pipe: int = 1
    """Pipeline stages."""
    tensor: int = 1
    """Tensor-parallel ways."""
    interleave: int = 1
    """Chunks of layers that a pipeline stage holds; more of them make the bubble smaller and the traffic over `pipe` larger."""
    sequence_parallel: bool = True
    """Split the residual stream and the norms along the sequence over `tensor`; it saves memory at the same traffic."""
    zero: int = 1
    """Over `data`: 0, every group holds everything; 1, master weights and optimizer state are split, and weights are gathered once an
    update; 3, weights are split too and gathered layer by layer (FSDP)."""

    def __post_init__(self):
        refuse_outside("mesh", self, **{name: 0 if name == axes.REMAINDER else 1 for name in axes.NAMES}, interleave=1)
        if self.zero not in SHARDED:
            raise UserError(f"got mesh.zero={self.zero}; allowed: {', '.join(map(str, SHARDED))}; change mesh.zero")
        if self.interleave > 1 and self.pipe == 1:
            raise UserError(
                f"got mesh.interleave={self.interleave} with mesh.pipe=1; allowed: 1 without a pipeline; "
                "change mesh.interleave or mesh.pipe"
            )
