"""Learns the merges of a byte-level BPE from words and their counts, as `tokenizers` learns them from text; memory follows distinct words.

All words lie one behind the other in one array of symbols, a 0 between them. A piece of n bytes holds n places: its id stands at the first,
~id at the last. So the next piece is found by the id's length, the one before by what ends there, and a merge writes three places.
A heap holds pairs by count, with the places where they stood; counts there may be out of date and are made good when a pair comes up.

`tokenizers` can make a piece that it has again, of another pair ("a" + "bc" after "ab" + "c"). It then keeps the words of the first and the
second making apart, and never takes back the count of a pair that was merged. So that merges are the same, this does as well: a
piece that was made again is `remade`, and pairs with one are counted anew from where it was `made`, plus what the library has in excess.
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
"""Of all distinct words together, with a place between two of them; so places fit int32."""
_LOW = (1 << 32) - 1
_STEP = 4
"""By which the count from which pairs are in the heap falls."""
_DEAD = -1
"""In places inside a piece."""


def learn(
    words: pa.Array, counts: np.ndarray, num_pieces: int, *, min_count: int = 2, progress: Callable[[int], None] = lambda done: None
) -> tuple[list[bytes], list[tuple[int, int]]]:
    """Merge the commonest pair again and again; of equally common ones that with the lower ids.

    Args:
        words: distinct, as strings or bytes; their order does not matter.
        counts: int64 [words], how often each stands in the text.
        num_pieces: wanted, the 256 bytes among them.
        min_count: a rarer pair is not merged.
        progress: called after each merge with the number of pieces.

    Returns:
        Pieces by id, first the bytes in the order of their characters in the vocabulary (`layout.byte_character`), fewer than asked for if
        no pair is left; merged pairs of ids in order.

    Raises:
        UserError: the words are too many.
    """
    state, queue = _spread(words, counts, num_pieces), _Queue()
    queue.add(*_first_pairs(state))
    merges: dict[int, None] = {}
    while len(state.pieces) <= num_pieces and (top := queue.pop()):
        former, key, places = top
        found, count = _now(state, key, places)
        if count != former:
            # Of a piece that was made again, places that have gone still say which words the pair belongs to.
            queue.push(count, key, places if _is_remade(state, key) else found)
            continue
        if count < min_count:
            break
        merges.pop(key, None)  # of a pair that is merged twice, the library keeps the last
        merges[key] = None
        queue.add(*_merge(state, key, found))
        progress(len(state.pieces) - 1)
    return state.pieces[1:], [((key >> 32) - 1, (key & _LOW) - 1) for key in merges]


class _Queue:
    """Pairs with counts and places, by count and then by ids; a pair may stand in it more than once.

    The rare ones, nearly all, wait in arrays until their turn is near: as objects they would take ten times the memory.
    """

    def __init__(self):
        self._heap: list[tuple[int, int, int, np.ndarray]] = []
        self._serial = itertools.count()  # so that no two entries are equal and places never compared
        self._waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
        self._floor = 0
        """The count from which a pair is in the heap."""

    def push(self, count: int, key: int, places: np.ndarray) -> None:
        """Add a pair; one that is not there any more is forgotten."""
        if count:
            heapq.heappush(self._heap, (-count, key, next(self._serial), places))

    def add(self, keys: np.ndarray, counts: np.ndarray, sizes: np.ndarray, places: np.ndarray) -> None:
        """Add pairs whose places, `sizes` of each, lie one behind the other."""
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
        """Take the first pair out: count, key, places; None if there is none."""
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
    """Ids are 1 and up here, 0 is what stands between words."""

    symbols: np.ndarray
    """int32 [places]."""
    word_of: np.ndarray
    """int32 [places]."""
    counts: np.ndarray
    """int64 [words]."""
    lengths: np.ndarray
    """int32 [ids], bytes."""
    pieces: list[bytes]
    ids: dict[bytes, int]
    made: dict[int, list[np.ndarray]]
    """Id -> places, for each time that it was made."""
    remade: set[int]
    excess: dict[int, int]
    """Merged pair -> how much higher than it is the library takes its count to be from then on."""


def _spread(words: pa.Array, counts: np.ndarray, num_pieces: int) -> _State:
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
    narrow = ((left[places] - 1) << 8 | (right[places] - 1)).astype(np.uint16)  # 16 bits are sorted by radix
    order = np.argsort(narrow, kind="stable")
    places, narrow = places[order], narrow[order]
    starts, sizes = _groups(narrow)
    weights = state.counts[state.word_of[places]]
    keys = narrow[starts].astype(np.int64)
    return (keys >> 8) + 1 << 32 | (keys & 255) + 1, _sums(weights, starts), sizes, places


def _groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where runs of equal keys begin, and how long they are."""
    starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]])) if keys.size else np.empty(0, np.int64)
    return starts, np.diff(starts, append=keys.size)


