"""What makes a text worth keeping, as a table: a rule is a name, a measure, and on which side of its threshold a text is good.

Thresholds are data (`clean.rules`, `clean.unspaced_rules`). Sources: C4 (Raffel et al., 2020), Gopher (Rae et al., 2021, table A1), FineWeb
(Penedo et al., 2024). In scripts without spaces a character counts as those count words, so that one table serves both.
"""

import dataclasses
import functools
import operator
import re
from collections.abc import Callable, Collection, Mapping

import numpy as np

from teleflm_jax.corpus import tokens
from teleflm_jax.errors import UserError

TERMINAL = tuple(".!?…:;\"'”’)]}。!?；：」』）”》】．؟")
BULLETS = tuple("-*•‣▶►●○■□◆◇·※–—")
SHORT_LINE, SHORT_UNSPACED_LINE = 30, 12
"""Characters."""
_LETTERED = re.compile(r"\S*[^\W\d_]\S*")
_SYMBOLS = re.compile(r"#|\.\.\.|…")


@dataclasses.dataclass(frozen=True)
class Measures:
    """What rules ask about one text; each is computed when it is first asked for."""

    text: str
    hashes: np.ndarray
    """Of its tokens, uint64."""
    lengths: np.ndarray
    """Of its tokens, in characters."""
    unspaced: bool
    """Most of its tokens are characters of a script without spaces."""
    stop_words: Collection[str] = ()
    """Of its language; none known: the rule passes."""

    @functools.cached_property
    def units(self) -> int:
        """Words, or characters of unspaced scripts."""
        return len(self.hashes)

    @functools.cached_property
    def lines(self) -> list[str]:
        """Those that are not blank, without the blanks around them."""
        return [line for line in map(str.strip, self.text.split("\n")) if line]

    @functools.cached_property
    def paragraphs(self) -> list[str]:
        """Blocks between blank lines."""
        return [block for block in map(str.strip, self.text.split("\n\n")) if block]

    @functools.cached_property
    def words(self) -> list[str]:
        """What stands between blanks."""
        return self.text.split()

    @functools.cached_property
    def characters(self) -> int:
        """Of all tokens."""
        return max(1, int(self.lengths.sum()))

    def mean_word(self) -> float:
        """Letters and digits of what stands between blanks."""
        return self.characters / max(1, len(self.words))

    def symbols(self) -> float:
        """Hash signs and ellipses per unit."""
        return len(_SYMBOLS.findall(self.text)) / max(1, self.units)

    def share_of_lines(self, test: Callable[[str], bool]) -> float:
        """Share of the lines that pass a test."""
        return sum(map(test, self.lines)) / max(1, len(self.lines))

    def lettered_words(self) -> float:
        """Share of what stands between blanks that has a letter."""
        return len(_LETTERED.findall(self.text)) / max(1, len(self.words))

    def stop_words_found(self) -> float:
        """How many of the language's commonest words the text has."""
        if not self.stop_words:
            return float("inf")
        if self.unspaced:
            return sum(word in self.text for word in self.stop_words)
        return len(self.stop_words & set(self.text.lower().split()))

    def short_lines(self) -> float:
        """Share of the lines that are short."""
        limit = SHORT_UNSPACED_LINE if self.unspaced else SHORT_LINE
        return self.share_of_lines(lambda line: len(line) <= limit)

    def top_gram(self, n: int) -> float:
        """Share of the characters that the commonest n-gram takes, where it stands more than once."""
        grams = tokens.grams(self.hashes, n)
        if not len(grams):
            return 0.0
        _, first, counts = np.unique(grams, return_index=True, return_counts=True)
        most = int(counts.argmax())
        return 0.0 if counts[most] == 1 else counts[most] * int(self.lengths[first[most] : first[most] + n].sum()) / self.characters

    def duplicate_grams(self, n: int) -> float:
        """Share of the characters in n-grams that have stood in the text before."""
        if n > 5 and not self._repeats_five:
            return 0.0  # whoever repeats n words repeats five
        return self._repeated(n)

    @functools.cached_property
    def _repeats_five(self) -> bool:
        return self._repeated(5) > 0

    def _repeated(self, n: int) -> float:
        grams = tokens.grams(self.hashes, n)
        order = np.argsort(grams, kind="stable")
        again = order[1:][grams[order[1:]] == grams[order[:-1]]]
        if not len(again):
            return 0.0
        steps = np.zeros(self.units + 1, np.int64)
        np.add.at(steps, again, 1)
        np.add.at(steps, again + n, -1)
        return float(self.lengths[np.cumsum(steps[:-1]) > 0].sum()) / self.characters


