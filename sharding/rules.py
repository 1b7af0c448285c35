"""What lies where on the mesh. The model names logical axes; this table alone maps them."""

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from teleflm_jax.errors import UserError

BATCH = P("data")
"""Rows of a batch."""
REPLICATED = P()
"""Weights and optimizer state."""


def microbatch(batch_size: int, microbatch_size: int, mesh: Mesh) -> int:
    """Sequences that one data-parallel group takes at a time: `microbatch_size`, or with 0 its whole share of the batch.

    Raises:
        UserError: the batch does not split evenly; names the nearest sizes that do.
    """
    groups = mesh.shape["data"]
    if batch_size % groups:
        below = batch_size // groups * groups
        nearest = f"{below} or {below + groups}" if below else str(groups)
        raise UserError(
            f"got train.batch_size={batch_size} on {groups} data-parallel groups; "
            f"allowed: a multiple of {groups} (nearest: {nearest}); change train.batch_size"
        )
    rows = batch_size // groups
    if microbatch_size and rows % microbatch_size:
        raise UserError(
            f"got train.microbatch_size={microbatch_size}; allowed: a divisor of the {rows} sequences of each device; "
            "change train.microbatch_size"
        )
    return microbatch_size or rows


def place_batch(batch, mesh: Mesh):
    """This process's rows of a batch (numpy, any tree) -> global arrays split over `data`."""
    sharding = NamedSharding(mesh, BATCH)
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of weights, optimizer state and scalars."""
    return NamedSharding(mesh, REPLICATED)


def over_data(function, mesh: Mesh):
    """Run `function(replicated tree, tree of batch rows)` once per data-parallel group on its own rows; it returns what is equal on all."""
    return jax.shard_map(function, mesh=mesh, in_specs=(REPLICATED, BATCH), out_specs=REPLICATED, check_vma=False)


def sum_over_data(tree):
    """Add a tree up over the data-parallel groups; only inside `over_data`."""
    return jax.lax.psum(tree, "data")
