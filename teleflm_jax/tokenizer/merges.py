"""Merges of a byte-level BPE from word counts, equal to those that `tokenizers` learns from text; memory depends on the distinct words.

All words are stored one after the other in one array of symbols, with a 0 between them. A piece of n bytes takes n places: its id is at the
first, ~id at the last. The next piece is thus found by the id's length, the previous one by its last symbol, and a merge writes three
places. A heap holds pairs by count, with the places where they were; stale counts are corrected when a pair reaches the top.

`tokenizers` can make an existing piece again from another pair ("a" + "bc" after "ab" + "c"). It then keeps the words of the first and the
second time separate, and never takes back the count of a merged pair. To yield the same merges, this module does the same: a piece that
was made again is in `remade`, and pairs with it are recounted from the places in `made`, plus the library's `excess`.
"""

import collections
import dataclasses
import heapq
import itertools
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import layout

MOST_BYTES = 2**31 - 1
"""Maximum places of all distinct words, including one between any two; places are int32."""
_LOW = (1 << 32) - 1
_STEP = 4
"""Factor by which the count threshold of the heap is lowered."""
_DEAD = -1
"""Symbol of the places inside a piece."""


def learn(
    words: pa.Array, counts: np.ndarray, num_pieces: int, *, min_count: int = 2, progress: Callable[[int], None] = lambda done: None
) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Merge the most frequent pair repeatedly; ties are broken by the lower ids.

    Args:
        words: Distinct words as strings or bytes, in any order.
        counts: int64 [words]: number of occurrences of each word.
        num_pieces: Number of pieces wanted, including the 256 bytes.
        min_count: Minimum count of a pair that is merged.
        progress: Called after each merge with the number of pieces.

    Returns:
        Pieces by id, starting with the bytes in the order of their vocabulary characters (`layout.byte_character`), fewer than wanted if no
        pair is left; and the merged pairs of ids in order.

    Raises:
        UserError: There are too many words.
    """
    state, queue = _lay_out(words, counts, num_pieces), _Queue()
    queue.add(*_first_pairs(state))
    merges: dict[int, None] = {}
    while len(state.pieces) <= num_pieces and (top := queue.pop()):
        former, key, places = top
        found, count = _current_places(state, key, places)
        if count != former:
            # for a piece that was made again, stale places still identify the words that the pair belongs to
            queue.push(count, key, places if _is_remade(state, key) else found)
            continue
        if count < min_count:
            break
        merges.pop(key, None)  # if a pair is merged twice, the library keeps the last merge
        merges[key] = None
        queue.add(*_merge(state, key, found))
        progress(len(state.pieces) - 1)
    return state.pieces[1:], [((key >> 32) - 1, (key & _LOW) - 1) for key in merges]


class _Queue:
    """Priority queue of pairs with counts and places, by count and then by ids; a pair may be in it more than once.

    Rare pairs, which are nearly all, wait in arrays until their count is reached: as objects they would take ten times the memory.
    """

    def __init__(self):
        self._heap: list[tuple[int, int, int, np.ndarray]] = []
        self._serial = itertools.count()  # makes entries unique, so that places are never compared
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._floor = 0
        """Minimum count of the pairs in the heap."""

    def push(self, count: int, key: int, places: np.ndarray) -> None:
        """Add a pair; a pair with count 0 is dropped."""
        if count:
            heapq.heappush(self._heap, (-count, key, next(self._serial), places))

    def add(self, keys: np.ndarray, counts: np.ndarray, sizes: np.ndarray, places: np.ndarray) -> None:
        """Add pairs whose places are concatenated, `sizes` of each."""
        if not keys.size:
            return
        self._floor = self._floor or max(1, int(counts.max()) // _STEP)
        common, ends = counts >= self._floor, np.cumsum(sizes)
        chosen = (column[common].tolist() for column in (counts, keys, ends - sizes, ends))
        for count, key, start, end in zip(*chosen, strict=True):
            self.push(count, key, places[start:end].copy())
        rare = ~common & (counts > 0)
        self._waiting.append((keys[rare], counts[rare], sizes[rare], places[np.repeat(rare, sizes)]))

    def pop(self) -> tuple[int, int, np.ndarray] | None:
        """Remove and return the first pair as count, key and places; None if the queue is empty."""
        while self._floor > 1 and (not self._heap or -self._heap[0][0] < self._floor):
            self._floor = max(1, self._floor // _STEP)
            if self._waiting:
                waiting, self._waiting = self._waiting, []
                self.add(*map(np.concatenate, zip(*waiting, strict=True)))
        if not self._heap:
            return None
        negative, key, _, places = heapq.heappop(self._heap)
        return -negative, key, places


@dataclasses.dataclass(frozen=True)
class _State:
    """All words with their current pieces. Ids start at 1; 0 separates words."""

    symbols: np.ndarray
    """int32 [places]: id at the first place of a piece, ~id at the last."""
    word_of: np.ndarray
    """int32 [places]: index of the word."""
    counts: np.ndarray
    """int64 [words]: number of occurrences."""
    lengths: np.ndarray
    """int32 [ids]: bytes of each piece."""
    pieces: list[bytes]
    ids: dict[bytes, int]
    made: dict[int, list[np.ndarray]]
    """Id -> places, for each time that the piece was made."""
    remade: set[int]
    """Ids of pieces that were made again from another pair."""
    excess: dict[int, int]
    """Merged pair -> amount by which the library overestimates its count from then on."""


def _lay_out(words: pa.Array, counts: np.ndarray, num_pieces: int) -> _State:
    words = words.cast(pa.large_binary())
    offsets = np.frombuffer(words.buffers()[1], np.int64, len(words) + 1, 8 * words.offset)
    places = int(offsets[-1] - offsets[0]) + len(words) + 1
    if places > MOST_BYTES:
        raise UserError(
            f"got {len(words):,} distinct words of {places:,} bytes; allowed: {MOST_BYTES:,} bytes; raise mix.min_word_count, "
            "or lower tokenizer.sample_documents or tokenizer.sample_bytes"
        )
    order = sorted(range(256), key=layout.byte_character)
    id_of = np.empty(256, np.int32)
    id_of[order] = np.arange(1, 257)
    lengths = np.diff(offsets)
    word_of = np.zeros(places, np.int32)
    word_of[1:] = np.repeat(np.arange(len(words), dtype=np.int32), lengths + 1)
    symbols = np.zeros(places, np.int32)
    text = np.frombuffer(words.buffers()[2], np.uint8)[offsets[0] : offsets[-1]] if len(words) else np.empty(0, np.uint8)
    inside = np.ones(places, bool)
    inside[0] = False
    inside[np.cumsum(lengths + 1)] = False
    symbols[inside] = id_of[text]
    pieces = [b"", *(bytes([byte]) for byte in order)]
    ids = {piece: number for number, piece in enumerate(pieces)}
    return _State(symbols, word_of, counts, np.ones(max(num_pieces, 256) + 2, np.int32), pieces, ids, {}, set(), {})


def _first_pairs(state: _State) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    left, right = state.symbols[:-1], state.symbols[1:]
    places = np.flatnonzero((left > 0) & (right > 0)).astype(np.int32)
    narrow = ((left[places] - 1) << 8 | (right[places] - 1)).astype(np.uint16)  # numpy sorts 16 bits by radix
    order = np.argsort(narrow, kind="stable")
    places, narrow = places[order], narrow[order]
    starts, sizes = _groups(narrow)
    weights = state.counts[state.word_of[places]]
    keys = narrow[starts].astype(np.int64)
    return (keys >> 8) + 1 << 32 | (keys & 255) + 1, _sums(weights, starts), sizes, places


def _groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the starts and the lengths of runs of equal keys."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if keys.size else np.empty(0, np.int64)
    return starts, np.diff(starts, append=keys.size)


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, starts) if starts.size else np.empty(0, np.int64)


def _is_remade(state: _State, key: int) -> bool:
    return key >> 32 in state.remade or key & _LOW in state.remade


def _current_places(state: _State, key: int, places: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the places, out of these and in order, where the pair still is, and its count."""
    left, right = key >> 32, key & _LOW
    if not _is_remade(state, key):
        places = places[state.symbols[places] == left]
        places = places[state.symbols[places + state.lengths[left]] == right]
        return places, int(state.counts[state.word_of[places]].sum())
    if left in state.made:
        everywhere = _positions(state, left)
        everywhere = everywhere[state.symbols[everywhere + state.lengths[left]] == right]
    else:
        before, starts = _preceding(state, _positions(state, right))
        everywhere = starts[before == left]
    owners = state.word_of[everywhere]
    found = everywhere[np.isin(owners, state.word_of[places])]
    return found, int(state.counts[owners].sum()) + state.excess.get(key, 0)


