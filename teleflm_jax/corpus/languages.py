"""Names the languages of a batch of texts: py3langid's model, all texts at a time.

The model is an automaton over UTF-8 bytes whose states tell which features have been seen, and a naive Bayes classifier over these. The
library walks one text in a loop over its bytes; here all texts of a batch take each step together. The features, their counts and the
weights are the library's, so the answers are, but for sums of float32 that are equal to the last digits.
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


def languages(texts: Sequence[str]) -> list[str]:
    """Name texts' languages by their beginnings: ISO 639-1."""
    model = load()
    owners, features, counts = _features(model, [_bytes(text[:CHARACTERS]) for text in texts])
    logs = np.log1p(counts.astype(np.float32))
    borders = np.searchsorted(owners, np.arange(len(texts) + 1)).tolist()
    scores = np.zeros((len(texts), len(model.names)), np.float32)
    for i, (first, end) in enumerate(itertools.pairwise(borders)):
        if first < end:  # else nothing is known: as in the library, the first language has it
            scores[i] = logs[first:end] @ model.weights[features[first:end]] + model.prior
    return [model.names[i] for i in scores.argmax(axis=1)]


@functools.cache
def load() -> Model:
    """Read the model, once in a process: 130 MB."""
    read = LanguageIdentifier.from_model_file(MODEL_FILE)
    return Model(
        tuple(read.nb_classes),
        np.asarray(read.nb_pc, np.float32),
        np.asarray(read.nb_ptc, np.float32),
        np.asarray(read.tk_row, np.int32) << 8,
        np.frombuffer(read.tk_nextmove, np.uint32),
        np.asarray(read.tk_output, np.int32),
    )


def _bytes(text: str) -> bytes:
    """As the model was trained on it."""
    if text.isupper():
        text = text.lower()
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")


def _features(model: Model, texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count texts' features: number of the text, feature, count, sorted by both."""
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))  # so that those which have not ended are the first ones
    lengths = np.array([len(texts[i]) for i in order])
    longest = int(lengths.max(initial=0))
    letters = np.frombuffer(b"".join(texts[i].ljust(longest, b"\0") for i in order), np.uint8).reshape(len(texts), longest)
    letters = np.ascontiguousarray(letters.T, np.int32)
    states = np.zeros((longest + 1, len(texts)), np.uint32)  # all begin in state 0, in which no feature is seen
    for step, running in enumerate(np.searchsorted(-lengths, -np.arange(longest)).tolist()):
        states[step + 1, :running] = model.moves[model.bases[states[step, :running]] + letters[step, :running]]
    found = model.outputs[states]
    steps, places = np.nonzero(found >= 0)
    keys, counts = np.unique(np.array(order, np.int64)[places] << 32 | found[steps, places], return_counts=True)
    return keys >> 32, keys & 0xFFFFFFFF, counts
