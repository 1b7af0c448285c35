"""Cross-entropy in nats, in chunks of the sequence, so that the float32 logits of a whole batch never exist.

At 80,000 pieces and 4,096 tokens one sequence's logits are 1.3 GB. Training needs a scalar, so its gradient is computed in the same pass as
its value: each chunk's logits are formed once, used for both, and dropped. Our choice; a rematerialised loss forms them twice.

On a shard of the vocabulary (`group` has the others) only maxima and sums over a chunk's positions are sent, never logits.
"""

import dataclasses

import jax
import jax.numpy as jnp

from sharding.tensor import ALONE, Group


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head:
    """The output embedding, or a shard of its columns."""

    weight_DV: jax.Array
    """Used in the hidden states' dtype, with float32 accumulation."""
    vocab_size: int
    """Columns of all shards that mean a token; what comes after them is padding and has no probability."""
    chunk: int
    """Positions of each sequence whose logits exist at one time."""
    group: Group = ALONE


def token_losses(z_BTD: jax.Array, head: Head, targets_BT: jax.Array) -> jax.Array:
    """Negative log-likelihood of every target, float32 [B, T] in nats; `z_BTD` are final hidden states (`Transformer.hidden`)."""

    def body(_, zt):
        return None, _chunk_losses(*zt, head)[0]

    _, losses = jax.lax.scan(body, None, (_split(z_BTD, head.chunk), _split(targets_BT, head.chunk)))
    return _join(losses, targets_BT.shape[1])


def loss_and_gradients(
    z_BTD: jax.Array, head: Head, targets_BT: jax.Array, weights_BT: jax.Array, gradient_DV: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Sum of `weights_BT` · negative log-likelihood, and its gradients.

    Divide by the number of weighted targets of the whole update, over all microbatches and devices, for the loss per token.

    Args:
        z_BTD: final hidden states.
        head: the output embedding.
        targets_BT: token ids.
        weights_BT: 1 where the target counts.
        gradient_DV: what the head's gradient is added to; its rows past D, if any, stay as they are.

    Returns:
        The loss, a float32 scalar in nats, the same on all devices of the group; its gradient by `z_BTD`, of which each device of the group
        has the part that came through its own columns; `gradient_DV` plus the head's gradient.
    """

    def body(carry, ztw):
        total, gradient = carry
        z, targets, weights = ztw
        losses, logits, lse, hit = _chunk_losses(z, targets, head)
        dlogits = ((jnp.exp(logits - lse[..., None]) - hit) * weights[..., None]).astype(z.dtype)
        dz = jnp.einsum("bcv,dv->bcd", dlogits, head.weight_DV.astype(z.dtype))
        own = jnp.einsum("bcd,bcv->dv", z, dlogits, preferred_element_type=jnp.float32)
        own = jnp.pad(own, ((0, gradient.shape[0] - own.shape[0]), (0, 0)))
        return (total + jnp.sum(losses * weights), gradient + own.astype(gradient.dtype)), dz

    chunks = tuple(_split(x, head.chunk) for x in (z_BTD, targets_BT, weights_BT))
    (total, gradient_DV), dz = jax.lax.scan(body, (jnp.zeros(()), gradient_DV), chunks)
    return total, _join(dz, z_BTD.shape[1]), gradient_DV


def _chunk_losses(z_BCD, targets_BC, head):
    """Losses [B, C], and what they came from: float32 logits [B, C, V], their log-sum-exp [B, C], and which logit is the target's."""
    logits = jnp.einsum("bcd,dv->bcv", z_BCD, head.weight_DV.astype(z_BCD.dtype), preferred_element_type=jnp.float32)
    columns = logits.shape[-1]
    if columns * head.group.size > head.vocab_size:
        ids = jnp.arange(columns) + head.group.first(columns)
        logits = jnp.where(ids < head.vocab_size, logits, -jnp.inf)
    top = head.group.max(logits.max(axis=-1))
    lse = top + jnp.log(head.group.sum(jnp.exp(logits - top[..., None]).sum(axis=-1)))
    rows, here = head.group.rows(targets_BC, columns)
    target = jnp.where(here, jnp.take_along_axis(logits, rows[..., None], axis=-1)[..., 0], 0)
    hit = (jnp.arange(columns) == rows[..., None]) & here[..., None]
    return lse - head.group.sum(target), logits, lse, hit


def _split(x, chunk):
    """[B, T, …] -> [chunks, B, chunk, …]; the last chunk is filled up with zeros (weight 0, so they count nothing)."""
    b, t, *rest = x.shape
    chunk = min(chunk, t)
    x = jnp.pad(x, [(0, 0), (0, -t % chunk)] + [(0, 0)] * len(rest))
    return x.reshape(b, -1, chunk, *rest).swapaxes(0, 1)


def _join(x, length):
    """Undo `_split`."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
