"""Cross-entropy in nats, in chunks of the sequence, so that the float32 logits of a whole batch never exist.

At 80,000 pieces and 4,096 tokens, the logits of one sequence take 1.3 GB. The gradient is computed in the same pass as the loss: each
chunk's logits are formed once, used for both, and dropped. Our choice; a rematerialised loss forms them twice.

With a sharded vocabulary, devices exchange only maxima and sums over a chunk's positions, never logits.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from teleflm_jax.objectives.objective import Head


def token_losses(z_BTD: jax.Array, head: Head, targets_BT: jax.Array) -> jax.Array:
    """Return the negative log-likelihood of every target, float32 [B, T] in nats; `z_BTD` are final hidden states."""

    def body(_, chunk):
        z_BCD, targets_BC = chunk
        return None, _chunk_losses(z_BCD, targets_BC, head)[0]

    _, losses = jax.lax.scan(body, None, (_split(z_BTD, head.chunk), _split(targets_BT, head.chunk)))
    return _join(losses, targets_BT.shape[1])


def loss_and_gradients(
    z_BTD: jax.Array, head: Head, batch: Mapping[str, jax.Array], gradient_DV: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the sum of `weights` · negative log-likelihood of `targets`, and its gradients: an `Objective`."""

    def body(carry, ztw):
        total, gradient = carry
        z, targets, weights = ztw
        losses, logits, lse, hit = _chunk_losses(z, targets, head)
        dlogits = ((jnp.exp(logits - lse[..., None]) - hit) * weights[..., None]).astype(z.dtype)
        dz = jnp.einsum("bcv,dv->bcd", dlogits, head.weight_DV.astype(z.dtype))
        own = jnp.einsum("bcd,bcv->dv", z, dlogits, preferred_element_type=jnp.float32)
        own = jnp.pad(own, ((0, gradient.shape[0] - own.shape[0]), (0, 0)))
        return (total + jnp.sum(losses * weights), gradient + own.astype(gradient.dtype)), dz

    chunks = tuple(_split(x, head.chunk) for x in (z_BTD, batch["targets"], batch["weights"]))
    (total, gradient_DV), dz = jax.lax.scan(body, (jnp.zeros(()), gradient_DV), chunks)
    return total, _join(dz, z_BTD.shape[1]), gradient_DV


def _chunk_losses(z_BCD, targets_BC, head):
    """Return losses [B, C], float32 logits [B, C, V], their log-sum-exp [B, C], and a mask [B, C, V] of the targets' logits."""
    logits = jnp.einsum("bcd,dv->bcv", z_BCD, head.weight_DV.astype(z_BCD.dtype), preferred_element_type=jnp.float32)
    columns = logits.shape[-1]
    if columns * head.group.size > head.vocab_size:
        ids = jnp.arange(columns) + head.group.first_row(columns)
        logits = jnp.where(ids < head.vocab_size, logits, -jnp.inf)
    top = head.group.max(logits.max(axis=-1))
    lse = top + jnp.log(head.group.sum(jnp.exp(logits - top[..., None]).sum(axis=-1)))
    rows, here = head.group.local_rows(targets_BC, columns)
    target = jnp.where(here, jnp.take_along_axis(logits, rows[..., None], axis=-1)[..., 0], 0)
    hit = (jnp.arange(columns) == rows[..., None]) & here[..., None]
    return lse - head.group.sum(target), logits, lse, hit


def _split(x, chunk):
    """Map [B, T, …] to [chunks, B, chunk, …]; the last chunk is padded with zeros, whose weight is 0."""
    b, t, *rest = x.shape
    chunk = min(chunk, t)
    x = jnp.pad(x, [(0, 0), (0, -t % chunk)] + [(0, 0)] * len(rest))
    return x.reshape(b, -1, chunk, *rest).swapaxes(0, 1)


def _join(x, length):
    """Undo `_split`."""
    x = x.swapaxes(0, 1)
    return x.reshape(x.shape[0], -1, *x.shape[3:])[:, :length]
