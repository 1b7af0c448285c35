"""Incremental decoding of token ids: whole characters, up to a stop string; and text that is safe for a terminal."""

import codecs
import dataclasses
import unicodedata
from collections.abc import Sequence

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
DIRECTION_CONTROLS = frozenset(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""Bidirectional embeddings and overrides, which can make a terminal show another text than it was given."""


@dataclasses.dataclass(kw_only=True)
class Detokenizer:
    """Decodes one text as its ids arrive; a character is returned with the id that completes it, never in part.

    Bytes that are not UTF-8, such as an incomplete last character, become U+FFFD, as in the tokenizer's own `decode`.
    """

    pieces: Sequence[bytes]
    """Bytes by id (`tokenizer.pieces.piece_bytes`); ids beyond its end have none."""
    stop: tuple[str, ...] = ()
    stopped: bool = False
    """True once a stop string was found; the text ends before it."""
    pending: str = ""
    """Text that may be the beginning of a stop string."""
    decoder: codecs.IncrementalDecoder = dataclasses.field(default_factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def add(self, index: int) -> str:
        """Add an id and return the text that is now certain."""
        return self._emit(self.decoder.decode(self.pieces[index] if index < len(self.pieces) else b""))

    def finish(self) -> str:
        """Return the rest of the text when no more ids come."""
        text = self._emit(self.decoder.decode(b"", final=True))
        rest, self.pending = self.pending, ""
        return text + rest

    def _emit(self, new: str) -> str:
        text = self.pending + new
        starts = [start for start in (text.find(stop) for stop in self.stop) if start >= 0]
        if starts:
            self.stopped, self.pending = True, ""
            return text[: min(starts)]
        kept = max((n for stop in self.stop for n in range(1, min(len(stop), len(text) + 1)) if text.endswith(stop[:n])), default=0)
        self.pending = text[len(text) - kept :]
        return text[: len(text) - kept]


def decode(ids: Sequence[int], pieces: Sequence[bytes]) -> str:
    """Return the text of all ids."""
    detokenizer = Detokenizer(pieces=pieces)
    return "".join(map(detokenizer.add, ids)) + detokenizer.finish()


def printable(text: str) -> str:
    """Replace control characters other than newline and tab: a model's output must not control the terminal."""
    return "".join(REPLACEMENT if _is_control(character) else character for character in text)


def _is_control(character: str) -> bool:
    return (unicodedata.category(character) == "Cc" and character not in "\n\t") or character in DIRECTION_CONTROLS
