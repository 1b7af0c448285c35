"""Reading and writing slices of trees of stacked arrays, and replacing parts of a module."""

from typing import Any

import jax


def at(tree: Any, *index: Any) -> Any:
    """Return the slice of every array at an index of its first dimensions."""

    def one(x):
        rest = x.shape[len(index) :]
        return jax.lax.dynamic_slice(x, (*index, *(0,) * len(rest)), (1,) * len(index) + rest).reshape(rest)

    return jax.tree.map(one, tree)


def put(tree: Any, values: Any, *index: Any) -> Any:
    """Return the arrays with `values` at an index of their first dimensions."""

    def one(x, value):
        return jax.lax.dynamic_update_slice(x, value.reshape((1,) * len(index) + value.shape), (*index, *(0,) * value.ndim))

    return jax.tree.map(one, tree, values)


def length(blocks: Any) -> int:
    """Return the number of stacked layers."""
    return jax.tree.leaves(blocks)[0].shape[0]


def replace(module: Any, **parts: Any) -> Any:
    """Return a copy of a module with other parts."""
    copy = jax.tree.map(lambda x: x, module)
    for name, part in parts.items():
        setattr(copy, name, part)
    return copy
