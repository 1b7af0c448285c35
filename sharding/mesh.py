"""The device mesh, and the part of it that this process holds."""

import dataclasses
import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from sharding import axes
from sharding.config import MeshConfig
from sharding.errors import UserError


def make(config: MeshConfig, devices: list | None = None) -> Mesh:
    """Build the mesh over all devices of the run.

    Args:
        config: sizes of the axes.
        devices: the devices to use instead of all; `axes.DEVICE_ORDER` says how they are arranged.

    Raises:
        UserError: the product of the axes is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = axes.sizes(resolved(config, len(devices)))
    grid = np.array(devices).reshape([sizes[name] for name in axes.DEVICE_ORDER])
    grid = grid.transpose([axes.DEVICE_ORDER.index(name) for name in axes.NAMES])
    return Mesh(grid, axes.NAMES, axis_types=(AxisType.Auto,) * grid.ndim)


def resolved(config: MeshConfig, count: int) -> MeshConfig:
    """Return the configuration with `data` set for `count` devices; raise a `UserError` where the axes do not multiply to them."""
    sizes = axes.sizes(config)
    fixed = math.prod(size for name, size in sizes.items() if name != axes.REMAINDER)
    sizes[axes.REMAINDER] = sizes[axes.REMAINDER] or max(1, count // fixed)
    if math.prod(sizes.values()) != count:
        settings = [f"mesh.{name}" for name in axes.NAMES]
        raise UserError(
            f"got a mesh of {' x '.join(map(str, sizes.values()))} ({', '.join(axes.NAMES)}) on {count} device(s); allowed: a product "
            f"of {count}, {_remedy(fixed, count)}; change {', '.join(settings[:-1])} or {settings[-1]}"
        )
    return dataclasses.replace(config, **{axes.REMAINDER: sizes[axes.REMAINDER]})


def _remedy(fixed: int, count: int) -> str:
    if count % fixed == 0:
        return f"such as mesh.{axes.REMAINDER}={count // fixed} (or 0)"
    return f"such as {' x '.join(str(count if name == axes.REMAINDER else 1) for name in axes.NAMES)}"


def data_share(mesh: Mesh, process: int | None = None) -> tuple[int, int]:
    """Return (i, n): a process holds the i-th of n equal parts of the data-parallel groups, and reads those rows of a batch.

    Processes that hold other stages or tensor shards of the same groups read the same rows.

    Args:
        mesh: the mesh.
        process: number of the process; None for this one.

    Raises:
        UserError: on every process, if the groups of one process's devices are not such a part.
    """
    splits = [axes.NAMES.index(name) for name in axes.ROWS]
    sizes = [mesh.shape[name] for name in axes.ROWS]
    groups = math.prod(sizes)
    held: dict[int, set[int]] = {}
    for index, device in np.ndenumerate(mesh.devices):
        group = int(np.ravel_multi_index([index[dimension] for dimension in splits], sizes))
        held.setdefault(device.process_index, set()).add(group)
    for number, own in sorted(held.items()):
        first, count = min(own), len(own)
        if groups % count or own != set(range(first, first + count)) or first % count:
            raise UserError(
                f"got devices of process {number} in the data-parallel groups {sorted(own)} of {groups}; allowed: equal, adjoining parts; "
                "change mesh.tensor or mesh.pipe so that they divide, or are divided by, the devices of a process"
            )
    own = held[jax.process_index() if process is None else process]
    return min(own) // len(own), groups // len(own)
