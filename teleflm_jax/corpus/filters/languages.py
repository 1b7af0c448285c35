"""Names the languages of a batch of texts: py3langid's model, all texts at a time.

The model is an automaton over UTF-8 bytes whose states tell which features have been seen, and a naive Bayes classifier over these. The
library walks one text in a loop over its bytes; here pieces of all texts of a batch take each step together. The features, their counts
and the weights are the library's, so the answers are, but for sums of float32 that are equal to the last digits.
"""

import dataclasses
import functools
import itertools
import unicodedata
from collections.abc import Sequence

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier

CHARACTERS = 1000
"""Of a text's beginning, by which its language is named."""
MACROLANGUAGES = {"yue": "zh", "wuu": "zh", "arz": "ar", "ary": "ar", "nn": "no", "uzs": "uz", "sdh": "ku", "ltg": "lv"}
"""Language that the model names -> the one with an ISO 639-1 code that it is a kind of: Cantonese and Wu are Chinese, Egyptian is Arabic.
Short texts of the one are often taken for the other, and a list of wanted languages has the second alone. Source: ISO 639-3."""
PIECE = 64
"""Bytes that are walked one after the other."""


@dataclasses.dataclass(frozen=True)
class Model:
    """The library's model as arrays."""

    names: tuple[str, ...]
    prior: np.ndarray
    """float32 [languages]."""
    weights: np.ndarray
    """float32 [features, languages]."""
    bases: np.ndarray
    """int32 [states]: where a state's 256 moves begin."""
    moves: np.ndarray
    """uint32: the next state."""
    outputs: np.ndarray
    """int32 [states]: the feature that is seen there, or -1."""
    reach: int
    """Bytes on which a state depends at most."""


def languages(texts: Sequence[str]) -> list[str]:
    """Name texts' languages by their beginnings: ISO 639-1, and three letters where that has none."""
    model = load()
    owners, features, counts = _features(model, [_bytes(text[:CHARACTERS]) for text in texts])
    logs = np.log1p(counts.astype(np.float32))
    borders = np.searchsorted(owners, np.arange(len(texts) + 1)).tolist()
    scores = np.zeros((len(texts), len(model.names)), np.float32)
    for i, (first, end) in enumerate(itertools.pairwise(borders)):
        if first < end:  # else nothing is known: as in the library, the first language has it
            scores[i] = logs[first:end] @ model.weights[features[first:end]] + model.prior
    names: list[str] = [model.names[i] for i in scores.argmax(axis=1)]
    return [MACROLANGUAGES.get(name, name) for name in names]


@functools.cache
def load() -> Model:
    """Read the model, once in a process: 130 MB."""
    read = LanguageIdentifier.from_model_file(MODEL_FILE)
    moves, bases = np.frombuffer(read.tk_nextmove, np.uint32), np.asarray(read.tk_row, np.int32) << 8
    prior, weights = np.asarray(read.nb_pc, np.float32), np.asarray(read.nb_ptc, np.float32)
    return Model(tuple(read.nb_classes), prior, weights, bases, moves, np.asarray(read.tk_output, np.int32), _reach(moves, bases))


def _bytes(text: str) -> bytes:
    """As the model was trained on it."""
    if text.isupper():
        text = text.lower()
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")


def _features(model: Model, texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count texts' features: number of the text, feature, count, sorted by both.

    All pieces of PIECE bytes of all texts take a step together. A state is what the last `reach` bytes make of any state before them, so a
    piece that is not a text's first comes to its own states by walking over those first.
    """
    lengths = np.array([len(text) for text in texts], np.int64)
    pieces = -(-lengths // PIECE)
    owners = np.repeat(np.arange(len(texts)), pieces)
    firsts = (np.arange(len(owners)) - np.repeat(np.cumsum(pieces) - pieces, pieces)) * PIECE
    at = (np.cumsum(lengths) - lengths)[owners] + firsts + model.reach
    letters = np.frombuffer(bytes(model.reach) + b"".join(texts) + bytes(PIECE), np.uint8)
    states = np.zeros(len(owners), np.uint32)
    found = np.empty((PIECE, len(owners)), np.int32)
    for step in range(-model.reach, PIECE):
        if step == 0:
            states[firsts == 0] = 0
        states = model.moves[model.bases[states] + letters[at + step]]
        if step >= 0:
            found[step] = model.outputs[states]
    seen = (found >= 0) & (np.arange(PIECE)[:, None] < lengths[owners] - firsts)
    places = np.flatnonzero(seen)
    keys = np.sort(owners[places % len(owners)] << 32 | found.ravel()[places])
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])  # np.unique takes twice as long
    return keys[starts] >> 32, keys[starts] & 0xFFFFFFFF, np.diff(np.append(starts, len(keys)))


def _reach(moves: np.ndarray, bases: np.ndarray) -> int:
    """Moves that it takes to the state that is the farthest from the first: the length of the longest feature."""
    distant, new, reach = np.zeros(len(bases), bool), np.zeros(1, np.int64), -1
    while len(new):
        distant[new] = True
        reach += 1
        new = np.unique(moves[(bases[new][:, None] + np.arange(256)).ravel()])
        new = new[~distant[new]]
    return reach
