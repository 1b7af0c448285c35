"""Model and prompting of a benchmark."""

import dataclasses

import tokenizers

from teleflm_jax.generate import chat
from teleflm_jax.generate.decoder import Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Weights, tokenizer and prompting of the model under test."""

    name: str
    """Folder of the run, and the step."""
    decoder: Decoder
    tokenizer: tokenizers.Tokenizer
    format: chat.ChatFormat | None = None
    """Chat format of the requests; None: plain text."""
    bos: bool = True
    """Begin texts with the ids that the tokenizer adds, `<s>` for ours."""
    batch_size: int = 8
    """Texts per batch."""
    max_tokens: int = 0
    """Largest number of new tokens; 0: the task's own."""
    seed: int = 0
