"""Token ids to text as they arrive, in whole characters, and safe for a terminal."""

import codecs
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TURNS_DIRECTION = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""Bidirectional embeddings and overrides, which can make a terminal show other text than it was given."""


def decode(chunks: Iterable[Sequence[int]], pieces: Sequence[bytes]) -> Iterator[str]:
    """Turn chunks of ids into text; a character appears with the id that completes it, and never by half.

    Bytes that are no UTF-8, such as a last character that stays incomplete, become U+FFFD, as in the tokenizer's own `decode`.

    Args:
        chunks: new ids.
        pieces: bytes by id (`tokenizer.pieces.piece_bytes`); ids beyond it have none.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    for ids in chunks:
        yield decoder.decode(b"".join(pieces[index] for index in ids if index < len(pieces)))
    yield decoder.decode(b"", final=True)


def printable(text: str) -> str:
    """The text with every control character but newline and tab replaced: what a model writes must not drive the terminal."""
    return "".join(REPLACEMENT if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return (unicodedata.category(character) == "Cc" and character not in "\n\t") or character in TURNS_DIRECTION
