"""The device mesh: axes `data`, `pipe` and `tensor`, and which of its places this process holds."""

import dataclasses

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from sharding.config import MeshConfig
from sharding.errors import UserError

AXES = ("data", "pipe", "tensor")


def make(config: MeshConfig, devices: list | None = None) -> Mesh:
    """Build the mesh over all devices of the run.

    Devices are numbered process by process, so that the order here decides what crosses nodes: `tensor` changes fastest and stays inside a
    node, `pipe` slowest, since stages send the least.

    Args:
        config: sizes of the axes.
        devices: instead of all devices.

    Raises:
        UserError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    data = resolved(config, len(devices)).data
    grid = np.array(devices).reshape(config.pipe, data, config.tensor).transpose(1, 0, 2)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


def resolved(config: MeshConfig, count: int) -> MeshConfig:
    """The configuration with `data` for so many devices; raises a `UserError` where its axes do not multiply to them."""
    fixed = config.pipe * config.tensor
    data = config.data or max(1, count // fixed)
    if data * fixed != count:
        raise UserError(
            f"got a mesh of {data} x {config.pipe} x {config.tensor} (data, pipe, tensor) on {count} device(s); allowed: a product "
            f"of {count}, {_remedy(config, count)}; change mesh.data, mesh.pipe or mesh.tensor"
        )
    return dataclasses.replace(config, data=data)


def _remedy(config: MeshConfig, count: int) -> str:
    fixed = config.pipe * config.tensor
    if count % fixed == 0:
        return f"such as mesh.data={count // fixed} (or 0)"
    return f"such as {count} x 1 x 1"


def data_share(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """(i, n): a process (this one by default) holds the i-th of n equal parts of the data-parallel groups, and reads those rows of a batch.

    Processes that hold other stages or tensor shards of the same groups read the same rows.

    Raises:
        UserError: on every process, if the groups of any one's devices are no such part.
    """
    groups = mesh.shape["data"]
    held: dict[int, set[int]] = {}
    for index, device in np.ndenumerate(mesh.devices):
        held.setdefault(device.process_index, set()).add(index[0])
    for number, own in sorted(held.items()):
        first, count = min(own), len(own)
        if groups % count or own != set(range(first, first + count)) or first % count:
            raise UserError(
                f"got devices of process {number} in the data-parallel groups {sorted(own)} of {groups}; allowed: equal, adjoining parts; "
                "change mesh.tensor or mesh.pipe so that they divide, or are divided by, the devices of a process"
            )
    own = held[jax.process_index() if process is None else process]
    return min(own) // len(own), groups // len(own)
