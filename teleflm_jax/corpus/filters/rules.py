"""Quality rules as a table: a rule has a name, a measure, and a comparison with its threshold.

Thresholds are settings (`clean.rules`, `clean.unspaced_rules`). Sources: C4 (Raffel et al., 2020), Gopher (Rae et al., 2021, table A1),
FineWeb (Penedo et al., 2024). In scripts without spaces a character counts as a word, so that one table serves both.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np

from teleflm_jax.corpus import tokens
from teleflm_jax.errors import UserError

TERMINAL = frozenset(".!?…:;\"'”’)]}。!?；：」』）”》】．؟")
BULLETS = frozenset("-*•‣▶►●○■□◆◇·※–—")
SHORT_LINE, SHORT_UNSPACED_LINE = 30, 12
"""Maximum characters of a short line."""
_BLANK, _SIGN, _LETTER = 0, 1, 2
_TEXT_FACTOR = np.uint64(0xD1B54A32D192ED03)
_TOP, _REPEATED = range(2, 5), range(5, 11)
"""Sizes of the n-grams that rules measure."""


@dataclasses.dataclass(frozen=True)
class Measures:
    """Measures of the texts of a batch, float [texts], computed on first use."""

    texts: Sequence[str]
    found: tokens.Tokens
    unspaced: np.ndarray
    """bool [texts]: True if most tokens are characters of a script without spaces."""
    stop_words: Sequence[Collection[str]]
    """Stop words of each text's language; if there are none, the rule passes."""

    @functools.cached_property
    def units(self) -> np.ndarray:
        """Number of words, or of characters of unspaced scripts."""
        return np.diff(self.found.offsets)

    @functools.cached_property
    def lines(self) -> list[list[str]]:
        """Non-blank lines, stripped."""
        return [[line for line in map(str.strip, text.split("\n")) if line] for text in self.texts]

    @functools.cached_property
    def paragraphs(self) -> list[list[str]]:
        """Blocks between blank lines."""
        return [[block for block in map(str.strip, text.split("\n\n")) if block] for text in self.texts]

    @functools.cached_property
    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """Number of whitespace-separated words, and of those with a letter."""
        points, borders = tokens.code_points([text + "\n" for text in self.texts])
        kinds = _kinds()[points]
        starts = np.flatnonzero((kinds[1:] != _BLANK) & (kinds[:-1] == _BLANK)) + 1
        if len(kinds) and kinds[0] != _BLANK:
            starts = np.insert(starts, 0, 0)
        lettered = starts[np.maximum.reduceat(kinds, starts) == _LETTER] if len(starts) else starts
        return np.diff(np.searchsorted(starts, borders)), np.diff(np.searchsorted(lettered, borders))

    @functools.cached_property
    def characters(self) -> np.ndarray:
        """Characters of all tokens, at least 1."""
        return np.maximum(1, np.diff(_before(self.found.lengths)[self.found.offsets]))

    @functools.cached_property
    def repetitions(self) -> dict[int, np.ndarray]:
        """N -> share of the characters in the most frequent n-gram, if it repeats, or in n-grams that occurred before in the text."""
        return repetitions(self.found, self.characters)

    def count(self, *signs: str) -> np.ndarray:
        """Count the occurrences of `signs` in each text."""
        return np.array([sum(map(text.count, signs)) for text in self.texts], np.int64)

    def per_unit(self, *signs: str) -> np.ndarray:
        """Return the occurrences of `signs` per unit."""
        return self.count(*signs) / np.maximum(1, self.units)

    def per_character(self, sign: str) -> np.ndarray:
        """Return the occurrences of `sign` per character."""
        return self.count(sign) / np.maximum(1, [len(text) for text in self.texts])

    def mean_word(self) -> np.ndarray:
        """Return the mean number of letters and digits per word."""
        return self.characters / np.maximum(1, self.words[0])

    def share_of_lines(self, test: Callable[[str], bool]) -> np.ndarray:
        """Return the share of lines that pass a test."""
        return np.array([sum(map(test, lines)) / max(1, len(lines)) for lines in self.lines])

    def lettered_words(self) -> np.ndarray:
        """Return the share of words with a letter."""
        return self.words[1] / np.maximum(1, self.words[0])

    def phrase(self, phrase: str) -> np.ndarray:
        """Count the occurrences of a phrase's token sequence in each text."""
        wanted = _hashes(phrase)
        at = np.flatnonzero(self.found.hashes[: max(0, len(self.found.hashes) - len(wanted) + 1)] == wanted[0])
        for i, value in enumerate(wanted[1:], 1):
            at = at[self.found.hashes[at + i] == value]
        first, last = (np.searchsorted(self.found.offsets, place, side="right") - 1 for place in (at, at + len(wanted) - 1))
        return np.bincount(first[first == last], minlength=len(self.texts))

    def stop_words_found(self) -> np.ndarray:
        """Count the distinct stop words of its language in each text."""
        counts = np.array([0.0 if words else np.inf for words in self.stop_words])
        for word in sorted({word for words in self.stop_words for word in words}):
            counts += (self.phrase(word) > 0) & [word in words for words in self.stop_words]
        return counts

    def short_lines(self) -> np.ndarray:
        """Return the share of short lines."""
        limits = np.where(self.unspaced, SHORT_UNSPACED_LINE, SHORT_LINE).tolist()
        return np.array(
            [sum(len(line) <= limit for line in lines) / max(1, len(lines)) for limit, lines in zip(limits, self.lines, strict=True)]
        )


