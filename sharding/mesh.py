"""The device mesh: axes `data`, `pipe` and `tensor`. Today every device is a data-parallel group; the other two axes have size 1."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from sharding.config import MeshConfig
from teleflm_jax.errors import UserError

AXES = ("data", "pipe", "tensor")


def make(config: MeshConfig) -> Mesh:
    """Build the mesh over all devices of the run.

    Raises:
        UserError: the axes do not multiply to the number of devices, or ask for pipeline or tensor parallelism, which cannot run yet.
    """
    if config.pipe * config.tensor > 1:
        raise UserError(
            f"got mesh.pipe={config.pipe}, mesh.tensor={config.tensor}; allowed: 1 and 1, since only data parallelism runs yet; "
            "change the mesh, for instance --gin_param 'mesh.pipe = 1' --gin_param 'mesh.tensor = 1' --gin_param 'mesh.data = 0'"
        )
    devices = jax.devices()
    data = config.data or len(devices)
    if data != len(devices):
        raise UserError(
            f"got mesh.data={data} on {len(devices)} device(s); allowed: {len(devices)}, or 0 for all of them; change mesh.data"
        )
    return Mesh(np.array(devices).reshape(data, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)
