"""What `mesh.*` binds; apart from `mesh.py`, so that reading a configuration imports no jax."""

import dataclasses

from teleflm_jax.errors import refuse_outside


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh axes."""

    data: int = 0
    """Data-parallel groups; 0: as many as there are devices left."""
    pipe: int = 1
    """Pipeline stages."""
    tensor: int = 1
    """Tensor-parallel ways."""

    def __post_init__(self):
        refuse_outside("mesh", self, data=0, pipe=1, tensor=1)
