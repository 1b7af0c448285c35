"""Token ids to text as they arrive, in whole characters, up to a stop string, and safe for a terminal."""

import codecs
import dataclasses
import unicodedata
from collections.abc import Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
TURNS_DIRECTION = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""Bidirectional embeddings and overrides, which can make a terminal show other text than it was given."""


@dataclasses.dataclass(kw_only=True)
class Transcript:
    """One text as it is written; a character appears with the id that completes it, and never by half.

    Bytes that are no UTF-8, such as a last character that stays incomplete, become U+FFFD, as in the tokenizer's own `decode`.
    """

    pieces: Sequence[bytes]
    """Bytes by id (`tokenizer.pieces.piece_bytes`); ids beyond it have none."""
    stop: tuple[str, ...] = ()
    stopped: bool = False
    """Whether a stop string has come; what follows is no part of the text."""
    held: str = ""
    """What may be the beginning of a stop string."""
    decoder: codecs.IncrementalDecoder = dataclasses.field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def add(self, index: int) -> str:
        """What is known to belong to the text after one more id."""
        return self._settle(self.decoder.decode(self.pieces[index] if index < len(self.pieces) else b""))

    def end(self) -> str:
        """The rest, when no more ids come."""
        text = self._settle(self.decoder.decode(b"", final=True))
        rest, self.held = self.held, ""
        return text + rest

    def _settle(self, new: str) -> str:
        text = self.held + new
        found = [place for place in (text.find(stop) for stop in self.stop) if place >= 0]
        if found:
            self.stopped, self.held = True, ""
            return text[: min(found)]
        kept = max((n for stop in self.stop for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0)
        self.held = text[len(text) - kept :]
        return text[: len(text) - kept]


def decode(ids: Sequence[int], pieces: Sequence[bytes]) -> str:
    """All ids as text."""
    written = Transcript(pieces=pieces)
    return "".join(map(written.add, ids)) + written.end()


def printable(text: str) -> str:
    """The text with every control character but newline and tab replaced: what a model writes must not drive the terminal."""
    return "".join(REPLACEMENT if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return (unicodedata.category(character) == "Cc" and character not in "\n\t") or character in TURNS_DIRECTION