def repetitions(found: tokens.Tokens, characters: np.ndarray) -> dict[int, np.ndarray]:
    """Measure the share of repeated n-grams in each text.

    An n-gram can only repeat if its first n - 1 tokens do, so few candidates remain for large n.

    Args:
        found: Tokens of the texts.
        characters: Characters of each text's tokens.

    Returns:
        n -> float64 [texts]: for n up to 4 the share of the most frequent n-gram, 0 if none repeats; for larger n of all repeated n-grams.
    """
    texts = len(found.offsets) - 1
    owners = np.repeat(np.arange(texts), np.diff(found.offsets))
    ends, before = found.offsets[1:], _before(found.lengths)
    places, sums, shares = np.arange(len(owners)), found.hashes, {}
    for n in (*_TOP, *_REPEATED):
        inside = places + n <= ends[owners[places]]
        places, sums = places[inside], sums[inside]
        sums = tokens.longer(sums, found.hashes[places + n - 1], n)
        members, firsts, counts = _groups(tokens.mix(sums + owners[places].astype(np.uint64) * _TEXT_FACTOR))
        if n in _TOP:
            at = places[firsts]
            shares[n] = _commonest(owners[at], at, counts, before[at + n] - before[at], texts) / characters
        again = np.zeros(len(places), bool)
        again[members] = True
        repeated = np.flatnonzero(again)
        again[firsts] = False
        if n in _REPEATED:
            at = places[again]
            covered = before[np.minimum(at + n, np.append(at[1:], len(owners)))] - before[at]
            shares[n] = np.bincount(owners[at], covered, texts) / characters
        places, sums = places[repeated], sums[repeated]
    return shares


