"""Bytes of each token id."""

import json
import re
from collections.abc import Mapping
from typing import Any

import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, specials

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""Token of a single byte in a vocabulary with byte fallback."""
UTF8 = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 256)}
"""Bytes that occur in UTF-8 text."""
SHRINK = {"NFC": 4, "Prepend": 1}
"""Normalizer -> upper bound on input bytes per output byte: NFC has 3.5 for a combining iota after two other marks."""
KEEPING = ("ByteLevel", "Digits", "Metaspace", "Split")
"""Pre-tokenizers that keep all text; `Split` only if it removes nothing."""
SPACE = "\N{LOWER ONE EIGHTH BLOCK}"
"""Character for a space in a vocabulary with byte fallback."""


def piece_bytes(tokenizer: tokenizers.Tokenizer) -> list[bytes]:
    """Return the bytes of each id; empty for control ids and unused ids.

    The concatenated bytes of a text's ids are the text's UTF-8, including the space that some tokenizers (Llama 2's) put before every text.
    A piece may begin or end inside a character.

    Raises:
        UserError: The vocabulary is neither byte-level nor has byte fallback.
    """
    added, silent = tokenizer.get_added_tokens_decoder(), specials.controls(tokenizer)
    names = {index: name for name, index in tokenizer.get_vocab(with_added_tokens=True).items() if index not in silent}
    spelled = _with_fallback if getattr(tokenizer.model, "byte_fallback", False) else _byte_level
    found = [b""] * (max(names, default=-1) + 1)
    for index, name in names.items():
        found[index] = name.encode() if index in added else spelled(name)
    return found


def longest(tokenizer: tokenizers.Tokenizer) -> int | None:
    """Return the maximum bytes of text per token; None if there is no bound, because the tokenizer drops parts of texts."""
    state, found = json.loads(tokenizer.to_str()), piece_bytes(tokenizer)
    shrink = _shrink(state["normalizer"])
    whole = shrink is not None and _keeps(state["pre_tokenizer"]) and {bytes([byte]) for byte in UTF8} <= set(found)
    if shrink is None or not whole or any(token["lstrip"] or token["rstrip"] for token in state["added_tokens"]):
        return None
    return shrink * max(*map(len, found), *(len(token["content"].encode()) for token in state["added_tokens"]), 1)


def _shrink(normalizer: Mapping[str, Any] | None) -> int | None:
    if normalizer is None:
        return 1
    if normalizer["type"] == "Sequence":
        factor = 1
        for each in map(_shrink, normalizer["normalizers"]):
            factor = None if each is None or factor is None else factor * each
        return factor
    if normalizer["type"] == "Replace" and normalizer["pattern"] == {"String": " "} and normalizer["content"] == SPACE:
        return 1
    return SHRINK.get(normalizer["type"])


def _keeps(step: Mapping[str, Any] | None) -> bool:
    if step is None:
        return True
    if step["type"] == "Sequence":
        return all(map(_keeps, step["pretokenizers"]))
    return step["type"] in KEEPING and step.get("behavior") != "Removed"


def _with_fallback(name: str) -> bytes:
    byte = BYTE.fullmatch(name)
    return bytes.fromhex(byte[1]) if byte else name.replace(SPACE, " ").encode()


def _byte_level(name: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in name)
    except KeyError as error:
        raise UserError(
            f"got a tokenizer with the piece {name!r}, which is not a sequence of bytes; allowed: byte-level BPE, or BPE with byte "
            "fallback; change the tokenizer"
        ) from error


_BYTE_OF = {layout.byte_character(byte): byte for byte in range(256)}
