"""Hashed tokens of a batch of texts as arrays; the unit of shingles, n-grams and repeated phrases.

A token is a run of letters and digits or, in scripts without spaces (Han, kana, Thai and similar), a single character; case, spaces and
punctuation are ignored. Documents with both kinds of script are thus tokenized without knowing their language. Equal tokens have equal
64-bit hashes on every machine; different tokens collide with a probability of 5e-20 per pair.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import opencc

OTHER, WORD, SINGLE = 0, 1, 2
_HAN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
_UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x2E80, 0x2FDF),  # radicals
    (0x3005, 0x3007),
    (0x3040, 0x30FF),  # kana
    (0x31F0, 0x31FF),
    (0xFF66, 0xFF9F),
    *_HAN,
)
_CHARACTER_FACTOR = 0x9E3779B97F4A7C15
_TOKEN_FACTOR = 0xD6E8FEB86659FD93
_SHIFTS = tuple(np.uint64(n) for n in (30, 27, 31))
_MIXERS = tuple(np.uint64(n) for n in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


@dataclasses.dataclass(frozen=True)
class Tokens:
    """The concatenated tokens of a batch of texts."""

    hashes: np.ndarray
    """uint64 [tokens]: hash of each token."""
    starts: np.ndarray
    """int64 [tokens]: index of a token's first code point among the code points of all texts."""
    lengths: np.ndarray
    """int64 [tokens]: code points of each token."""
    single: np.ndarray
    """bool [tokens]: True for a character of an unspaced script."""
    offsets: np.ndarray
    """int64 [texts + 1]: the tokens of text i are [offsets[i], offsets[i + 1])."""

    def of(self, index: int) -> slice:
        """Return the slice of one text's tokens."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


def tokens(texts: Sequence[str], simplified: Sequence[bool] = ()) -> Tokens:
    """Split texts into tokens and hash them.

    Args:
        texts: Texts of a batch.
        simplified: For each text, True to simplify its Han characters; () simplifies none.
    """
    points, borders = code_points([text.lower() for text in texts])
    points = in_one_script(points, borders, simplified)
    kinds = classes()[points]
    begins = kinds != OTHER
    same = (kinds[1:] == WORD) & (kinds[:-1] == WORD)
    inner = borders[1:-1]
    same[inner[(inner > 0) & (inner < len(points))] - 1] = False
    begins[1:] &= ~same
    starts = np.flatnonzero(begins)
    ends = np.flatnonzero(np.append((kinds[:-1] != OTHER) & ~same, kinds[-1:] != OTHER)) + 1
    return Tokens(
        hashes=runs(mixed()[points], starts, ends, _CHARACTER_FACTOR),
        starts=starts,
        lengths=ends - starts,
        single=kinds[starts] == SINGLE,
        offsets=np.searchsorted(starts, borders),
    )


def grams(hashes: np.ndarray, n: int) -> np.ndarray:
    """Hash every n consecutive tokens: uint64 [len(hashes) - n + 1], empty if there are fewer than n."""
    return mix(sums(hashes, n))


def sums(hashes: np.ndarray, n: int) -> np.ndarray:
    """Return the polynomial sums of every n consecutive tokens, which `mix` turns into `grams`: uint64 [len(hashes) - n + 1]."""
    count = len(hashes) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    found = hashes[:count].copy()
    for i in range(1, n):
        found = longer(found, hashes[i : i + count], i + 1)
    return found


def windows(hashes: np.ndarray, sizes: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (n, `sums`) for several n, by differences of running sums, so that a large n takes no longer than a small one."""
    total = _running(hashes, _TOKEN_FACTOR)
    inverse = _every_power(pow(_TOKEN_FACTOR, -1, 2**64), len(hashes))
    for n in sizes:
        count = max(0, len(hashes) - n + 1)
        yield n, (total[n:] - total[:count]) * inverse[:count]


def longer(sums: np.ndarray, hashes: np.ndarray, n: int) -> np.ndarray:
    """Extend the sums of n - 1 tokens by the hash of the n-th token; `mix` turns sums into hashes."""
    return sums + hashes * np.uint64(pow(_TOKEN_FACTOR, n - 1, 2**64))


