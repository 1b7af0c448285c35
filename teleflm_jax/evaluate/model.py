"""A model as benchmarks ask it."""

import dataclasses

import tokenizers

from teleflm_jax.generate import chat
from teleflm_jax.generate.decoder import Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Weights, and how they are asked."""

    name: str
    """The run's folder and the step."""
    decoder: Decoder
    tokenizer: tokenizers.Tokenizer
    format: chat.Format | None = None
    """In which requests are written as conversations; None: texts are asked as they are."""
    bos: bool = True
    """Whether texts begin with what the tokenizer puts in front of one, `<s>` where it is ours."""
    batch_size: int = 8
    """Texts at a time."""
    max_tokens: int = 0
    """New tokens at most; 0: as a task says."""
    seed: int = 0
