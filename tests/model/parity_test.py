"""Our decoder against transformers' Llama, which none of us wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sharding import rules as sharding_rules
from sharding.config import MeshConfig
from teleflm_jax import mup, passes
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.mup import MupConfig
from tests import tiny

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="PyTorch is installed on Python 3.11 only (requirements-parity.txt)")
transformers = pytest.importorskip("transformers")


def llama(model):
    """The same weights in transformers' model; the multipliers are folded into embedding and head, which is exact."""
    config, weights = model.config, {}

    def put(name, array):
        weights[name] = torch.tensor(np.asarray(array, np.float32))

    put("model.embed_tokens.weight", model.embedding[...] * model.multipliers.input)
    put("lm_head.weight", (model.head[...] * model.multipliers.output).T)
    put("model.norm.weight", model.final_norm.gain[...])
    for layer in range(config.num_layers):
        block = jax.tree.map(lambda w: w[layer], model.blocks)  # noqa: B023
        prefix = f"model.layers.{layer}."
        put(prefix + "input_layernorm.weight", block.attention_norm.gain[...])
        put(prefix + "post_attention_layernorm.weight", block.feed_forward_norm.gain[...])
        for name, projection in (("q", block.attention.query), ("k", block.attention.key), ("v", block.attention.value)):
            put(prefix + f"self_attn.{name}_proj.weight", projection[...].reshape(config.d_model, -1).T)
        put(prefix + "self_attn.o_proj.weight", block.attention.out[...].reshape(-1, config.d_model).T)
        for name in ("gate", "up", "down"):
            put(prefix + f"mlp.{name}_proj.weight", getattr(block.feed_forward, name)[...].T)
    peer = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.context_length,
            rms_norm_eps=config.norm_epsilon,
            tie_word_embeddings=False,
        )
    )
    peer.load_state_dict(weights, strict=True)
    return peer


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_logits_loss_and_gradients_equal_llama(num_kv_heads):
    config = tiny.config(num_kv_heads=num_kv_heads)
    rules = mup.at_width(MupConfig(base_width=8, std=0.3, matrix_std=0.4, input_multiplier=3.0, output_multiplier=2.0), config.d_model)
    model = jax.jit(lambda: Transformer(config, rules, rngs=nnx.Rngs(params=3)))()
    tokens = np.asarray(tiny.tokens(2, 16))
    peer = llama(model)
    theirs = peer(input_ids=torch.tensor(tokens).long(), labels=torch.tensor(tokens).long())
    ours = np.asarray(model(tokens))
    # both sum in float32, in other orders
    np.testing.assert_allclose(ours, theirs.logits.detach().numpy(), rtol=1e-5, atol=1e-5 * np.abs(ours).max())

    layout = sharding_rules.layout(MeshConfig(), config.d_model, jax.devices()[:1])
    batch = {"tokens": tokens[:, :-1], "targets": tokens[:, 1:], "segments": jnp.ones((2, 15), int), "weights": jnp.ones((2, 15))}
    value, gradient, *_ = passes.gradients(layout, microbatch_size=1)(model, batch)
    np.testing.assert_allclose(value, theirs.loss.item(), rtol=1e-5)
    theirs.loss.backward()
    for layer in range(config.num_layers):
        block = peer.model.layers[layer]
        pairs = (
            (block.mlp.down_proj, gradient.blocks.feed_forward.down[...][layer].T),
            (block.self_attn.k_proj, gradient.blocks.attention.key[...][layer].reshape(config.d_model, -1).T),
        )
        for peer_weight, mine in pairs:
            theirs_grad = peer_weight.weight.grad.numpy()
            np.testing.assert_allclose(mine, theirs_grad, atol=1e-5 * np.abs(theirs_grad).max(), rtol=1e-4)
