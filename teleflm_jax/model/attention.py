"""Self-attention: projections, rotary embeddings and attention kernels.

A kernel takes q [B, T, N, H] and k, v [B, S, K, H] and returns [B, T, N, H]. `model.attention` names the kernel; a kernel that does not
support a setting raises, and there is no fallback to another one.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from teleflm_jax.errors import UserError
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.layers import Rope, apply_rope, weight
from teleflm_jax.mup import MATRIX, Mup

Kernel = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(q, k, v) -> attention output."""

QUERY_BLOCK = 128
"""Queries per block of the `xla` kernel: a block reads only the keys up to its own end, which saves nearly half of the work."""


def masked_attention(q_BTNH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, mask_BTS: jax.Array) -> jax.Array:
    """Attention under a boolean mask (True: attend; broadcastable over B); softmax in float32, scale 1/sqrt(H) under µP too.

    Query heads share key/value heads in groups of N / K. The softmax is normalised after the product with the values, which saves a pass
    over the scores. The mask must allow every query at least one key.
    """
    b, t, n, h = q_BTNH.shape
    q_BKGTH = (q_BTNH * h**-0.5).swapaxes(1, 2).reshape(b, k_BKSH.shape[1], -1, t, h)
    scores = jnp.einsum("bkgth,bksh->bkgts", q_BKGTH, k_BKSH, preferred_element_type=jnp.float32)
    scores = jnp.where(mask_BTS[:, None, None], scores, jnp.finfo(jnp.float32).min)
    share = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    o_BKGTH = jnp.einsum("bkgts,bksh->bkgth", share.astype(v_BKSH.dtype), v_BKSH, preferred_element_type=jnp.float32)
    o_BKGTH = (o_BKGTH / share.sum(axis=-1, keepdims=True)).astype(v_BKSH.dtype)
    return o_BKGTH.reshape(b, n, t, h).swapaxes(1, 2)


def causal(q_BTNH: jax.Array, k_BTKH: jax.Array, v_BTKH: jax.Array, segments_BT: jax.Array | None = None) -> jax.Array:
    """Causal attention in blocks of queries, each of which skips all keys after the block; the `xla` kernel.

    With `segments_BT`, a token attends only to tokens of its own document.
    """
    length = q_BTNH.shape[1]
    k_BKTH, v_BKTH = k_BTKH.swapaxes(1, 2), v_BTKH.swapaxes(1, 2)
    blocks = []
    for start in range(0, length, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, length)
        mask = jnp.arange(start, end)[:, None] >= jnp.arange(end)[None]
        mask_BTS = mask[None] if segments_BT is None else mask & (segments_BT[:, start:end, None] == segments_BT[:, None, :end])
        blocks.append(masked_attention(q_BTNH[:, start:end], k_BKTH[:, :, :end], v_BKTH[:, :, :end], mask_BTS))
    return jnp.concatenate(blocks, axis=1)


def refuse_absent(config: ModelConfig) -> None:
    """Raise if the backend lacks the kernel. Commands that compute call this first; compiling for another machine does not need it.

    Raises:
        UserError: cudnn without an NVIDIA GPU (`ModelConfig` refuses cudnn with a document mask).
    """
    if config.attention == "cudnn" and jax.default_backend() != "gpu":
        raise UserError(f"got model.attention='cudnn' on {jax.default_backend()}; allowed: NVIDIA GPUs; change model.attention to 'xla'")


def kernel(config: ModelConfig, segments_BT: jax.Array | None = None) -> Kernel:
    """Return the causal kernel that `config.attention` names, masked by document under `config.document_attention`."""
    if config.attention == "cudnn":
        return functools.partial(jax.nn.dot_product_attention, is_causal=True, implementation="cudnn")
    return functools.partial(causal, segments_BT=segments_BT if config.document_attention else None)


class Attention(nnx.Module):
    """Multi-head or grouped-query attention with rotary embeddings. The block adds the output bias, if there is one."""

    def __init__(self, config: ModelConfig, mup: Mup, *, rngs: nnx.Rngs):
        d, n, k, h = config.d_model, config.num_heads, config.num_kv_heads, config.head_size
        self.query = weight(rngs, mup, MATRIX, ("embed", "heads", "head_dim"), (d, n, h))
        self.key = weight(rngs, mup, MATRIX, ("embed", "kv_heads", "head_dim"), (d, k, h))
        self.value = weight(rngs, mup, MATRIX, ("embed", "kv_heads", "head_dim"), (d, k, h))
        self.out = weight(rngs, mup, MATRIX, ("heads", "head_dim", "embed"), (n, h, d))

    def __call__(self, x_BTD: jax.Array, rope: Rope, attend: Kernel) -> jax.Array:
        """Map [B, T, D] to [B, T, D]; `attend` is a causal kernel, or one that updates a cache (`cache.py`).

        On a shard of the heads, the result is that shard's partial sum.
        """
        q, k, v = (jnp.einsum("btd,dnh->btnh", x_BTD, w[...].astype(x_BTD.dtype)) for w in (self.query, self.key, self.value))
        q, k = apply_rope(q, rope), apply_rope(k, rope)
        o_BTNH = attend(*(checkpoint_name(y, "qkv") for y in (q, k, v)))
        return jnp.einsum("btnh,nhd->btd", o_BTNH, self.out[...].astype(x_BTD.dtype))
