"""Cross-entropy in nats, in chunks of the sequence, so that the float32 logits of a whole batch never exist.

At 80,000 pieces and 4,096 tokens one sequence's logits are 1.3 GB. Training needs a scalar, so its gradient is computed in the same pass as
its value: each chunk's logits are formed once, used for both, and dropped. Our choice; a rematerialised loss forms them twice.
"""

import functools

import jax
import jax.numpy as jnp


def token_losses(z_BTD: jax.Array, head_DV: jax.Array, targets_BT: jax.Array, chunk: int) -> jax.Array:
    """Negative log-likelihood of every target, float32 [B, T] in nats.

    Args:
        z_BTD: final hidden states (`Transformer.hidden`).
        head_DV: output embedding, float32; used in z's dtype, with float32 accumulation.
        targets_BT: token ids.
        chunk: positions of each sequence whose logits exist at one time.
    """

    def body(_, zt):
        return None, _chunk_losses(*zt, head_DV)[0]

    _, losses = jax.lax.scan(body, None, (_split(z_BTD, chunk), _split(targets_BT, chunk)))
    return _join(losses, targets_BT.shape[1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def cross_entropy(z_BTD: jax.Array, head_DV: jax.Array, targets_BT: jax.Array, weights_BT: jax.Array, chunk: int) -> jax.Array:
    """Sum of `weights_BT` · negative log-likelihood, a float32 scalar in nats; differentiable in `z_BTD` and `head_DV`.

    Divide by the number of weighted targets of the whole update, over all microbatches and devices, for the loss per token.
    """
    return jnp.sum(token_losses(z_BTD, head_DV, targets_BT, chunk) * weights_BT)


def _forward(z_BTD, head_DV, targets_BT, weights_BT, chunk):
    def body(carry, ztw):
        total, dhead = carry
        z, targets, weights = ztw
        losses, logits, lse = _chunk_losses(z, targets, head_DV)
        hit = jnp.arange(logits.shape[-1]) == targets[..., None]
        dlogits = ((jnp.exp(logits - lse[..., None]) - hit) * weights[..., None]).astype(z.dtype)
        dz = jnp.einsum("bcv,dv->bcd", dlogits, head_DV.astype(z.dtype))
        dhead = dhead + jnp.einsum("bcd,bcv->dv", z, dlogits, preferred_element_type=jnp.float32)
        return (total + jnp.sum(losses * weights), dhead), dz

    chunks = tuple(_split(x, chunk) for x in (z_BTD, targets_BT, weights_BT))
    (total, dhead), dz = jax.lax.scan(body, (jnp.zeros(()), jnp.zeros_like(head_DV)), chunks)
    return total, (_join(dz, z_BTD.shape[1]), dhead)


def _backward(chunk, gradients, g):
    dz, dhead = gradients
    return g.astype(dz.dtype) * dz, g * dhead, None, None


cross_entropy.defvjp(_forward, _backward)


def _chunk_losses(z_BCD, targets_BC, head_DV):
    """Losses [B, C], and what they came from: float32 logits [B, C, V] and their log-sum-exp [B, C]."""
    logits = jnp.einsum("bcd,dv->bcv", z_BCD, head_DV.astype(z_BCD.dtype), preferred_element_type=jnp.float32)
    lse = jax.nn.logsumexp(logits, axis=-1)
    return lse - jnp.take_along_axis(logits, targets_BC[..., None], axis=-1)[..., 0], logits, lse


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
