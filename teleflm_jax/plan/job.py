"""Sizes of a training step on a mesh as plain numbers, the input of all closed forms."""

import dataclasses
import math

from sharding import axes
from sharding.config import MeshConfig, padded_vocab_size
from sharding.pipeline import PipelineSchedule
from teleflm_jax.model.config import ModelConfig

FLOAT = 4
"""Size of a float32 in bytes."""
BYTES = {"float32": FLOAT, "bfloat16": 2}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """One training step of a model on a mesh; sizes that do not divide are refused earlier (`sharding.rules`)."""

    model: ModelConfig
    mesh: MeshConfig
    """Mesh with a resolved `data`."""
    batch_size: int
    microbatch_size: float
    """Sequences of a data-parallel group per microbatch. A fraction represents context parallelism in a published run."""
    accumulation_dtype: str = "float32"

    @property
    def devices(self) -> int:
        """Number of GPUs."""
        return self._size(axes.NAMES)

    @property
    def groups(self) -> int:
        """Data-parallel groups: parts that a batch's rows are split into."""
        return self._size(axes.ROWS)

    @property
    def zero_shards(self) -> int:
        """Parts that ZeRO splits the width into, if it splits it."""
        return self._size(axes.ZERO)

    def _size(self, names: tuple[str, ...]) -> int:
        return math.prod(axes.sizes(self.mesh)[name] for name in names)

    @property
    def microbatches(self) -> int:
        """Microbatches of an update in one data-parallel group."""
        return round(self.batch_size / self.groups / self.microbatch_size)

    @property
    def schedule(self) -> PipelineSchedule:
        """PipelineSchedule of the pipeline."""
        return PipelineSchedule(stages=self.mesh.pipe, chunks=self.mesh.interleave, microbatches=self.microbatches)

    @property
    def layers(self) -> int:
        """Layers of one stage."""
        return self.model.num_layers // self.mesh.pipe

    @property
    def positions(self) -> float:
        """Tokens of a microbatch."""
        return self.microbatch_size * self.model.context_length

    @property
    def tokens(self) -> int:
        """Tokens of an update."""
        return self.batch_size * self.model.context_length

    @property
    def sequence_shards(self) -> int:
        """Number of parts that a sequence has between the blocks."""
        return self.mesh.tensor if self.mesh.sequence_parallel else 1

    @property
    def compute_bytes(self) -> int:
        """Size of a number in the compute dtype, bytes."""
        return BYTES[self.model.compute_dtype]

    @property
    def accumulator_bytes(self) -> int:
        """Size of a number in a gradient accumulator, bytes."""
        return BYTES[self.accumulation_dtype]

    @property
    def kv_width(self) -> int:
        """Width of all keys of a token."""
        return self.model.num_kv_heads * self.model.head_size

    @property
    def layer_weights(self) -> float:
        """Matrix weights of one layer on one device, whole over `data`."""
        m = self.model
        return (2 * m.d_model * (m.d_model + self.kv_width) + 3 * m.d_model * m.d_ff) / self.mesh.tensor

    @property
    def end_weights(self) -> float:
        """Weights of the embedding, or of the head, on one device, whole over `data`."""
        return padded_vocab_size(self.model.vocab_size, self.mesh.tensor) * self.model.d_model / self.mesh.tensor

    @property
    def padding(self) -> float:
        """Ratio of the padded width, which `data` divides, to the width."""
        width, shards = self.model.d_model, self.zero_shards
        return math.ceil(width / shards) * shards / width if self.mesh.zero else 1.0


def ring(size: int) -> float:
    """Return the share of an array that a device of a ring sends in a gather or a reduce-scatter: (n - 1) / n."""
    return (size - 1) / size
