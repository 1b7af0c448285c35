"""Texts as arrays of hashed tokens, a whole batch at a time: what shingles, n-grams and repeated phrases are counted in.

A token is a run of letters and digits, in scripts that write no spaces (Han, kana, Thai and their like) a single character; case, spaces
and punctuation do not count. So text of both kinds in one document is cut rightly, without asking for its language. Equal tokens have equal
hashes of 64 bits on every machine; different ones collide with a chance of 5e-20 a pair.
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
    """The tokens of a batch of texts, one behind the other."""

    hashes: np.ndarray
    """uint64 [tokens]."""
    starts: np.ndarray
    """int64 [tokens]: the code point, among those of all texts, at which a token begins."""
    lengths: np.ndarray
    """int64 [tokens], in code points."""
    single: np.ndarray
    """bool [tokens]: is a character of an unspaced script."""
    offsets: np.ndarray
    """int64 [texts + 1]: the tokens of text i are [offsets[i], offsets[i + 1])."""

    def of(self, index: int) -> slice:
        """Where one text's tokens are."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))


def tokens(texts: Sequence[str], simplified: Sequence[bool] = ()) -> Tokens:
    """Cut texts into tokens and hash them.

    Args:
        texts: of a batch.
        simplified: says of each text whether its Han characters are taken in their simplified form; (): of none.
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
    """Hash every n consecutive tokens: uint64 [len(hashes) - n + 1], empty where there are fewer."""
    return mix(sums(hashes, n))


def sums(hashes: np.ndarray, n: int) -> np.ndarray:
    """Sum up every n consecutive tokens by their places, of which `mix` makes `grams`: uint64 [len(hashes) - n + 1]."""
    count = len(hashes) - n + 1
    if count <= 0:
        return np.empty(0, np.uint64)
    found = hashes[:count].copy()
    for i in range(1, n):
        found = longer(found, hashes[i : i + count], i + 1)
    return found


def windows(hashes: np.ndarray, sizes: Iterable[int]) -> Iterator[tuple[int, np.ndarray]]:
    """`sums` for several n: as (n, sums); by differences of running sums, so that a large n takes no longer than a small one."""
    total = _running(hashes, _TOKEN_FACTOR)
    inverse = _every_power(pow(_TOKEN_FACTOR, -1, 2**64), len(hashes))
    for n in sizes:
        count = max(0, len(hashes) - n + 1)
        yield n, (total[n:] - total[:count]) * inverse[:count]


def longer(sums: np.ndarray, hashes: np.ndarray, n: int) -> np.ndarray:
    """Sums of n tokens from those of n - 1 and the hashes of the last; `mix` makes hashes of sums."""
    return sums + hashes * np.uint64(pow(_TOKEN_FACTOR, n - 1, 2**64))


def shingles(found: Tokens, index: int, n: int) -> np.ndarray:
    """Give one text's set of n-grams, sorted; a text of fewer tokens is one shingle of all of them, one of none has none."""
    hashes = found.hashes[found.of(index)]
    return np.unique(grams(hashes, min(n, len(hashes)))) if len(hashes) else hashes


def code_points(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """All code points of texts, uint32, and int64 [texts + 1] where each text begins."""
    points = np.frombuffer("".join(texts).encode("utf-32-le", "surrogatepass"), np.uint32)
    return points, np.cumsum([0, *map(len, texts)])


def runs(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, factor: int) -> np.ndarray:
    """Hash runs [start, end) of values by their place in the run: by differences of running sums, so that what lies between is no matter.

    The value at i counts factor^i times, and is divided by factor^start at the end; modulo 2^64 an odd factor can be divided by.
    """
    total = _running(values, factor)
    high, low = _powers(pow(factor, -1, 2**64), len(values))
    return mix((total[ends] - total[starts]) * high[starts // len(low)] * low[starts % len(low)])


def _running(values: np.ndarray, factor: int) -> np.ndarray:
    """Sums of what stands before each value, and of all."""
    total = np.zeros(len(values) + 1, np.uint64)
    np.cumsum(values * _every_power(factor, len(values)), out=total[1:])
    return total


def _every_power(factor: int, count: int) -> np.ndarray:
    """uint64 [count]."""
    high, low = _powers(factor, count)
    return (high[:, None] * low).ravel()[:count]


def _powers(factor: int, count: int, step: int = 1 << 12) -> tuple[np.ndarray, np.ndarray]:
    """Powers whose products are those of a factor up to `count`: of every `step`-th exponent, and of those below `step`."""
    high, low = (np.full(n, pow(factor, k, 2**64), np.uint64) for n, k in ((count // step + 1, step), (step, 1)))
    high[0] = low[0] = 1
    return np.multiply.accumulate(high), np.multiply.accumulate(low)


def mix(values: np.ndarray) -> np.ndarray:
    """Spread 64 bits over 64 bits, one to one (the finisher of splitmix64), in place."""
    values ^= values >> _SHIFTS[0]
    values *= _MIXERS[0]
    values ^= values >> _SHIFTS[1]
    values *= _MIXERS[1]
    values ^= values >> _SHIFTS[2]
    return values


def in_one_script(points: np.ndarray, borders: np.ndarray, simplified: Sequence[bool]) -> np.ndarray:
    """What `code_points` gave, with the Han characters of the texts that are so marked in their simplified form; (): of none."""
    if not any(simplified):
        return points
    if all(simplified):
        return simplified_forms()[points]
    return np.where(np.repeat(simplified, np.diff(borders)), simplified_forms()[points], points)


@functools.cache
def simplified_forms() -> np.ndarray:
    """uint32 [0x110000]: the simplified form of every traditional Han character; of all others, themselves.

    One character at a time, without OpenCC's phrases: a key must be the same whatever stands beside it.
    """
    table = np.arange(0x110000, dtype=np.uint32)
    for first, last in _HAN:
        converted = opencc.OpenCC("t2s").convert("\n".join(map(chr, range(first, last + 1))))
        table[first : last + 1] = [ord(form) for form in converted.split("\n")]
    return table[table]  # once more, since a few forms have a simpler one again


def ordered(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bring equal hashes together, in their order: int64 [n], their places, and bool [n], is unlike the one before.

    Places stand in the last bits while hashes are sorted, which is five times as fast as sorting places by hashes; of a million hashes 44
    bits are compared.
    """
    bits = np.uint64(len(hashes).bit_length())
    values = np.sort((hashes >> bits << bits) | np.arange(len(hashes), dtype=np.uint64))
    unlike = np.ones(len(hashes), bool)
    unlike[1:] = values[1:] >> bits != values[:-1] >> bits
    return (values & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64), unlike


@functools.cache
def mixed() -> np.ndarray:
    """uint64 [0x110000]: `mix` of every code point."""
    return mix(np.arange(0x110000, dtype=np.uint64))


@functools.cache
def classes() -> np.ndarray:
    """uint8 [0x110000]: OTHER, WORD or SINGLE of every code point. Marks belong to the letter before them."""
    table = np.array([WORD if unicodedata.category(chr(i))[0] in "LMN" else OTHER for i in range(0x110000)], np.uint8)
    for first, last in _UNSPACED:
        part = table[first : last + 1]
        part[part == WORD] = SINGLE
    return table