def _groups(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the positions of repeated keys, and for each of these keys its first position and its count."""
    order, unlike = tokens.ordered(keys)
    grouped = ~unlike | np.append(~unlike[1:], False)[: len(keys)]
    members = order[grouped]
    starts = np.flatnonzero(unlike[grouped])
    return members, members[starts], np.diff(np.append(starts, len(members)))


def _commonest(owners: np.ndarray, firsts: np.ndarray, counts: np.ndarray, sizes: np.ndarray, texts: int) -> np.ndarray:
    """Return count times size of each text's most frequent group, the first of several; 0 if it has none."""
    found = np.zeros(texts)
    if len(owners):
        bits = int(firsts.max()).bit_length()
        ranks = counts << bits | (1 << bits) - 1 - firsts
        best = np.zeros(texts, np.int64)
        np.maximum.at(best, owners, ranks)
        is_best = best[owners] == ranks
        found[owners[is_best]] = (counts * sizes)[is_best]
    return found


def _before(lengths: np.ndarray) -> np.ndarray:
    """Return the sums before each position, and of all lengths."""
    return np.append(0, np.cumsum(lengths))


def _parts(texts: list[list[str]], *, by_length: bool) -> np.ndarray:
    """Return the share of each text's parts that repeat an earlier part."""
    measure = (lambda parts: sum(map(len, parts))) if by_length else len
    return np.array([1 - measure(set(parts)) / max(1, measure(parts)) for parts in texts])


@functools.lru_cache(maxsize=4096)
def _hashes(phrase: str) -> np.ndarray:
    return tokens.tokens([phrase]).hashes


@functools.cache
def _kinds() -> np.ndarray:
    """Return _BLANK, _SIGN or _LETTER for every code point: uint8 [0x110000]."""
    characters = map(chr, range(0x110000))
    return np.array([_BLANK if c.isspace() else _LETTER if c.isalnum() and not c.isdecimal() else _SIGN for c in characters], np.uint8)


@dataclasses.dataclass(frozen=True)
class FilterRule:
    """A row of the table of rules."""

    measure: Callable[[Measures], np.ndarray]
    good: Callable[[np.ndarray, float], np.ndarray]
    """Comparison of the measure with the threshold; True keeps the text."""
    description: str


_AT_LEAST, _AT_MOST = operator.ge, operator.le
RULES = (
    {
        "min_units": FilterRule(lambda m: m.units, _AT_LEAST, "words, or characters of a script without spaces"),
        "max_units": FilterRule(lambda m: m.units, _AT_MOST, "words, or characters of a script without spaces"),
        "min_mean_word": FilterRule(Measures.mean_word, _AT_LEAST, "characters of a word, on average"),
        "max_mean_word": FilterRule(Measures.mean_word, _AT_MOST, "characters of a word, on average"),
        "max_symbols": FilterRule(lambda m: m.per_unit("#", "...", "…"), _AT_MOST, "hash signs and ellipses per word"),
        "max_bullet_lines": FilterRule(
            lambda m: m.share_of_lines(lambda x: x[0] in BULLETS), _AT_MOST, "share of lines that start with a bullet"
        ),
        "max_ellipsis_lines": FilterRule(
            lambda m: m.share_of_lines(lambda x: x.endswith(("...", "…"))), _AT_MOST, "share of lines that end with an ellipsis"
        ),
        "min_lettered_words": FilterRule(Measures.lettered_words, _AT_LEAST, "share of words with a letter"),
        "min_stop_words": FilterRule(Measures.stop_words_found, _AT_LEAST, "distinct stop words of the language"),
        "min_ended_lines": FilterRule(
            lambda m: m.share_of_lines(lambda x: x[-1] in TERMINAL), _AT_LEAST, "share of lines that end like a sentence"
        ),
        "max_short_lines": FilterRule(
            Measures.short_lines, _AT_MOST, "share of lines of at most 30 characters, 12 in a script without spaces"
        ),
        "max_newlines": FilterRule(lambda m: m.per_unit("\n"), _AT_MOST, "line ends per word"),
        "max_braces": FilterRule(lambda m: 1000 * m.per_character("{"), _AT_MOST, "opening braces per thousand characters"),
        "max_lorem_ipsum": FilterRule(lambda m: m.phrase("lorem ipsum"), _AT_MOST, "occurrences of `lorem ipsum`"),
        "max_unreadable": FilterRule(lambda m: m.per_character("\ufffd"), _AT_MOST, "share of characters that could not be decoded"),
        "max_duplicate_lines": FilterRule(lambda m: _parts(m.lines, by_length=False), _AT_MOST, "share of repeated lines"),
        "max_duplicate_line_characters": FilterRule(
            lambda m: _parts(m.lines, by_length=True), _AT_MOST, "share of the characters in repeated lines"
        ),
        "max_duplicate_paragraphs": FilterRule(lambda m: _parts(m.paragraphs, by_length=False), _AT_MOST, "share of repeated paragraphs"),
        "max_duplicate_paragraph_characters": FilterRule(
            lambda m: _parts(m.paragraphs, by_length=True), _AT_MOST, "share of the characters in repeated paragraphs"
        ),
    }
    | {
        f"max_top_{n}gram": FilterRule(lambda m, n=n: m.repetitions[n], _AT_MOST, f"share of the characters in the most frequent {n}-gram")
        for n in _TOP
    }
    | {
        f"max_duplicate_{n}gram": FilterRule(lambda m, n=n: m.repetitions[n], _AT_MOST, f"share of the characters in repeated {n}-grams")
        for n in _REPEATED
    }
)


def rejection_reasons(measures: Measures, tables: Sequence[Mapping[str, float]]) -> list[str]:
    """Return the first rule that each text fails in its own table of thresholds; empty if it passes all."""
    reasons = [""] * len(tables)
    own = np.array([id(table) for table in tables])
    values: dict[str, np.ndarray] = {}
    for table in {id(table): table for table in tables}.values():
        members = np.flatnonzero(own == id(table))
        for name, threshold in table.items():
            if name not in values:
                values[name] = RULES[name].measure(measures)
            for i in members[~RULES[name].good(values[name][members], threshold)].tolist():
                reasons[i] = reasons[i] or name
    return reasons


def refuse_unknown(setting: str, thresholds: Mapping[str, float]) -> None:
    """Refuse unknown names of rules.

    Raises:
        UserError: A rule is unknown.
    """
    for name in thresholds:
        if name not in RULES:
            raise UserError(f"got the rule {name!r} in {setting}; allowed: {', '.join(RULES)}; change {setting}")
