"""Shape of a decoder and settings of its computation: the section `model` of a configuration."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside

REMAT = ("none", "qkv_gate_up", "qkv", "full")
ATTENTION = ("xla", "cudnn")
DTYPES = ("float32", "bfloat16", "float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A Tele-FLM decoder. Source: report, table 2 and section 3.1."""

    num_layers: int
    d_model: int
    """Width of the residual stream ("hidden size")."""
    num_heads: int
    num_kv_heads: int
    """Key/value heads; equal to num_heads in every Tele-FLM, fewer for grouped-query attention."""
    d_ff: int
    """Width of the gated feed-forward ("FFN hidden size")."""
    vocab_size: int
    """Rows of the embedding and of the head: the tokenizer's vocabulary size, unpadded."""
    context_length: int
    """Tokens of a training sequence, and the longest context for evaluation and generation."""
    output_biases: bool = False
    """Biases on the outputs of attention and feed-forward, as in TeleChat; no Tele-FLM has any."""
    norm_epsilon: float = 1e-5
    rope_theta: float = 10_000.0
    compute_dtype: str = "bfloat16"
    """Dtype of matrix products and activations; parameters, norms, rotary angles and losses are float32. float16 is for inference only."""
    remat: str = "none"
    """Values that a layer keeps for its backward pass: none (all of them), qkv_gate_up, qkv, or full (only its input)."""
    attention: str = "xla"
    """Attention kernel: xla (every backend) or cudnn (NVIDIA GPUs, 16-bit, no document mask)."""
    document_attention: bool = False
    """Confine attention to the token's own document. The report does not say; False was common practice when it was written."""
    loss_chunk_tokens: int = 512
    """Positions of every sequence whose logits exist at the same time in the loss (`objectives/cross_entropy.py`)."""

    def __post_init__(self):
        refuse_outside("model", self, num_layers=1, d_model=1, num_heads=1, num_kv_heads=1, d_ff=1, vocab_size=1)
        refuse_outside("model", self, context_length=1, loss_chunk_tokens=1, norm_epsilon=None, rope_theta=None)
        if self.d_model % (2 * self.num_heads):
            raise UserError(
                f"got model.d_model={self.d_model} with model.num_heads={self.num_heads}; allowed: heads of an even size "
                f"(d_model a multiple of {2 * self.num_heads}); change model.d_model or model.num_heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise UserError(
                f"got model.num_kv_heads={self.num_kv_heads}; allowed: a divisor of model.num_heads={self.num_heads}; "
                "change model.num_kv_heads"
            )
        for name, allowed in (("remat", REMAT), ("attention", ATTENTION), ("compute_dtype", DTYPES)):
            if getattr(self, name) not in allowed:
                raise UserError(f"got model.{name}={getattr(self, name)!r}; allowed: {', '.join(allowed)}; change model.{name}")
        if self.attention == "cudnn" and self.document_attention:
            raise UserError(
                "got model.attention='cudnn' with model.document_attention=True; allowed: the cudnn kernel takes no document mask; "
                "change model.attention to 'xla' or model.document_attention to False"
            )
        if self.attention == "cudnn" and self.compute_dtype == "float32":
            raise UserError(
                "got model.attention='cudnn' with model.compute_dtype='float32'; allowed: bfloat16 or float16; change one of the two"
            )

    @property
    def head_size(self) -> int:
        """Dimension of one attention head; 128 in every Tele-FLM."""
        return self.d_model // self.num_heads
