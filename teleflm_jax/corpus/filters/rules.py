"""What makes a text worth keeping, as a table: a rule is a name, a measure, and on which side of its threshold a text is good.

Thresholds are data (`clean.rules`, `clean.unspaced_rules`). Sources: C4 (Raffel et al., 2020), Gopher (Rae et al., 2021, table A1), FineWeb
(Penedo et al., 2024). In scripts without spaces a character counts as those count words, so that one table serves both.
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
"""Characters."""
_BLANK, _SIGN, _LETTER = 0, 1, 2
_TEXT_FACTOR = np.uint64(0xD1B54A32D192ED03)
_TOP, _REPEATED = range(2, 5), range(5, 11)
"""Sizes of n-grams that rules ask about."""


@dataclasses.dataclass(frozen=True)
class Measures:
    """What rules ask about the texts of a batch, float [texts]; each is computed when it is first asked for."""

    texts: Sequence[str]
    found: tokens.Tokens
    unspaced: np.ndarray
    """bool [texts]: most tokens are characters of a script without spaces."""
    stop_words: Sequence[Collection[str]]
    """Of each text's language; none known: the rule passes."""

    @functools.cached_property
    def units(self) -> np.ndarray:
        """Words, or characters of unspaced scripts."""
        return np.diff(self.found.offsets)

    @functools.cached_property
    def lines(self) -> list[list[str]]:
        """Those that are not blank, without the blanks around them."""
        return [[line for line in map(str.strip, text.split("\n")) if line] for text in self.texts]

    @functools.cached_property
    def paragraphs(self) -> list[list[str]]:
        """Blocks between blank lines."""
        return [[block for block in map(str.strip, text.split("\n\n")) if block] for text in self.texts]

    @functools.cached_property
    def words(self) -> tuple[np.ndarray, np.ndarray]:
        """How many stand between blanks, and how many of them have a letter."""
        points, borders = tokens.code_points([text + "\n" for text in self.texts])
        kinds = _kinds()[points]
        starts = np.flatnonzero((kinds[1:] != _BLANK) & (kinds[:-1] == _BLANK)) + 1
        if len(kinds) and kinds[0] != _BLANK:
            starts = np.insert(starts, 0, 0)
        lettered = starts[np.maximum.reduceat(kinds, starts) == _LETTER] if len(starts) else starts
        return np.diff(np.searchsorted(starts, borders)), np.diff(np.searchsorted(lettered, borders))

    @functools.cached_property
    def characters(self) -> np.ndarray:
        """Of all tokens, at least 1."""
        return np.maximum(1, np.diff(_before(self.found.lengths)[self.found.offsets]))

    @functools.cached_property
    def repetitions(self) -> dict[int, np.ndarray]:
        """Size of n-grams -> share of the characters in the commonest one, if it repeats, or in those that stood in the text before."""
        return repetitions(self.found, self.characters)

    def count(self, *signs: str) -> np.ndarray:
        """How often the signs stand in each text."""
        return np.array([sum(map(text.count, signs)) for text in self.texts], np.int64)

    def per_unit(self, *signs: str) -> np.ndarray:
        """The same, per unit."""
        return self.count(*signs) / np.maximum(1, self.units)

    def per_character(self, sign: str) -> np.ndarray:
        """The same, per character."""
        return self.count(sign) / np.maximum(1, [len(text) for text in self.texts])

    def mean_word(self) -> np.ndarray:
        """Letters and digits of what stands between blanks."""
        return self.characters / np.maximum(1, self.words[0])

    def share_of_lines(self, test: Callable[[str], bool]) -> np.ndarray:
        """Share of the lines that pass a test."""
        return np.array([sum(map(test, lines)) / max(1, len(lines)) for lines in self.lines])

    def lettered_words(self) -> np.ndarray:
        """Share of what stands between blanks that has a letter."""
        return self.words[1] / np.maximum(1, self.words[0])

    def phrase(self, phrase: str) -> np.ndarray:
        """How often the tokens of a phrase follow one another in each text."""
        wanted = _hashes(phrase)
        at = np.flatnonzero(self.found.hashes[: max(0, len(self.found.hashes) - len(wanted) + 1)] == wanted[0])
        for i, value in enumerate(wanted[1:], 1):
            at = at[self.found.hashes[at + i] == value]
        first, last = (np.searchsorted(self.found.offsets, place, side="right") - 1 for place in (at, at + len(wanted) - 1))
        return np.bincount(first[first == last], minlength=len(self.texts))

    def stop_words_found(self) -> np.ndarray:
        """How many of the language's commonest words each text has."""
        counts = np.array([0.0 if words else np.inf for words in self.stop_words])
        for word in sorted({word for words in self.stop_words for word in words}):
            counts += (self.phrase(word) > 0) & [word in words for words in self.stop_words]
        return counts

    def short_lines(self) -> np.ndarray:
        """Share of the lines that are short."""
        limits = np.where(self.unspaced, SHORT_UNSPACED_LINE, SHORT_LINE).tolist()
        return np.array(
            [sum(len(line) <= limit for line in lines) / max(1, len(lines)) for limit, lines in zip(limits, self.lines, strict=True)]
        )


