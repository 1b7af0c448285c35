"""Loads a trained tokenizer, and refuses what is none of ours."""

import hashlib
import os
import pathlib

import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout

_REMEDY = "change data.tokenizer, or make one by `python -m teleflm_jax tokenizer train` with the same gin flags"


def load(path: str | os.PathLike) -> tokenizers.Tokenizer:
    """The tokenizer of a file; text that looks like a special token is encoded as the text it is.

    What is loaded is the library's own: `encode(text).ids`, `encode_batch_fast(texts)`, `decode(ids, skip_special_tokens=False)`.
    A lone surrogate is no Unicode text; encoding it raises, for the caller to count.

    Raises:
        UserError: There is no such file, or it is not laid out as `layout.py` says.
    """
    try:
        tokenizer = tokenizers.Tokenizer.from_str(_content(path).decode())
    except Exception as error:  # the library raises no narrower class
        raise UserError(f"got {path}, which is no tokenizer.json ({error}); allowed: one of `tokenizer train`; {_REMEDY}") from error
    for name, index in (layout.alphabet() | layout.controls()).items():
        if tokenizer.token_to_id(name) != index:
            raise UserError(
                f"got {path}, in which {name!r} has the id {tokenizer.token_to_id(name)}, not {index}; "
                f"allowed: a tokenizer of `tokenizer train`; {_REMEDY}"
            )
    tokenizer.encode_special_tokens = True  # tokenizer.json has no place to keep this
    return tokenizer


def sha256(path: str | os.PathLike) -> str:
    """The file's SHA-256 in hex, by which packed data and checkpoints know their tokenizer."""
    return hashlib.sha256(_content(path)).hexdigest()


def _content(path: str | os.PathLike) -> bytes:
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"got the tokenizer {path} ({error.strerror}); allowed: a tokenizer.json; {_REMEDY}") from error
