"""Loads a tokenizer that was trained here or imported, and refuses others."""

import hashlib
import os

import tokenizers

from teleflm_jax import foreign, invocation
from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import checked, layout, panics, specials


def load(path: str | os.PathLike) -> tokenizers.Tokenizer:
    """The tokenizer of a file; text that looks like a special token is encoded as the text it is.

    What is loaded is the library's own: `encode(text).ids`, `encode_batch_fast(texts)`, `decode(ids, skip_special_tokens=False)`.
    A lone surrogate is no Unicode text; encoding it raises, for the caller to count.

    Raises:
        UserError: There is no such file, or it is neither laid out as `layout.py` says nor tells by its post-processor
            what its ids are for.
    """
    try:
        tokenizer = parse(_content(path).decode())
    except ValueError as error:
        raise UserError(f"got {path}, which is no tokenizer.json ({error}); allowed: one of `tokenizer train`; {_remedy()}") from error
    tokenizer.encode_special_tokens = True  # tokenizer.json has no place to keep this
    name = misplaced(tokenizer)
    if specials.read(tokenizer) is None or (tokenizer.post_processor is None and name is not None):
        where = "which wraps a text by itself" if name is None else f"in which {name!r} has the id {tokenizer.token_to_id(name)}"
        raise UserError(
            f"got {path}, {where}, and which does not say what its ids are for; allowed: a tokenizer of `tokenizer train`, or of `import`; "
            f"{_remedy()}"
        )
    return tokenizer


def parse(content: str) -> tokenizers.Tokenizer:
    """The library's tokenizer of a tokenizer.json, which may be anyone's, without truncation and padding.

    Raises:
        ValueError: it is none, or one whose time or memory nothing bounds; says why.
    """
    checked.refuse(foreign.parse_json(content))
    with panics.as_errors():
        tokenizer = tokenizers.Tokenizer.from_str(content)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def misplaced(tokenizer: tokenizers.Tokenizer) -> str | None:
    """The first piece that is not where `layout.py` has it; None for a tokenizer of ours."""
    fixed = layout.alphabet() | layout.controls()
    return next((name for name, index in fixed.items() if tokenizer.token_to_id(name) != index), None)


def sha256(path: str | os.PathLike) -> str:
    """The file's SHA-256 in hex, by which packed data and checkpoints know their tokenizer."""
    return hashlib.sha256(_content(path)).hexdigest()


def _remedy() -> str:
    return f"change data.tokenizer, or make one by `{invocation.command('tokenizer train')}` with the same gin flags"


def _content(path: str | os.PathLike) -> bytes:
    try:
        return foreign.read(path, foreign.LARGEST_JSON)
    except OSError as error:
        raise UserError(f"got the tokenizer {path} ({error.strerror}); allowed: a tokenizer.json; {_remedy()}") from error
