"""Parameters and floating-point operations of a model, computed from its shape in whole numbers."""

from teleflm_jax.model.config import ModelConfig


def parameters(config: ModelConfig) -> dict[str, int]:
    """Count parameters by component; they sum to L(2h² + 2hk + 3hf) + 2Vh + (2L + 1)h, where k is the width of all key/value heads.

    Output biases add 2Lh.

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
    """Count floating-point operations of forward and backward per token in three conventions; none counts recomputation.

    Returns:
        `6n`: 6 N with all N parameters. `causal`: 6 P + 6 L s h, where P counts the parameters of matrix products (no embedding, no
        norms) and s is the context length; half of the attention scores count, because of the causal mask. `full`: 6 P + 12 L s h,
        which counts all attention scores (PaLM).
    """
    count = parameters(config)
    products = 6 * (count["attention"] + count["feed-forward"] + count["head"])
    scores = 6 * config.num_layers * config.context_length * config.d_model
    return {"6n": 6 * sum(count.values()), "causal": products + scores, "full": products + 2 * scores}
