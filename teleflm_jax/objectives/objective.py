"""The interface between objectives and passes: inputs and outputs of an objective."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

import jax

from sharding.tensor import ALONE, Group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The output embedding, or a device's shard of its columns."""

    weight_DV: jax.Array
    """Used in the hidden states' dtype, with float32 accumulation."""
    vocab_size: int
    """Columns of all shards that belong to a token; the columns after them are padding and have no probability."""
    chunk: int
    """Positions of each sequence whose logits exist at the same time."""
    group: Group = ALONE
    """Communication among the devices that hold the other columns."""


class Objective(Protocol):
    """A function of final hidden states, head and batch that returns a loss and its gradients; it runs once for each microbatch.

    `passes.gradients` divides the loss and all gradients by the sum of the batch's `weights` over the whole update, so an objective returns
    sums in which each position counts with its weight. It computes its gradients itself: JAX does not differentiate it.
    """

    def __call__(
        self, z_BTD: jax.Array, head: Head, batch: Mapping[str, jax.Array], gradient_DV: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Return the loss of a microbatch and its gradients.

        Args:
            z_BTD: final hidden states in the compute dtype. All devices of `head.group` have the same.
            head: the output embedding, or this device's columns of it.
            batch: a microbatch: `tokens`, `targets` and `segments` int32 [B, T], `weights` float32 [B, T] (1 where a target counts, 0 where
                it does not), and any further arrays [B, ...] that the batch has, such as a teacher's logits or hidden states.
            gradient_DV: accumulator of the head's gradient, float32 or `train.accumulation_dtype`. It may have more rows than D, which
                stay as they are.

        Returns:
            The loss, a float32 scalar, the same on all devices of the group. Its gradient by `z_BTD`, in z's dtype: this device's
            contribution; the gradient is the sum over the group. The accumulator plus the gradient of the head.
        """
        ...
