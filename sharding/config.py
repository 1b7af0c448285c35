"""What `mesh.*` binds; apart from `mesh.py`, so that reading a configuration imports no jax."""

import dataclasses

from teleflm_jax.errors import UserError


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
        if self.data < 0 or self.pipe < 1 or self.tensor < 1:
            raise UserError(
                f"got mesh.data={self.data}, mesh.pipe={self.pipe}, mesh.tensor={self.tensor}; allowed: 0 or more, 1 or more, 1 or more"
            )
