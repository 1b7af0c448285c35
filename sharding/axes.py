"""The mesh axes: for each its name, its order among the devices, and what it splits. All else about the mesh follows from this table."""

import dataclasses

DATA, PIPE, TENSOR = "data", "pipe", "tensor"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """One axis of the mesh."""

    name: str
    """Name of the mesh axis, and of the field of `MeshConfig` that holds its size."""
    weights: tuple[str, ...]
    """Logical axes of weights that it splits (`embed`: as far as `mesh.zero` says). Where several axes split one, they do it together."""
    rows: bool = False
    """True if it splits the rows of a batch; its groups then hold different gradients, and copies of the same weights."""
    sequence: bool = False
    """True if it splits the sequence of the residual stream between the blocks (`mesh.sequence_parallel`)."""


AXES = (
    Axis(name=DATA, weights=("embed",), rows=True),
    Axis(name=PIPE, weights=("layers",)),
    Axis(name=TENSOR, weights=("vocab", "heads", "kv_heads", "mlp"), sequence=True),
)
"""In the order of the mesh's dimensions; the axes that split rows come first."""
DEVICE_ORDER = (PIPE, DATA, TENSOR)
"""From the axis that changes slowest along the devices, which are numbered process by process, to the fastest. It decides what crosses
nodes: `tensor` communicates in every layer and stays inside a node; pipeline stages send the least."""
REMAINDER = DATA
"""The axis whose size 0 means as many groups as there are devices left."""
NAMES = tuple(axis.name for axis in AXES)
ROWS = tuple(axis.name for axis in AXES if axis.rows)
"""Axes that split the rows of a batch."""


def splitting(logical: str) -> tuple[str, ...]:
    """Return the mesh axes that split a logical axis of weights."""
    return tuple(axis.name for axis in AXES if logical in axis.weights)


LOGICAL = tuple(logical for axis in AXES for logical in axis.weights)
"""Logical axes that some mesh axis splits."""
ZERO = splitting("embed")
"""Axes over which ZeRO splits the width."""
STAGES = splitting("layers")
"""Axes whose devices hold different layers."""
SEQUENCE = tuple(axis.name for axis in AXES if axis.sequence)
"""Axes that split the sequence between the blocks."""


def sizes(config: object) -> dict[str, int]:
    """Return the size of each axis in a `MeshConfig`, in the order of `AXES`."""
    return {name: getattr(config, name) for name in NAMES}
