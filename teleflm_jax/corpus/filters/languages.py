"""Language identification of a batch of texts with py3langid's model, vectorized over the texts.

The model is an automaton over UTF-8 bytes whose states emit features, and a naive Bayes classifier over the feature counts. The library
processes one text byte by byte; here chunks of all texts of a batch advance together. Features, counts and weights are the library's, so
the results are equal, except for float32 sums of scores that tie up to the last digits.
"""

import dataclasses
import functools
import itertools
import unicodedata
from collections.abc import Sequence

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier

CHARACTERS = 1000
"""Characters of the beginning of a text that are used."""
MACROLANGUAGES = {"yue": "zh", "wuu": "zh", "arz": "ar", "ary": "ar", "nn": "no", "uzs": "uz", "sdh": "ku", "ltg": "lv"}
"""Language of the model -> its macrolanguage with an ISO 639-1 code: Cantonese and Wu are Chinese, Egyptian is Arabic. Short texts of the
two are often confused, and lists of wanted languages have only the macrolanguage. Source: ISO 639-3."""
CHUNK = 64
"""Bytes per chunk, which are processed sequentially."""


@dataclasses.dataclass(frozen=True)
class LangidModel:
    """The library's model as arrays."""

    names: tuple[str, ...]
    prior: np.ndarray
    """float32 [languages]: log prior."""
    weights: np.ndarray
    """float32 [features, languages]: log likelihood."""
    bases: np.ndarray
    """int32 [states]: offset of a state's 256 transitions in `moves`."""
    moves: np.ndarray
    """uint32: next state of each transition."""
    outputs: np.ndarray
    """int32 [states]: feature that the state emits, or -1."""
    reach: int
    """Maximum number of preceding bytes that a state depends on."""


def languages(texts: Sequence[str]) -> list[str]:
    """Return the language of each text by its beginning: an ISO 639-1 code, or three letters if there is none."""
    model = load()
    owners, features, counts = _features(model, [_bytes(text[:CHARACTERS]) for text in texts])
    logs = np.log1p(counts.astype(np.float32))
    borders = np.searchsorted(owners, np.arange(len(texts) + 1)).tolist()
    scores = np.zeros((len(texts), len(model.names)), np.float32)
    for i, (first, end) in enumerate(itertools.pairwise(borders)):
        if first < end:  # otherwise there are no features and, as in the library, the first language is chosen
            scores[i] = logs[first:end] @ model.weights[features[first:end]] + model.prior
    names: list[str] = [model.names[i] for i in scores.argmax(axis=1)]
    return [MACROLANGUAGES.get(name, name) for name in names]


@functools.cache
def load() -> LangidModel:
    """Load the model once per process; it takes 130 MB."""
    read = LanguageIdentifier.from_model_file(MODEL_FILE)
    moves, bases = np.frombuffer(read.tk_nextmove, np.uint32), np.asarray(read.tk_row, np.int32) << 8
    prior, weights = np.asarray(read.nb_pc, np.float32), np.asarray(read.nb_ptc, np.float32)
    return LangidModel(tuple(read.nb_classes), prior, weights, bases, moves, np.asarray(read.tk_output, np.int32), _reach(moves, bases))


def _bytes(text: str) -> bytes:
    """Return the bytes of a text in the form that the model was trained on."""
    if text.isupper():
        text = text.lower()
    return unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")


def _features(model: LangidModel, texts: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count the features of texts: index of the text, feature and count, sorted by text and feature.

    Chunks of CHUNK bytes of all texts advance together. A state depends only on the last `reach` bytes, so a chunk that is not the first of
    its text starts `reach` bytes earlier to reach its state.
    """
    lengths = np.array([len(text) for text in texts], np.int64)
    chunks = -(-lengths // CHUNK)
    owners = np.repeat(np.arange(len(texts)), chunks)
    firsts = (np.arange(len(owners)) - np.repeat(np.cumsum(chunks) - chunks, chunks)) * CHUNK
    at = (np.cumsum(lengths) - lengths)[owners] + firsts + model.reach
    letters = np.frombuffer(bytes(model.reach) + b"".join(texts) + bytes(CHUNK), np.uint8)
    states = np.zeros(len(owners), np.uint32)
    found = np.empty((CHUNK, len(owners)), np.int32)
    for step in range(-model.reach, CHUNK):
        if step == 0:
            states[firsts == 0] = 0
        states = model.moves[model.bases[states] + letters[at + step]]
        if step >= 0:
            found[step] = model.outputs[states]
    seen = (found >= 0) & (np.arange(CHUNK)[:, None] < lengths[owners] - firsts)
    places = np.flatnonzero(seen)
    keys = np.sort(owners[places % len(owners)] << 32 | found.ravel()[places])
    starts = np.flatnonzero(np.append(True, keys[1:] != keys[:-1])[: len(keys)])  # np.unique takes twice as long
    return keys[starts] >> 32, keys[starts] & 0xFFFFFFFF, np.diff(np.append(starts, len(keys)))


def _reach(moves: np.ndarray, bases: np.ndarray) -> int:
    """Return the distance of the farthest state from the first, which is the length of the longest feature."""
    distant, new, reach = np.zeros(len(bases), bool), np.zeros(1, np.int64), -1
    while len(new):
        distant[new] = True
        reach += 1
        new = np.unique(moves[(bases[new][:, None] + np.arange(256)).ravel()])
        new = new[~distant[new]]
    return reach