def _repeated_parts(parts: list[str], *, by_length: bool) -> float:
    if not by_length:
        return 1 - len(set(parts)) / max(1, len(parts))
    whole = sum(map(len, parts))
    return 1 - sum(map(len, set(parts))) / max(1, whole)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One line of the table."""

    measure: Callable[[Measures], float]
    good: Callable[[float, float], bool]
    """Of the measure and the threshold."""
    what: str


_LEAST, _MOST = operator.ge, operator.le
RULES = (
    {
        "min_units": Rule(lambda m: m.units, _LEAST, "words, or characters of a script without spaces"),
        "max_units": Rule(lambda m: m.units, _MOST, "words, or characters of a script without spaces"),
        "min_mean_word": Rule(Measures.mean_word, _LEAST, "characters of a word, on average"),
        "max_mean_word": Rule(Measures.mean_word, _MOST, "characters of a word, on average"),
        "max_symbols": Rule(Measures.symbols, _MOST, "hash signs and ellipses per word"),
        "max_bullet_lines": Rule(
            lambda m: m.share_of_lines(lambda x: x.startswith(BULLETS)), _MOST, "share of lines that begin with a bullet"
        ),
        "max_ellipsis_lines": Rule(
            lambda m: m.share_of_lines(lambda x: x.endswith(("...", "…"))), _MOST, "share of lines that end with an ellipsis"
        ),
        "min_lettered_words": Rule(Measures.lettered_words, _LEAST, "share of words with a letter"),
        "min_stop_words": Rule(Measures.stop_words_found, _LEAST, "different ones of the language's commonest words"),
        "min_ended_lines": Rule(
            lambda m: m.share_of_lines(lambda x: x.endswith(TERMINAL)), _LEAST, "share of lines that end like a sentence"
        ),
        "max_short_lines": Rule(Measures.short_lines, _MOST, "share of lines of at most 30 characters, 12 in a script without spaces"),
        "max_newlines": Rule(lambda m: m.text.count("\n") / max(1, m.units), _MOST, "line ends per word"),
        "max_braces": Rule(lambda m: 1000 * m.text.count("{") / max(1, len(m.text)), _MOST, "opening braces per thousand characters"),
        "max_lorem_ipsum": Rule(lambda m: m.text.lower().count("lorem ipsum"), _MOST, "times `lorem ipsum`"),
        "max_unreadable": Rule(
            lambda m: m.text.count("\ufffd") / max(1, len(m.text)), _MOST, "share of characters that could not be decoded"
        ),
        "max_duplicate_lines": Rule(lambda m: _repeated_parts(m.lines, by_length=False), _MOST, "share of lines that stood before"),
        "max_duplicate_line_characters": Rule(lambda m: _repeated_parts(m.lines, by_length=True), _MOST, "their share of the characters"),
        "max_duplicate_paragraphs": Rule(
            lambda m: _repeated_parts(m.paragraphs, by_length=False), _MOST, "share of paragraphs that stood before"
        ),
        "max_duplicate_paragraph_characters": Rule(
            lambda m: _repeated_parts(m.paragraphs, by_length=True), _MOST, "their share of the characters"
        ),
    }
    | {
        f"max_top_{n}gram": Rule(functools.partial(Measures.top_gram, n=n), _MOST, f"share of the characters in the commonest {n}-gram")
        for n in (2, 3, 4)
    }
    | {
        f"max_duplicate_{n}gram": Rule(
            functools.partial(Measures.duplicate_grams, n=n), _MOST, f"share of the characters in {n}-grams that stood before"
        )
        for n in range(5, 11)
    }
)


def objection(measures: Measures, thresholds: Mapping[str, float]) -> str:
    """Name the first rule that a text does not keep; empty if it keeps all."""
    return next((name for name, threshold in thresholds.items() if not RULES[name].good(RULES[name].measure(measures), threshold)), "")


def refuse_unknown(setting: str, thresholds: Mapping[str, float]) -> None:
    """Hold names of rules against those that there are.

    Raises:
        UserError: one is not known.
    """
    for name in thresholds:
        if name not in RULES:
            raise UserError(f"got the rule {name!r} in {setting}; allowed: {', '.join(RULES)}; change {setting}")