def shingles(found: Tokens, index: int, n: int) -> np.ndarray:
    """Return the sorted set of one text's n-grams; a text of fewer tokens has one shingle of all of them, an empty one none."""
    hashes = found.hashes[found.of(index)]
    return np.unique(grams(hashes, min(n, len(hashes)))) if len(hashes) else hashes


def code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the code points of all texts, uint32, and the start of each text, int64 [texts + 1]."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    return points, np.cumsum([0, *map(len, texts)])


def runs(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, factor: int) -> np.ndarray:
    """Hash runs [start, end) of values by polynomial sums, as differences of running sums; values between the runs do not matter.

    The value at i is multiplied by factor^i, and the sum is divided by factor^start; an odd factor is invertible modulo 2^64.
    """
    total = _running(values, factor)
    high, low = _powers(pow(factor, -1, 2**64), len(values))
    return mix((total[ends] - total[starts]) * high[starts // len(low)] * low[starts % len(low)])


def _running(values: np.ndarray, factor: int) -> np.ndarray:
    """Return the sums of the values before each position, and of all values."""
    total = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _every_power(factor, len(values)), out=total[1:])
    return total


def _every_power(factor: int, count: int) -> np.ndarray:
    """Return the powers of a factor: uint64 [count]."""
    high, low = _powers(factor, count)
    return (high[:, None] * low).ravel()[:count]


def _powers(factor: int, count: int, step: int = 1 << 12) -> tuple[np.ndarray, np.ndarray]:
    """Return the powers of a factor for every `step`-th exponent up to `count` and for exponents below `step`; products give the others."""
    high, low = (np.full(n, pow(factor, k, 2**64), np.uint64) for n, k in ((count // step + 1, step), (step, 1)))
    high[0] = low[0] = 1
    return np.multiply.accumulate(high), np.multiply.accumulate(low)


def mix(values: np.ndarray) -> np.ndarray:
    """Mix 64 bits bijectively (the finalizer of splitmix64), in place."""
    values ^= values >> _SHIFTS[0]
    values *= _MIXERS[0]
    values ^= values >> _SHIFTS[1]
    values *= _MIXERS[1]
    values ^= values >> _SHIFTS[2]
    return values


def in_one_script(points: np.ndarray, borders: np.ndarray, simplified: Sequence[bool]) -> np.ndarray:
    """Return code points with the Han characters of the marked texts simplified; () marks none."""
    if not any(simplified):
        return points
    if all(simplified):
        return simplified_forms()[points]
    return np.where(np.repeat(simplified, np.diff(borders)), simplified_forms()[points], points)


@functools.cache
def simplified_forms() -> np.ndarray:
    """Return the simplified form of every code point, which is itself for all but traditional Han characters: uint32 [0x110000].

    Characters are converted one by one, without OpenCC's phrases: a key may not depend on the neighboring characters.
    """
    table = np.arange(0x110000, dtype=np.uint32)
    for first, last in _HAN:
        converted = opencc.OpenCC("t2s").convert("\n".join(map(chr, range(first, last + 1))))
        table[first : last + 1] = [ord(form) for form in converted.split("\n")]
    return table[table]  # applied twice, because a few simplified forms have a simpler form


def ordered(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort hashes: return their positions, int64 [n], and whether each differs from the one before, bool [n].

    Positions replace the low bits of the hashes while sorting, which is five times as fast as an argsort; for a million hashes 44 bits are
    compared.
    """
    bits = np.uint64(len(hashes).bit_length())
    values = np.sort((hashes >> bits << bits) | np.arange(len(hashes), dtype=np.uint64))
    unlike = np.ones(len(hashes), bool)
    unlike[1:] = values[1:] >> bits != values[:-1] >> bits
    return (values & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64), unlike


@functools.cache
def mixed() -> np.ndarray:
    """Return `mix` of every code point: uint64 [0x110000]."""
    return mix(np.arange(0x110000, dtype=np.uint64))


@functools.cache
def classes() -> np.ndarray:
    """Return OTHER, WORD or SINGLE for every code point: uint8 [0x110000]. Combining marks belong to the letter before them."""
    table = np.array([WORD if unicodedata.category(chr(i))[0] in "LMN" else OTHER for i in range(0x110000)], np.uint8)
    for first, last in _UNSPACED:
        part = table[first : last + 1]
        part[part == WORD] = SINGLE
    return table
