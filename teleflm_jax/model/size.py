"""Size and cost of a model, from its shape alone and in whole numbers."""

from teleflm_jax.model.config import ModelConfig


def parameters(config: ModelConfig) -> dict[str, int]:
    """Parameters by component; they sum to L(2h² + 2hk + 3hf) + 2Vh + (2L + 1)h, where k is the width of all key/value heads.

    Output biases, where the model has them, add 2Lh.

    Source: report, table 2. Without grouped heads k = h, which gives 4h².
    """
    h, layers = config.d_model, config.num_layers
    key_value_width = config.num_kv_heads * config.head_size
    biases = {"biases": 2 * layers * h} if config.output_biases else {}
    return biases | {
        "embedding": config.vocab_size * h,
        "attention": layers * (2 * h * h + 2 * h * key_value_width),
        "feed-forward": layers * 3 * h * config.d_ff,
        "norms": (2 * layers + 1) * h,
        "head": h * config.vocab_size,
    }


def flops_per_token(config: ModelConfig) -> dict[str, int]:
    """Floating-point operations of forward and backward per token, in the three conventions in use; recomputation is never counted.

    Returns:
        `6n`: 6 N with all N parameters. `causal`: 6 P + 6 L s h, where P are the parameters of matrix products (no embedding, no
        norms) and s the context, counting the half of the attention scores that a causal mask leaves. `full`: 6 P + 12 L s h, as
        though nothing were masked (PaLM).
    """
    count = parameters(config)
    products = 6 * (count["attention"] + count["feed-forward"] + count["head"])
    scores = 6 * config.num_layers * config.context_length * config.d_model
    return {"6n": 6 * sum(count.values()), "causal": products + scores, "full": products + 2 * scores}
