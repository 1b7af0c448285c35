"""The bytes that each id stands for."""

import json
import re
from collections.abc import Mapping
from typing import Any

import tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout, specials

BYTE = re.compile(r"<0x([0-9A-F]{2})>")
"""A single byte in a vocabulary with bytes to fall back on."""
UTF8 = frozenset(range(256)) - {0xC0, 0xC1, *range(0xF5, 256)}
"""Bytes of which text consists."""
SHRINK = {"NFC": 4, "Prepend": 1}
"""Normalizers -> how many times as many bytes as they leave a text may have had: 3.5 for a sign for iota with two others behind it."""
KEEPING = ("ByteLevel", "Digits", "Metaspace", "Split")
"""Steps before the pieces that leave nothing of a text out, `Split` where it removes nothing."""
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


def longest(tokenizer: tokenizers.Tokenizer) -> int | None:
    """Bound the bytes of a text that one token stands for; None where something leaves parts of texts out, so that there is no bound."""
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
            f"got a tokenizer with the piece {name!r}, which is no row of bytes; allowed: byte-level BPE, or BPE with byte fallback; "
            "change the tokenizer"
        ) from error


_BYTE_OF = {layout.byte_character(byte): byte for byte in range(256)}