def _positions(state: _State, number: int) -> np.ndarray:
    """Return the places of a piece that was made by a merge."""
    places = np.sort(np.concatenate(state.made[number]))
    return places[state.symbols[places] == number]


def _preceding(state: _State, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids before places, and the places where they start."""
    ids = state.symbols[places - 1]
    ids = np.where(ids < 0, ~ids, ids)
    return ids, places - state.lengths[ids]


def _merge(state: _State, key: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Merge a pair at its places and return the new pairs in the form of `_Queue.add`."""
    left, right = key >> 32, key & _LOW
    symbols, lengths = state.symbols, state.lengths
    whole = int(state.counts[state.word_of[places]].sum())
    if left == right:
        places = _non_overlapping(places, int(lengths[left]))
    piece = state.pieces[left] + state.pieces[right]
    new = state.ids.setdefault(piece, len(state.pieces))
    if new == len(state.pieces):
        state.pieces.append(piece)
        lengths[new] = len(piece)
    else:
        state.remade.add(new)
    middle = places + lengths[left]
    after = places + lengths[new]
    following, (before, starts) = symbols[after], _preceding(state, places)
    weights = state.counts[state.word_of[places]]
    touching = after[:-1] == places[1:]
    before[1:][touching], starts[1:][touching] = new, places[:-1][touching]
    state.excess[key] = state.excess.get(key, 0) + whole - int(weights[following == left].sum() if left == right else 0)
    symbols[places], symbols[middle], symbols[after - 1] = new, _DEAD, ~new
    state.made.setdefault(new, []).append(places)

    lasting = weights.copy()
    lasting[:-1][touching] = 0  # the neighbor was merged too
    is_left, is_right = before > 0, following > 0
    keys = np.concatenate([before[is_left].astype(np.int64) << 32 | new, new << 32 | following[is_right].astype(np.int64)])
    values = np.concatenate([weights[is_left], lasting[is_right]])
    where = np.concatenate([starts[is_left], places[is_right]])
    order = np.argsort(keys, kind="stable")
    keys, where = keys[order], where[order]
    starts, sizes = _groups(keys)
    pairs = keys[starts]
    return pairs, _recount(state, new, pairs) if new in state.remade else _sums(values[order], starts), sizes, where


def _non_overlapping(places: np.ndarray, length: int) -> np.ndarray:
    """Return, from left to right, the non-overlapping places of a pair of equal pieces."""
    begins = np.concatenate([[True], places[1:] != places[:-1] + length])
    run = np.cumsum(begins) - 1
    return places[(np.arange(places.size) - np.flatnonzero(begins)[run]) % 2 == 0]


def _recount(state: _State, number: int, wanted: np.ndarray) -> np.ndarray:
    """Return the counts, over the whole text, of pairs with a piece that was made again."""
    standing = _positions(state, number)
    before, _ = _preceding(state, standing)
    after = state.symbols[standing + state.lengths[number]]
    weights = state.counts[state.word_of[standing]]
    is_left = (before > 0) & (before != number)
    found: collections.Counter[int] = collections.Counter()
    pairs = np.concatenate([before[is_left].astype(np.int64) << 32 | number, number << 32 | after.astype(np.int64)])
    for pair, weight in zip(pairs.tolist(), np.concatenate([weights[is_left], weights]).tolist(), strict=True):
        found[pair] += weight
    return np.array([found[pair] + state.excess.get(pair, 0) for pair in wanted.tolist()], np.int64)
