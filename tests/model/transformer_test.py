import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from teleflm_jax import mup
from teleflm_jax.errors import UserError
from teleflm_jax.model import attention, layers, size, transformer
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.transformer import Transformer
from tests import tiny

EXACT = {"rtol": 2e-5, "atol": 2e-5}
"""Float32, summed in another order."""


def shapes(config: ModelConfig) -> Transformer:
    return jax.eval_shape(lambda: Transformer(config, mup.at_width(mup.MupConfig(), config.d_model), rngs=nnx.Rngs(0)))


def hidden(model: Transformer, tokens: jax.Array) -> jax.Array:
    return model.forward(tokens, transformer.plain(model.config, tokens.shape[1]))[0]


def by_hand(model: Transformer, tokens: np.ndarray) -> np.ndarray:
    """The logits of one sequence in float64, as the report and Llama write them down."""
    config, weights = model.config, jax.tree.map(lambda x: np.asarray(x, np.float64), model)
    half, places = config.head_size // 2, np.arange(len(tokens))
    angles = places[:, None, None] * config.rope_theta ** (-np.arange(half) / half)

    def norm(x_TD, gain_D):
        return x_TD / np.sqrt((x_TD**2).mean(axis=-1, keepdims=True) + config.norm_epsilon) * gain_D

    def rope(x_TNH):
        a, b = x_TNH[..., :half], x_TNH[..., half:]
        return np.concatenate([a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)], axis=-1)

    x_TD = weights.embedding[...][tokens] * model.multipliers.input
    for layer in range(config.num_layers):
        block = jax.tree.map(lambda w: w[layer], weights.blocks)  # noqa: B023
        y_TD, own = norm(x_TD, block.attention_norm.gain[...]), block.attention
        q, k, v = (np.einsum("td,dnh->tnh", y_TD, w[...]) for w in (own.query, own.key, own.value))
        k, v = (np.repeat(x, config.num_heads // config.num_kv_heads, axis=1) for x in (rope(k), v))
        scores = np.einsum("tnh,snh->nts", rope(q), k) / np.sqrt(config.head_size)
        scores = np.exp(np.where(places[:, None] >= places, scores, -np.inf))
        x_TD = x_TD + np.einsum("nts,snh,nhd->td", scores / scores.sum(axis=-1, keepdims=True), v, own.out[...])
        y_TD, own = norm(x_TD, block.feed_forward_norm.gain[...]), block.feed_forward
        gate_TF = y_TD @ own.gate[...]
        x_TD = x_TD + (gate_TF / (1 + np.exp(-gate_TF)) * (y_TD @ own.up[...])) @ own.down[...]
    return norm(x_TD, weights.final_norm.gain[...]) @ weights.head[...] * model.multipliers.output


@pytest.mark.parametrize("num_kv_heads", [4, 2])
def test_logits_are_those_that_the_equations_give(num_kv_heads):
    config = tiny.config(num_kv_heads=num_kv_heads, norm_epsilon=0.1, rope_theta=100.0)
    rules = dataclasses.replace(mup.at_width(tiny.WIDE, 32), input_multiplier=3.0, output_multiplier=0.5)
    model = jax.jit(lambda: Transformer(config, rules, rngs=nnx.Rngs(params=1)))()
    for norm in (model.blocks.attention_norm, model.blocks.feed_forward_norm, model.final_norm):  # they start at one, where they do nothing
        norm.gain[...] = jnp.linspace(0.5, 1.5, norm.gain[...].size).reshape(norm.gain[...].shape)
    tokens = tiny.tokens(1, 16)
    wanted = by_hand(model, np.asarray(tokens[0]))
    np.testing.assert_allclose(
        tiny.logits(model, tokens)[0], wanted, rtol=1e-4, atol=2e-5 * np.abs(wanted).max()
    )  # float32 against float64


def test_future_tokens_do_not_change_past_logits():
    model, before = tiny.model(), tiny.tokens(2, 16)
    after = before.at[:, 9:].set((before[:, 9:] + 1) % 64)
    first, second = tiny.logits(model, before), tiny.logits(model, after)
    chex.assert_trees_all_close(first[:, :9], second[:, :9], **EXACT)
    assert jnp.abs(first[:, 9:] - second[:, 9:]).max() > 1e-2


def test_every_past_token_reaches_the_logits():
    model, tokens = tiny.model(), tiny.tokens(1, 16)

    def last_logit(embedded):
        x = embedded
        for layer in range(2):
            block = jax.tree.map(lambda w: w[layer], model.blocks)  # noqa: B023
            x = block(x, layers.rope_tables(jnp.arange(16)[None], model.config), attention.causal)
        return model.logits(model.final(x))[0, -1, 0]

    gradient = jax.jit(jax.grad(last_logit))(model.embed(tokens))
    assert (jnp.abs(gradient[0]).max(axis=-1) > 1e-6).all()


def test_a_document_mask_makes_packed_documents_independent():
    config = tiny.config(document_attention=True)
    model, tokens = tiny.model(config), tiny.tokens(1, 16)
    segments = jnp.array([[1] * 6 + [2] * 10])
    packed = tiny.logits(model, tokens, segments)
    apart = [tiny.logits(model, tokens[:, at], segments[:, at]) for at in (slice(6), slice(6, None))]
    # rotary positions count from the start of the sequence, and only their differences matter
    chex.assert_trees_all_close(packed, jnp.concatenate(apart, axis=1), **EXACT)
    assert jnp.abs(packed[:, 6:] - tiny.logits(tiny.model(), tokens)[:, 6:]).max() > 1e-2


@pytest.mark.parametrize("block", [3, 5, 16])
def test_blocks_of_queries_equal_plain_attention(block, monkeypatch):
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    q, k, v = (
        jax.random.normal(key, (2, 16, heads, 8)) for key, heads in zip(jax.random.split(jax.random.key(0), 3), (4, 2, 2), strict=True)
    )
    found = jax.jit(lambda *qkv: attention.causal(*qkv))(q, k, v)  # not `causal` itself, whose trace of another block jax would reuse
    chex.assert_trees_all_close(found, jax.nn.dot_product_attention(q, k, v, is_causal=True), **EXACT)


def test_grouped_heads_equal_repeated_ones():
    grouped = tiny.model(tiny.config(num_kv_heads=2))
    full = tiny.model()
    for name in ("query", "out"):
        setattr(full.blocks.attention, name, getattr(grouped.blocks.attention, name))
    for name in ("key", "value"):
        getattr(full.blocks.attention, name)[...] = jnp.repeat(getattr(grouped.blocks.attention, name)[...], 2, axis=2)
    for name in ("embedding", "head", "final_norm"):
        setattr(full, name, getattr(grouped, name))
    full.blocks.feed_forward = grouped.blocks.feed_forward
    tokens = tiny.tokens(2, 16)
    chex.assert_trees_all_close(tiny.logits(full, tokens), tiny.logits(grouped, tokens), **EXACT)


gradient = jax.jit(jax.grad(lambda model, tokens: jnp.square(model(tokens)).mean()))


@pytest.mark.parametrize("remat", ["qkv_gate_up", "qkv", "full"])
def test_rematerialisation_changes_no_gradient(remat):
    tokens = tiny.tokens(2, 16)
    plain, found = (jax.tree.leaves(gradient(model, tokens)) for model in (tiny.model(), tiny.model(tiny.config(remat=remat))))
    chex.assert_trees_all_close(found, plain, **EXACT)


@pytest.mark.parametrize("remat, kept", [("none", None), ("qkv_gate_up", {"q", "k", "v", "gate", "up", "x"}), ("full", set())])
def test_rematerialisation_keeps_what_it_names(remat, kept):
    """Counts the stacked values that the scan over layers hands to its backward pass."""
    model, tokens = tiny.model(tiny.config(remat=remat)), tiny.tokens(2, 16)
    _, vjp = jax.vjp(lambda model: hidden(model, tokens), model)
    weights = {id(leaf) for leaf in jax.tree.leaves(model)}
    stacked = [leaf for leaf in jax.tree.leaves(vjp) if leaf.ndim > 2 and leaf.shape[0] == 2 and id(leaf) not in weights]
    activations = [leaf for leaf in stacked if 2 * 2 * 16 * 32 <= leaf.size and leaf.shape[1:3] == (2, 16)]
    if kept is None:
        assert len(activations) > 7
    else:
        assert len(activations) == len(kept) + 1  # and the layer's input


def test_compute_dtype_reaches_products_while_logits_stay_float32():
    model, tokens = tiny.model(tiny.config(compute_dtype="bfloat16")), tiny.tokens(1, 8)
    logits, exact = tiny.logits(model, tokens), tiny.logits(tiny.model(), tokens)
    assert jax.eval_shape(hidden, model, tokens).dtype == jnp.bfloat16
    assert logits.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(model))
    assert 1e-4 < jnp.abs(logits - exact).max() < 0.1 * jnp.abs(exact).max()


def test_multipliers_scale_embedding_and_logits():
    config, tokens = tiny.CONFIG, tiny.tokens(1, 8)
    plain = mup.at_width(tiny.WIDE, 32)
    scaled = dataclasses.replace(plain, output_multiplier=0.25, input_multiplier=2.0)
    build = lambda rules: jax.jit(lambda: Transformer(config, rules, rngs=nnx.Rngs(params=0)))()  # noqa: E731
    chex.assert_trees_all_close(build(scaled).embed(tokens), 2.0 * build(plain).embed(tokens), rtol=0)
    halved = dataclasses.replace(plain, output_multiplier=0.25)
    chex.assert_trees_all_close(tiny.logits(build(halved), tokens), 0.25 * tiny.logits(build(plain), tokens), **EXACT)


def test_the_output_multiplier_is_not_rounded_to_the_compute_dtype():
    config = tiny.config(compute_dtype="bfloat16")
    rules = dataclasses.replace(mup.at_width(tiny.WIDE, 32), output_multiplier=0.0251)  # 0.025146… in bfloat16
    model = jax.jit(lambda: Transformer(config, rules, rngs=nnx.Rngs(params=0)))()
    x_BTD = jax.random.normal(jax.random.key(0), (1, 64, 32), jnp.bfloat16)
    normed = model.final_norm(x_BTD)
    assert normed.dtype == jnp.bfloat16
    exact = np.float32(normed) * np.float32(0.0251)
    np.testing.assert_array_equal(np.float32(model.final(x_BTD)), np.float32(exact.astype(jnp.bfloat16)))


@pytest.mark.parametrize(
    "layers, width, heads, ffn, total",
    [
        (64, 512, 4, 1344, 281_215_488),
        (64, 8192, 64, 21824, 52_817_829_888),
        (80, 10240, 80, 27264, 102_198_487_040),
        (140, 20480, 160, 98304, 1_083_735_265_280),
    ],
)
def test_declared_weights_add_up_to_the_report(layers, width, heads, ffn, total):
    """Also holds `size.parameters`, a formula, to the declarations."""
    config = ModelConfig(
        num_layers=layers, d_model=width, num_heads=heads, num_kv_heads=heads, d_ff=ffn, vocab_size=80_000, context_length=4096
    )
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    model = shapes(config)
    assert count(model) == total
    assert size.parameters(config) == {
        "embedding": count(model.embedding),
        "attention": count(model.blocks.attention),
        "feed-forward": count(model.blocks.feed_forward),
        "norms": count(model.blocks.attention_norm) + count(model.blocks.feed_forward_norm) + count(model.final_norm),
        "head": count(model.head),
    }


@pytest.mark.parametrize("output_biases, count", [(False, 12), (True, 14)])
def test_every_weight_declares_its_role_and_axes(output_biases, count):
    model = shapes(tiny.config(output_biases=output_biases))
    params = jax.tree.leaves(model, is_leaf=lambda node: isinstance(node, nnx.Param))
    assert len(params) == count
    for param in params:
        stacked = param.get_value().ndim - len(param.axes)
        assert param.role in mup.at_width(tiny.WIDE, 32).rules and stacked in (0, 1)


def test_initial_weights_have_the_std_of_their_role():
    config = tiny.config(d_model=256, d_ff=512, vocab_size=512)
    model = tiny.model(config)
    rules = mup.at_width(tiny.WIDE, 256).rules
    for param in (model.embedding, model.head, model.blocks.attention.query, model.blocks.feed_forward.down):
        drawn = np.asarray(param[...])
        # 131,072 draws and more: the sample's std is within 1 % of the distribution's
        np.testing.assert_allclose(drawn.std(), rules[param.role].std, rtol=0.01)
        assert abs(drawn).max() <= 2 * rules[param.role].std / 0.8796 + 1e-6
    assert (model.final_norm.gain[...] == 1).all()
    biased = jax.jit(lambda: Transformer(tiny.config(output_biases=True), mup.at_width(tiny.WIDE, 32), rngs=nnx.Rngs(params=0)))()
    assert not biased.blocks.attention_bias[...].any() and not biased.blocks.feed_forward_bias[...].any()
    np.testing.assert_array_equal(tiny.logits(biased, tiny.tokens(2, 8)), tiny.logits(tiny.model(), tiny.tokens(2, 8)))
    assert not np.allclose(model.blocks.attention.query[0], model.blocks.attention.query[1])


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"attention": "flash"}, "allowed: xla, cudnn"),
        ({"remat": "some"}, "qkv_gate_up"),
        ({"num_heads": 5}, "model.num_heads=5"),
        ({"num_kv_heads": 3}, "divisor of model.num_heads=4"),
        ({"num_layers": 0}, "model.num_layers=0"),
        ({"attention": "cudnn", "document_attention": True, "compute_dtype": "bfloat16"}, "takes no document mask"),
        ({"attention": "cudnn"}, "bfloat16"),
    ],
)
def test_impossible_shapes_and_kernels_are_refused(changes, words):
    with pytest.raises(UserError, match="got .*allowed: ") as error:
        tiny.config(**changes)
    assert words in str(error.value)


def test_cudnn_on_a_cpu_is_an_error_not_a_fallback():
    config = tiny.config(attention="cudnn", compute_dtype="bfloat16")
    with pytest.raises(UserError, match="NVIDIA"):
        attention.refuse_absent(config)
    with pytest.raises((RuntimeError, ValueError), match=r"(?i)cudnn"):
        tiny.model(config)(tiny.tokens(1, 8))


def test_saved_names_are_those_that_the_model_gives():
    text = str(jax.make_jaxpr(lambda model: model(tiny.tokens(1, 8)))(tiny.model()))
    for names in transformer.SAVED.values():
        assert all(f"name={name}" in text for name in names)
