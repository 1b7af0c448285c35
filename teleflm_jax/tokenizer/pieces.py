"""The bytes that each id stands for."""

import re

import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, specials

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A single byte in a vocabulary with bytes to fall back on."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""What such a vocabulary writes for a space."""


def piece_bytes(tokenizer: tokenizers.Tokenizer) -> list[bytes]:
    """Id -> its bytes; nothing for control ids and for ids that the vocabulary does not use.

    The bytes of a text's ids, joined, are the text's UTF-8; a tokenizer that puts a space in front of every text (Llama 2's does) gives
    that space as well. A piece may begin or end inside a character.

    Raises:
        UserError: the vocabulary is neither byte-level nor has bytes to fall back on.
    """
    added, silent = tokenizer.get_added_tokens_decoder(), specials.controls(tokenizer)
    names = {index: name for name, index in tokenizer.get_vocab(with_added_tokens=True).items() if index not in silent}
    spelled = _with_fallback if getattr(tokenizer.model, "byte_fallback", False) else _byte_level
    found = [b""] * (max(names, default=-1) + 1)
    for index, name in names.items():
        found[index] = name.encode() if index in added else spelled(name)
    return found


def _with_fallback(name: str) -> bytes:
    byte = BYTE.fullmatch(name)
    return bytes.fromhex(byte[1]) if byte else name.replace(SPACE, " ").encode()


def _byte_level(name: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in name)
    except KeyError as error:
        raise UserError(
            f"got a tokenizer with the piece {name!r}, which is no row of bytes; allowed: byte-level BPE, or BPE with byte fallback; "
            "change the tokenizer"
        ) from error


_BYTE_OF = {layout.byte_character(byte): byte for byte in range(256)}
