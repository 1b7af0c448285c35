"""Settings `tokenizer.*`: size and training sample of the tokenizer."""

import dataclasses

from teleflm_jax.errors import UserError, refuse_outside, refuse_seed
from teleflm_jax.tokenizer import patterns

SMALLEST_VOCABULARY = 381
"""Number of special, reserved and byte ids (0 to 380, `layout.py`); pieces follow them."""
LARGEST_VOCABULARY = 2**31 - 1
"""Maximum number of ids; ids are int32 in a batch."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Training of the tokenizer. Source: report, section 3.2 (80,000 pieces, 12 M samples)."""

    vocab_size: int = 80_000
    sample_documents: int = 12_000_000
    """Number of documents to train on, drawn by data.proportions."""
    sample_bytes: int = 1_000_000_000
    """Maximum UTF-8 bytes of the sample; our choice. `tokenizer train` needs about 13 times as much memory; `corpus`, which counts words
    first, does not depend on it."""
    seed: int = 0
    pattern: str = "teleflm"
    """Name of the pattern that splits text into words; `qwen2` is for models that should run in llama.cpp (docs/huggingface.md)."""

    def __post_init__(self):
        if not SMALLEST_VOCABULARY < self.vocab_size <= LARGEST_VOCABULARY:
            raise UserError(
                f"got tokenizer.vocab_size={self.vocab_size}; allowed: above {SMALLEST_VOCABULARY}, up to {LARGEST_VOCABULARY:,}; "
                "change tokenizer.vocab_size"
            )
        if self.pattern not in patterns.PATTERNS:
            raise UserError(f"got tokenizer.pattern={self.pattern!r}; allowed: {', '.join(patterns.PATTERNS)}; change tokenizer.pattern")
        refuse_outside("tokenizer", self, sample_documents=1, sample_bytes=1)
        refuse_seed("tokenizer", self.seed)
