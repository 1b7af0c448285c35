"""What lies where on the mesh: one table from the logical axes that weights declare to mesh axes, and what follows from it.

Arrays have two forms. Logical: as declared, unpadded, layers in order; what is initialised, saved and exchanged. Physical: what a step
works on; rows of zeros fill the vocabulary and the width up to what the mesh divides, and layers are sorted by the stage that runs them.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sharding import mesh as device_mesh
from sharding.config import MeshConfig, padded_vocab_size
from sharding.errors import UserError
from sharding.tensor import Group

TABLE = {
    "layers": "pipe",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "head_dim": None,
    "embed": "data",  # of master weights and optimizer state from ZeRO 1 on, of the weights themselves with ZeRO 3
}
"""Logical axis -> mesh axis. Every weight has `embed` once, so that all state is split over `data`."""
BATCH = P("data")
"""Rows of a batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """A mesh, and how it is used."""

    mesh: Mesh
    width: int
    """Of the residual stream (`embed`), unpadded."""
    interleave: int = 1
    sequence_parallel: bool = True
    zero: int = 1

    @property
    def data(self) -> int:
        """Data-parallel groups."""
        return self.mesh.shape["data"]

    @property
    def pipe(self) -> int:
        """Pipeline stages."""
        return self.mesh.shape["pipe"]

    @property
    def tensor(self) -> Group:
        """What the model needs to know of the devices that share its layers."""
        return Group(size=self.mesh.shape["tensor"], sequence=self.sequence_parallel)

    @property
    def padded_width(self) -> int:
        """The width, filled up to what `data` splits it into."""
        return -(-self.width // self.data) * self.data if self.zero else self.width

    @property
    def sequence_shards(self) -> int:
        """Parts of a sequence between the blocks, which its length is a multiple of."""
        return self.mesh.shape["tensor"] if self.sequence_parallel else 1

    def mesh_axes(self, axes: tuple[str, ...] | None, ndim: int) -> tuple[str | None, ...]:
        """The mesh axis of each dimension of a weight's state.

        Args:
            axes: its logical axes; None for what is no weight. Stacked weights have one dimension more, `layers`.
            ndim: of the array.
        """
        if axes is None:
            return ()
        found = [TABLE[axis] for axis in ("layers",) * (ndim - len(axes)) + axes]
        return tuple(None if axis == "data" and not self.zero else axis for axis in found)

    def shardings(self, tree: Any) -> Any:
        """Where a tree of weights, or of optimizer state, lies in its physical form."""
        return each(lambda x, axes: NamedSharding(self.mesh, P(*self.mesh_axes(axes, x.ndim))), tree)

    def specs(self, tree: Any) -> Any:
        """The same as partition specs."""
        return each(lambda x, axes: P(*self.mesh_axes(axes, x.ndim)), tree)

    def replicated(self) -> NamedSharding:
        """Whole on every device."""
        return NamedSharding(self.mesh, P())

    def place_batch(self, batch: Any, rows: int) -> Any:
        """This process's rows of a batch of `rows` (numpy, any tree) -> global arrays split over `data`."""
        sharding = NamedSharding(self.mesh, BATCH)
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x, (rows, *x.shape[1:])), batch)

    def place_words(self, words: tuple[float, ...]) -> jax.Array:
        """A float32 row for each device of the mesh, this process's from `words`: what each process has to say, whatever rows it shares."""
        sharding = NamedSharding(self.mesh, P(device_mesh.AXES))
        own = np.tile(np.array(words, np.float32), (len(self.mesh.local_devices), 1))
        return jax.make_array_from_process_local_data(sharding, own, (self.mesh.size, len(words)))

    def processes(self) -> np.ndarray:
        """The process of each device, in the order of `place_words`; int64 [devices]."""
        return np.array([device.process_index for device in self.mesh.devices.flat])

    def padded(self, shape: tuple[int, ...], axes: tuple[str, ...] | None) -> tuple[int, ...]:
        """The physical shape of a logical one."""
        if axes is None:
            return shape
        names = ("layers",) * (len(shape) - len(axes)) + axes
        return tuple(self._padded(name, n) for n, name in zip(shape, names, strict=True))

    def _padded(self, name: str, size: int) -> int:
        if name == "vocab":
            return padded_vocab_size(size, self.mesh.shape["tensor"])
        return self.padded_width if name == "embed" else size

    def physical(self, tree: Any) -> Any:
        """Logical arrays -> physical ones, where they belong; to be traced, or called with arrays that lie as `stored` says."""

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
        return jax.jit(lambda tree: each(convert, tree), out_shardings=shardings)(tree)

    def to_logical(self, like: Any) -> Callable[[Any], Any]:
        """A function that undoes `physical`, compiled once; `like` has the logical shapes, with shardings.

        What needs no change is passed through as it is.
        """

        def convert(tree):
            back = each(lambda x, axes: x[np.argsort(self.layer_order(x.shape[0]))] if self._is_sorted(x, axes) else x, tree)
            return jax.tree.map(lambda x, y: jax.lax.slice(x, (0,) * x.ndim, y.shape), back, like)

        if not self.changes(like):
            return lambda tree: tree
        return jax.jit(convert, out_shardings=jax.tree.map(lambda y: y.sharding, like))

    def changes(self, tree: Any) -> bool:
        """Whether the physical form of a tree of logical arrays or shapes is another."""
        return any(jax.tree.leaves(each(lambda x, axes: self._is_sorted(x, axes) or self.padded(x.shape, axes) != x.shape, tree)))

    def stored(self, shapes: Any) -> Any:
        """Logical shapes with shardings: split over the mesh as far as it divides them, so that each process saves and loads a share."""
        return each(lambda x, axes: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self._stored(x.shape, axes)), shapes)

    def _stored(self, shape: tuple[int, ...], axes: tuple[str, ...] | None) -> NamedSharding:
        wanted = self.mesh_axes(axes, len(shape))
        grid, names, parts = [], [], {}
        for axis in device_mesh.AXES:
            size = self.mesh.shape[axis]
            part = math.gcd(size, shape[wanted.index(axis)]) if axis in wanted else 1
            grid += [part, size // part]
            names += [axis, f"copies of {axis}"]
            parts[axis] = part
        if all(parts[axis] == self.mesh.shape[axis] for axis in wanted if axis):
            return NamedSharding(self.mesh, P(*wanted))
        split = Mesh(self.mesh.devices.reshape(grid), names, axis_types=(jax.sharding.AxisType.Auto,) * 6)
        return NamedSharding(split, P(*wanted))

    def _is_sorted(self, x: Any, axes: tuple[str, ...] | None) -> bool:
        return self.interleave > 1 and axes is not None and x.ndim > len(axes)

    def layer_order(self, layers: int) -> np.ndarray:
        """Which layer each of the stacked ones is in physical form: stage by stage, of each its chunks.

        Chunk c of stage i is the (c · pipe + i)-th of all.
        """
        return np.arange(layers).reshape(self.interleave, self.pipe, -1).swapaxes(0, 1).reshape(-1)


def layout(config: MeshConfig, width: int, devices: list | None = None) -> Layout:
    """The layout that a configuration asks for; raises a `UserError` where the devices do not fit."""
    return _on(device_mesh.make(config, devices), config, width)


def without_devices(config: MeshConfig, width: int) -> Layout:
    """The same for a mesh of which only the sizes are known; `data` among them. For whoever asks about sizes, not places."""
    sizes = {axis: getattr(config, axis) for axis in device_mesh.AXES}
    return _on(AbstractMesh(tuple(sizes.values()), tuple(sizes)), config, width)


def _on(mesh: Mesh | AbstractMesh, config: MeshConfig, width: int) -> Layout:
    return Layout(mesh=mesh, width=width, interleave=config.interleave, sequence_parallel=config.sequence_parallel, zero=config.zero)


def each(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Map arrays (of several trees of one structure, side by side) and the logical axes they were declared with (None for others)."""

    def visit(node, *beside):
        axes = getattr(node, "axes", None)
        return jax.tree.map(lambda *arrays: function(*arrays, axes), node, *beside)

    return jax.tree.map(visit, tree, *others, is_leaf=lambda node: hasattr(node, "axes"))


def microbatch(batch_size: int, microbatch_size: int, layout: Layout) -> int:
    """Sequences that one data-parallel group takes at a time: `microbatch_size`, or with 0 its whole share of the batch.

    Raises:
        UserError: the batch does not split evenly; names the nearest sizes that do.
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
    """Hold the model's sizes against the mesh.

    Raises:
        UserError: says which number does not divide which, and the nearest that do.
    """
    ways, stages = layout.mesh.shape["tensor"], layout.pipe * layout.interleave
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
    """The multiples next to a number, in words."""
    below = size // multiple * multiple
    return f"{below} or {below + multiple}" if below else str(multiple)