def repetitions(found: tokens.Tokens, characters: np.ndarray) -> dict[int, np.ndarray]:
    """Measure how much of each text its repeated n-grams take.

    An n-gram can only repeat where its first n - 1 tokens do, so of the larger ones few are left to be looked at.

    Args:
        found: tokens of the texts.
        characters: of each text's tokens.

    Returns:
        n -> float64 [texts]: for n up to 4 the share of the commonest n-gram, 0 if none repeats; for larger ones of all that repeat.
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
    """Where keys stand that are there more than once; of each such key the first place, and how many there are."""
    order, unlike = tokens.ordered(keys)
    grouped = ~unlike | np.append(~unlike[1:], False)[: len(keys)]
    members = order[grouped]
    starts = np.flatnonzero(unlike[grouped])
    return members, members[starts], np.diff(np.append(starts, len(members)))


def _commonest(owners: np.ndarray, firsts: np.ndarray, counts: np.ndarray, sizes: np.ndarray, texts: int) -> np.ndarray:
    """Of the groups of each text, count times size of the one with the highest count, of several the first; 0 where there is none."""
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
    """Sums of what comes before each, and of all."""
    return np.append(0, np.cumsum(lengths))


def _parts(texts: list[list[str]], *, by_length: bool) -> np.ndarray:
    """Share of each text's parts that stood in it before."""
    measure = (lambda parts: sum(map(len, parts))) if by_length else len
    return np.array([1 - measure(set(parts)) / max(1, measure(parts)) for parts in texts])


@functools.lru_cache(maxsize=4096)
def _hashes(phrase: str) -> np.ndarray:
    return tokens.tokens([phrase]).hashes


@functools.cache
def _kinds() -> np.ndarray:
    """uint8 [0x110000]: _BLANK, _SIGN or _LETTER of every code point."""
    characters = map(chr, range(0x110000))
    return np.array([_BLANK if c.isspace() else _LETTER if c.isalnum() and not c.isdecimal() else _SIGN for c in characters], np.uint8)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of the table."""

    measure: Callable[[Measures], np.ndarray]
    good: Callable[[np.ndarray, float], np.ndarray]
    """Of the measure and the threshold."""
    what: str


_LEAST, _MOST = operator.ge, operator.le
RULES = (
    {
        "min_units": Rule(lambda m: m.units, _LEAST, "words, or characters of a script without spaces"),
        "max_units": Rule(lambda m: m.units, _MOST, "words, or characters of a script without spaces"),
        "min_mean_word": Rule(Measures.mean_word, _LEAST, "characters of a word, on average"),
        "max_mean_word": Rule(Measures.mean_word, _MOST, "characters of a word, on average"),
        "max_symbols": Rule(lambda m: m.per_unit("#", "...", "…"), _MOST, "hash signs and ellipses per word"),
        "max_bullet_lines": Rule(lambda m: m.share_of_lines(lambda x: x[0] in BULLETS), _MOST, "share of lines that begin with a bullet"),
        "max_ellipsis_lines": Rule(
            lambda m: m.share_of_lines(lambda x: x.endswith(("...", "…"))), _MOST, "share of lines that end with an ellipsis"
        ),
        "min_lettered_words": Rule(Measures.lettered_words, _LEAST, "share of words with a letter"),
        "min_stop_words": Rule(Measures.stop_words_found, _LEAST, "different ones of the language's commonest words"),
        "min_ended_lines": Rule(lambda m: m.share_of_lines(lambda x: x[-1] in TERMINAL), _LEAST, "share of lines that end like a sentence"),
        "max_short_lines": Rule(Measures.short_lines, _MOST, "share of lines of at most 30 characters, 12 in a script without spaces"),
        "max_newlines": Rule(lambda m: m.per_unit("\n"), _MOST, "line ends per word"),
        "max_braces": Rule(lambda m: 1000 * m.per_character("{"), _MOST, "opening braces per thousand characters"),
        "max_lorem_ipsum": Rule(lambda m: m.phrase("lorem ipsum"), _MOST, "times `lorem ipsum`"),
        "max_unreadable": Rule(lambda m: m.per_character("\ufffd"), _MOST, "share of characters that could not be decoded"),
        "max_duplicate_lines": Rule(lambda m: _parts(m.lines, by_length=False), _MOST, "share of lines that stood before"),
        "max_duplicate_line_characters": Rule(lambda m: _parts(m.lines, by_length=True), _MOST, "their share of the characters"),
        "max_duplicate_paragraphs": Rule(lambda m: _parts(m.paragraphs, by_length=False), _MOST, "share of paragraphs that stood before"),
        "max_duplicate_paragraph_characters": Rule(lambda m: _parts(m.paragraphs, by_length=True), _MOST, "their share of the characters"),
    }
    | {f"max_top_{n}gram": Rule(lambda m, n=n: m.repetitions[n], _MOST, f"share of the characters in the commonest {n}-gram") for n in _TOP}
    | {
        f"max_duplicate_{n}gram": Rule(lambda m, n=n: m.repetitions[n], _MOST, f"share of the characters in {n}-grams that stood before")
        for n in _REPEATED
    }
)


def objections(measures: Measures, tables: Sequence[Mapping[str, float]]) -> list[str]:
    """Name of each text the first rule that it does not keep, by its own table of thresholds; empty if it keeps all."""
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
    """Hold names of rules against those that there are.

    Raises:
        UserError: one is not known.
    """
    for name in thresholds:
        if name not in RULES:
            raise UserError(f"got the rule {name!r} in {setting}; allowed: {', '.join(RULES)}; change {setting}")
