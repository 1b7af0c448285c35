"""Sharding of all arrays on the mesh, by the logical axes that weights declare (`sharding/axes.py` says which mesh axes split them).

Arrays have two layouts. Canonical: as declared, unpadded, layers in order; initialised, saved and exchanged. Runtime: what a step works on;
rows of zeros pad the vocabulary and the width to multiples of what the mesh splits them into, and layers are sorted by pipeline stage.
"""

import dataclasses
import math
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sharding import axes as mesh_axes
from sharding import mesh as device_mesh
from sharding.axes import ROWS, STAGES, ZERO
from sharding.config import MeshConfig, padded_vocab_size
from sharding.errors import UserError
from sharding.tensor import Group

TABLE = {logical: mesh_axes.splitting(logical) for logical in mesh_axes.LOGICAL} | {"head_dim": ()}
"""Logical axis -> mesh axes. Every weight has `embed` once, so that ZeRO splits all state: master weights and optimizer state from ZeRO 1
on, the weights themselves under ZeRO 3."""
BATCH = P(ROWS)
"""Partition spec of a batch: rows are split."""
LAYERS = P(STAGES)
"""Partition spec of an array with one element for each layer."""
PER_DEVICE = P(mesh_axes.NAMES)
"""Partition spec of an array with one row for each device."""
GROUPS = tuple(name for name in mesh_axes.NAMES if name not in STAGES)
"""Mesh axes whose devices hold the same layers."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """A mesh and its use: what is split over it, and how arrays are padded and ordered."""

    mesh: Mesh
    width: int
    """Width of the residual stream (`embed`), unpadded."""
    interleave: int = 1
    sequence_parallel: bool = True
    zero: int = 1

    @property
    def data(self) -> int:
        """Data-parallel groups: parts that a batch's rows are split into."""
        return self._size(ROWS)

    @property
    def zero_shards(self) -> int:
        """Parts that ZeRO splits the width into."""
        return self._size(ZERO) if self.zero else 1

    @property
    def pipe(self) -> int:
        """Pipeline stages."""
        return self._size(STAGES)

    @property
    def group(self) -> Group:
        """Communication among the devices that share layers, as the model takes it."""
        return Group(size=self.mesh.shape[mesh_axes.TENSOR], sequence=self.sequence_parallel)

    @property
    def padded_width(self) -> int:
        """The width, padded to a multiple of the parts that ZeRO splits it into."""
        return -(-self.width // self.zero_shards) * self.zero_shards

    @property
    def sequence_shards(self) -> int:
        """Parts of a sequence between the blocks; its length is a multiple of them."""
        return self._size(mesh_axes.SEQUENCE) if self.sequence_parallel else 1

    def _size(self, names: tuple[str, ...]) -> int:
        return math.prod(self.mesh.shape[name] for name in names)

    def mesh_axes(self, axes: tuple[str, ...] | None, ndim: int) -> tuple[tuple[str, ...], ...]:
        """Return the mesh axes that split each dimension of a weight's state.

        Args:
            axes: its logical axes; None for an array that is not a weight. Stacked weights have one more dimension, `layers`.
            ndim: dimensions of the array.
        """
        if axes is None:
            return ()
        found = [TABLE[axis] for axis in ("layers",) * (ndim - len(axes)) + axes]
        return tuple(() if names == ZERO and not self.zero else names for names in found)

    def spec(self, axes: tuple[str, ...] | None, ndim: int) -> P:
        """Return the partition spec of a weight's state in the runtime layout; arguments as in `mesh_axes`."""
        return P(*(names or None for names in self.mesh_axes(axes, ndim)))

    def shardings(self, tree: Any) -> Any:
        """Return the shardings of a tree of weights, or of optimizer state, in the runtime layout."""
        return map_with_axes(lambda x, axes: NamedSharding(self.mesh, self.spec(axes, x.ndim)), tree)

    def specs(self, tree: Any) -> Any:
        """Return the same as partition specs."""
        return map_with_axes(lambda x, axes: self.spec(axes, x.ndim), tree)

    def replicated(self) -> NamedSharding:
        """Return the sharding of an array that is whole on every device."""
        return NamedSharding(self.mesh, P())

    def place_batch(self, batch: Any, rows: int) -> Any:
        """Make global arrays, split by rows, of this process's rows of a batch of `rows` (numpy arrays in any tree)."""
        sharding = NamedSharding(self.mesh, BATCH)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:])), batch)

    def place_per_device(self, values: tuple[float, ...]) -> jax.Array:
        """Make a global float32 array with one row for each device, in which this process's rows are `values`."""
        sharding = NamedSharding(self.mesh, PER_DEVICE)
        own = np.tile(np.array(values, np.float32), (len(self.mesh.local_devices), 1))
        return jax.make_array_from_process_local_data(sharding, own, (self.mesh.size, len(values)))

    def processes(self) -> np.ndarray:
        """Return the process of each device in the order of `place_per_device`, int64 [devices]."""
        return np.array([device.process_index for device in self.mesh.devices.flat])

    def padded(self, shape: tuple[int, ...], axes: tuple[str, ...] | None) -> tuple[int, ...]:
        """Return the runtime shape of a canonical one."""
        if axes is None:
            return shape
        names = ("layers",) * (len(shape) - len(axes)) + axes
        return tuple(self._padded(name, n) for n, name in zip(shape, names, strict=True))

    def _padded(self, name: str, size: int) -> int:
        if name == "vocab":
            return padded_vocab_size(size, self._size(TABLE["vocab"]))
        return self.padded_width if name == "embed" else size

    def to_runtime(self, tree: Any) -> Any:
        """Convert canonical arrays to the runtime layout; may be traced, or called with arrays that are sharded as `stored` says."""

        def convert(x, axes):
            if axes is None:
                return x
            padded = self.padded(x.shape, axes)
            if padded != x.shape:
                x = jnp.pad(x, [(0, n - old) for n, old in zip(padded, x.shape, strict=True)])
            return x[self.layer_order(x.shape[0])] if self._is_sorted(x, axes) else x

        if not self.changes(tree):
            return tree
        shardings = self.shardings(tree)
        return jax.jit(lambda tree: map_with_axes(convert, tree), out_shardings=shardings)(tree)

    def to_canonical(self, like: Any) -> Callable[[Any], Any]:
        """Return a compiled function that undoes `to_runtime`; `like` has the canonical shapes, with shardings.

        Trees that the two layouts store alike pass through.
        """

        def convert(tree):
            back = map_with_axes(lambda x, axes: x[np.argsort(self.layer_order(x.shape[0]))] if self._is_sorted(x, axes) else x, tree)
            return jax.tree.map(lambda x, y: jax.lax.slice(x, (0,) * x.ndim, y.shape), back, like)

        if not self.changes(like):
            return lambda tree: tree
        return jax.jit(convert, out_shardings=jax.tree.map(lambda y: y.sharding, like))

    def changes(self, tree: Any) -> bool:
        """Return True if the runtime layout of a tree of canonical arrays or shapes differs from it."""
        return any(jax.tree.leaves(map_with_axes(lambda x, axes: self._is_sorted(x, axes) or self.padded(x.shape, axes) != x.shape, tree)))

    def stored(self, shapes: Any) -> Any:
        """Return canonical shapes with shardings, split over the mesh as far as it divides them: each process saves and loads a share."""
        return map_with_axes(lambda x, axes: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._stored(x.shape, axes)), shapes)

    def _stored(self, shape: tuple[int, ...], axes: tuple[str, ...] | None) -> NamedSharding:
        wanted, spec = self.mesh_axes(axes, len(shape)), self.spec(axes, len(shape))
        left, grid, names = list(shape), [], []
        divides = True
        for axis, size in self.mesh.shape.items():
            dimension = next((d for d, split in enumerate(wanted) if axis in split), None)
            part = 1 if dimension is None else math.gcd(size, left[dimension])
            if dimension is not None:
                left[dimension] //= part
                divides &= part == size
            grid += [part, size // part]
            names += [axis, f"copies of {axis}"]
        if divides:
            return NamedSharding(self.mesh, spec)
        return NamedSharding(Mesh(self.mesh.devices.reshape(grid), names, axis_types=(jax.sharding.AxisType.Auto,) * len(names)), spec)

    def _is_sorted(self, x: Any, axes: tuple[str, ...] | None) -> bool:
        return self.interleave > 1 and axes is not None and x.ndim > len(axes)

    def layer_order(self, layers: int) -> np.ndarray:
        """Return the layer at each place of the runtime layout: stage by stage, and for each stage its chunks.

        Chunk c of stage i is the (c · pipe + i)-th chunk of the model.
        """
        return np.arange(layers).reshape(self.interleave, self.pipe, -1).swapaxes(0, 1).reshape(-1)


def layout(config: MeshConfig, width: int, devices: list | None = None) -> Layout:
    """Return the layout that a configuration asks for; raise a `UserError` where the devices do not fit."""
    return _on(device_mesh.make(config, devices), config, width)


def without_devices(config: MeshConfig, width: int) -> Layout:
    """Return the layout of a mesh without devices, whose sizes, `data` among them, are all given; it answers questions about sizes."""
    sizes = mesh_axes.sizes(config)
    # of an abstract mesh there are names and sizes, which is all that its callers ask for
    return _on(typing.cast(Mesh, AbstractMesh(tuple(sizes.values()), tuple(sizes))), config, width)


def _on(mesh: Mesh, config: MeshConfig, width: int) -> Layout:
    return Layout(mesh=mesh, width=width, interleave=config.interleave, sequence_parallel=config.sequence_parallel, zero=config.zero)


def map_with_axes(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Map a function over arrays and the logical axes of their declarations (None for arrays that are not weights).

    Several trees of one structure are mapped side by side; the first one gives the axes.
    """

    def visit(node, *beside):
        axes = getattr(node, "axes", None)
        return jax.tree.map(lambda *arrays: function(*arrays, axes), node, *beside)

    return jax.tree.map(visit, tree, *others, is_leaf=lambda node: hasattr(node, "axes"))


def microbatch(batch_size: int, microbatch_size: int, layout: Layout) -> int:
    """Return the sequences that one data-parallel group takes at a time: `microbatch_size`, or for 0 its whole share of the batch.

    Raises:
        UserError: the batch does not split evenly; the message names the nearest sizes that do.
    """
    if batch_size % layout.data:
        raise UserError(
            f"got train.batch_size={batch_size} on {layout.data} data-parallel groups; "
            f"allowed: a multiple of {layout.data} (nearest: {nearest(batch_size, layout.data)}); change train.batch_size"
        )
    rows = batch_size // layout.data
    if microbatch_size and rows % microbatch_size:
        raise UserError(
            f"got train.microbatch_size={microbatch_size}; allowed: a divisor of the {rows} sequences of each data-parallel group; "
            "change train.microbatch_size"
        )
    count = rows // (microbatch_size or rows)
    if layout.interleave > 1 and count % layout.pipe:
        raise UserError(
            f"got {count} microbatches for mesh.interleave={layout.interleave} over mesh.pipe={layout.pipe}; allowed: a multiple of "
            f"{layout.pipe} (nearest: {nearest(count, layout.pipe)}); change train.microbatch_size or train.batch_size"
        )
    return microbatch_size or rows


def refuse_misfit(layout: Layout, *, num_heads: int, num_kv_heads: int, d_ff: int, num_layers: int, context_length: int) -> None:
    """Raise if the mesh does not divide the model's sizes.

    Raises:
        UserError: names the two numbers, and the nearest that fit.
    """
    ways, stages = layout.group.size, layout.pipe * layout.interleave
    split = {"num_heads": num_heads, "num_kv_heads": num_kv_heads, "d_ff": d_ff}
    if layout.sequence_parallel:
        split["context_length"] = context_length
    for name, size in split.items():
        if size % ways:
            raise UserError(
                f"got model.{name}={size} over mesh.tensor={ways}; allowed: a multiple of {ways} (nearest: {nearest(size, ways)}); "
                f"change model.{name} or mesh.tensor"
            )
    if num_layers % stages:
        raise UserError(
            f"got model.num_layers={num_layers} over mesh.pipe={layout.pipe} x mesh.interleave={layout.interleave}; allowed: a multiple of "
            f"{stages} (nearest: {nearest(num_layers, stages)}); change model.num_layers, mesh.pipe or mesh.interleave"
        )


def nearest(size: int, multiple: int) -> str:
    """Return the multiples next to a number, in words."""
    below = size // multiple * multiple
    return f"{below} or {below + multiple}" if below else str(multiple)
