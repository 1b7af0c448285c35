"""Loading of tokenizers that were trained here or imported; all others are refused."""

import hashlib
import os

import tokenizers

from teleflm_jax import foreign, invocation
from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, panics, specials, validate


def load(path: str | os.PathLike) -> tokenizers.Tokenizer:
    """Load a tokenizer; text that looks like a special token is encoded as plain text.

    The result is the library's own class: `encode(text).ids`, `encode_batch_fast(texts)`, `decode(ids, skip_special_tokens=False)`.
    Encoding a lone surrogate, which is not valid Unicode, raises; callers count such texts.

    Raises:
        UserError: The file does not exist, or its ids neither follow `layout.py` nor are described by its post-processor.
    """
    try:
        tokenizer = parse(_content(path).decode())
    except ValueError as error:
        raise UserError(
            f"got {path}, which is not a tokenizer.json ({error}); allowed: one written by `tokenizer train`; {_remedy()}"
        ) from error
    tokenizer.encode_special_tokens = True  # tokenizer.json cannot store this
    name = misplaced(tokenizer)
    if specials.read(tokenizer) is None or (tokenizer.post_processor is None and name is not None):
        where = "which adds special tokens itself" if name is None else f"in which {name!r} has the id {tokenizer.token_to_id(name)}"
        raise UserError(
            f"got {path}, {where}, and which does not describe its special ids; allowed: a tokenizer of `tokenizer train` or `import`; "
            f"{_remedy()}"
        )
    return tokenizer


def parse(content: str) -> tokenizers.Tokenizer:
    """Return the library's tokenizer for an untrusted tokenizer.json, without truncation and padding.

    Raises:
        ValueError: The content is not a tokenizer.json, or its time or memory is not bounded; the message has the reason.
    """
    validate.refuse(foreign.parse_json(content))
    with panics.as_errors():
        tokenizer = tokenizers.Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def misplaced(tokenizer: tokenizers.Tokenizer) -> str | None:
    """Return the first token whose id differs from `layout.py`; None for a tokenizer that was trained here."""
    fixed = layout.alphabet() | layout.controls()
    return next((name for name, index in fixed.items() if tokenizer.token_to_id(name) != index), None)


def sha256(path: str | os.PathLike) -> str:
    """Return the file's SHA-256 in hex, by which packed data and checkpoints identify their tokenizer."""
    return hashlib.sha256(_content(path)).hexdigest()


def _remedy() -> str:
    return f"change data.tokenizer, or train one with `{invocation.command('tokenizer train')}` and the same gin flags"


def _content(path: str | os.PathLike) -> bytes:
    try:
        return foreign.read(path, foreign.LARGEST_JSON)
    except OSError as error:
        raise UserError(f"got the tokenizer {path} ({error.strerror}); allowed: a tokenizer.json; {_remedy()}") from error