def _sums(values: np.ndarray, starts: np.ndarray) -> np.ndarray:
    return np.add.reduceat(values, starts) if starts.size else np.empty(0, np.int64)


def _is_remade(state: _State, key: int) -> bool:
    return key >> 32 in state.remade or key & _LOW in state.remade


def _now(state: _State, key: int, places: np.ndarray) -> tuple[np.ndarray, int]:
    """Where, of these places and in order, the pair still stands; its count."""
    left, right = key >> 32, key & _LOW
    if not _is_remade(state, key):
        places = places[state.symbols[places] == left]
        places = places[state.symbols[places + state.lengths[left]] == right]
        return places, int(state.counts[state.word_of[places]].sum())
    if left in state.made:
        everywhere = _standing(state, left)
        everywhere = everywhere[state.symbols[everywhere + state.lengths[left]] == right]
    else:
        before, starts = _before(state, _standing(state, right))
        everywhere = starts[before == left]
    owners = state.word_of[everywhere]
    found = everywhere[np.isin(owners, state.word_of[places])]
    return found, int(state.counts[owners].sum()) + state.excess.get(key, 0)


def _standing(state: _State, number: int) -> np.ndarray:
    """Where a piece that was made stands."""
    places = np.sort(np.concatenate(state.made[number]))
    return places[state.symbols[places] == number]


def _before(state: _State, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ids in front of places, and where they begin."""
    ids = state.symbols[places - 1]
    ids = np.where(ids < 0, ~ids, ids)
    return ids, places - state.lengths[ids]


def _merge(state: _State, key: int, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Merge a pair where it stands; the new pairs, as the queue takes them."""
    left, right = key >> 32, key & _LOW
    symbols, lengths = state.symbols, state.lengths
    whole = int(state.counts[state.word_of[places]].sum())
    if left == right:
        places = _apart(places, int(lengths[left]))
    piece = state.pieces[left] + state.pieces[right]
    new = state.ids.setdefault(piece, len(state.pieces))
    if new == len(state.pieces):
        state.pieces.append(piece)
        lengths[new] = len(piece)
    else:
        state.remade.add(new)
    middle = places + lengths[left]
    after = places + lengths[new]
    following, (before, starts) = symbols[after], _before(state, places)
    weights = state.counts[state.word_of[places]]
    touching = after[:-1] == places[1:]
    before[1:][touching], starts[1:][touching] = new, places[:-1][touching]
    state.excess[key] = state.excess.get(key, 0) + whole - int(weights[following == left].sum() if left == right else 0)
    symbols[places], symbols[middle], symbols[after - 1] = new, _DEAD, ~new
    state.made.setdefault(new, []).append(places)

    lasting = weights.copy()
    lasting[:-1][touching] = 0  # that neighbour was merged in its turn
    is_left, is_right = before > 0, following > 0
    keys = np.concatenate([before[is_left].astype(np.int64) << 32 | new, new << 32 | following[is_right].astype(np.int64)])
    values = np.concatenate([weights[is_left], lasting[is_right]])
    where = np.concatenate([starts[is_left], places[is_right]])
    order = np.argsort(keys, kind="stable")
    keys, where = keys[order], where[order]
    starts, sizes = _groups(keys)
    pairs = keys[starts]
    return pairs, _recounted(state, new, pairs) if new in state.remade else _sums(values[order], starts), sizes, where


def _apart(places: np.ndarray, length: int) -> np.ndarray:
    """Of places where a pair of equal pieces overlaps itself, from left to right, those that do not overlap."""
    begins = np.concatenate([[True], places[1:] != places[:-1] + length])
    run = np.cumsum(begins) - 1
    return places[(np.arange(places.size) - np.flatnonzero(begins)[run]) % 2 == 0]


def _recounted(state: _State, number: int, wanted: np.ndarray) -> np.ndarray:
    """The counts, in the whole text, of pairs with a piece that was made again."""
    standing = _standing(state, number)
    before, _ = _before(state, standing)
    after = state.symbols[standing + state.lengths[number]]
    weights = state.counts[state.word_of[standing]]
    is_left = (before > 0) & (before != number)
    found: collections.Counter[int] = collections.Counter()
    pairs = np.concatenate([before[is_left].astype(np.int64) << 32 | number, number << 32 | after.astype(np.int64)])
    for pair, weight in zip(pairs.tolist(), np.concatenate([weights[is_left], weights]).tolist(), strict=True):
        found[pair] += weight
    return np.array([found[pair] + state.excess.get(pair, 0) for pair in wanted.tolist()], np.int64)
