"""The model behind the server: its name, tokenizer, sizes and chat format."""

import dataclasses
import pathlib

import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.generate import chat
from teleflm_jax.tokenizer import pieces, specials


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServedModel:
    """The model that is served."""

    name: str
    tokenizer: tokenizers.Tokenizer
    ends: tuple[int, ...]
    """Ids that end a text."""
    context_length: int
    vocab_size: int
    format: chat.ChatFormat | None
    """Chat format; None: the model has none, for the reason in `no_chat`."""
    no_chat: str = ""
    max_token_bytes: int | None = None
    """Most bytes of text for one token (`pieces.longest`); None: unbounded."""


def load(name: str, folder: pathlib.Path, tokenizer: tokenizers.Tokenizer, *, context_length: int, vocab_size: int) -> ServedModel:
    """Return the model of a run's folder; without a working chat template it serves completions only.

    Its name may come from a folder, so a lone surrogate in it becomes a question mark, as in the answers.
    """
    format, no_chat = None, ""
    try:
        format = chat.load(folder, tokenizer)
    except UserError as error:
        no_chat = str(error)
    sizes = {"context_length": context_length, "vocab_size": vocab_size}
    return ServedModel(
        name=name.encode(errors="replace").decode(),
        tokenizer=tokenizer,
        ends=specials.of(tokenizer).ends,
        format=format,
        no_chat=no_chat,
        max_token_bytes=pieces.longest(tokenizer),
        **sizes,
    )
