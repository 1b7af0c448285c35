"""Cleaning of documents: normalization, language identification, boilerplate lines, personal data, and rules."""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import ftfy
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ftfy.badness import is_bad

from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import CODE, CleanConfig
from teleflm_jax.corpus.filters import languages, privacy, rules
from teleflm_jax.documents.statistics import Statistics

_CONTINUING = bytes(range(0x80, 0xC0))
_SECOND = re.escape(_CONTINUING.decode("latin-1") + _CONTINUING.decode("cp1252", "ignore"))
_TWICE_DECODED = re.compile(f"[\x80-\x9f\xc2-\xf4](?:(?<=[\x80-\x9f])|[{_SECOND}])")
"""Mojibake: Windows-1252 decoded as Latin-1, and UTF-8 decoded as one of these (first and second byte). Other decoding errors are not
repaired."""
_NOTHING = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u2060\ufeff\ufff9-\ufffb"
_DROPPED = re.compile(f"[{_NOTHING}]")
_LINE_ENDS = ("\r\n", "\r", "\x85", "\u2028", "\u2029")
_SPACES = (*map(chr, range(0x2000, 0x200B)), "\xa0", "\u202f", "\u205f")
_CODE_FORMS = dict.fromkeys(_LINE_ENDS, "\n") | {space: space for space in _SPACES}
_FORMS = _CODE_FORMS | dict.fromkeys(_SPACES, " ")
_ODD = re.compile(f"\r\n?|[{_NOTHING}\x80-\x9f\xad\u2028\u2029{''.join(_SPACES)}]")
"""Characters to replace or to remove. They include bytes of wrongly decoded characters, so mojibake is repaired first."""
MAX_MARKS = 30
"""Maximum run of combining marks, because ordering them takes quadratic time. Source: UAX 15, stream-safe text format."""
JOINER = "\u034f"
"""Character inserted after MAX_MARKS marks, so that the following ones are ordered separately."""
JOINED = f"runs of more than {MAX_MARKS} combining marks divided"
_BLANKS = " \t\u3000"
_UNEVEN = rf"{_ODD.pattern}|[\xc2-\xf4][{_SECOND}]|[{_BLANKS}](?:\n|\z)"
"""Arrow pattern of everything that `normalize` changes, except runs of blank lines and decomposed characters; most texts do not match."""


def clean(batches: Iterable[pa.RecordBatch], statistics: Statistics, *, config: CleanConfig) -> Iterator[pa.RecordBatch]:
    """Clean documents.

    Args:
        batches: Batches of `rows.DOCUMENT`.
        statistics: Counts the drops and changes of each rule.
        config: Rules and thresholds.
    """
    for batch in batches:
        origins, domains = batch["origin"].to_pylist(), batch["domain"].to_pylist()
        named = batch["language"].to_pylist()
        texts = [*normalize_texts(batch["text"], [language == CODE for language in named])]
        for i, text in enumerate(texts):
            if JOINER in text and (count := text.count(JOINER) - batch["text"][i].as_py().count(JOINER)) > 0:
                statistics.changed[JOINED].add(count, count * len(JOINER.encode()))
        prose = [i for i, language in enumerate(named) if language != CODE]
        for i, language in zip(prose, languages.languages([texts[i] for i in prose]), strict=True):
            named[i] = language
        for i in _containing_phrases(texts, prose, config):
            texts[i] = _without_lines(texts[i], config, origins[i], statistics)
        for i, text in enumerate(texts):
            texts[i], masked = privacy.mask(text, config.mask)
            for kind, what in masked:
                statistics.change(f"{kind} masked", origins[i], "*" * len(what))
        kept: list[str | None] = [*texts]
        for i, reason in enumerate(_rejection_reasons(texts, named, domains, config)):
            if reason:
                statistics.drop(reason, origins[i], texts[i])
                kept[i] = None
        yield rows.with_text(batch, kept, language=named)


def normalize(text: str, *, is_code: bool = False) -> str:
    """Normalize line ends, spaces and composed characters, remove control characters, and repair mojibake.

    In code, only line ends and control characters are changed.
    """
    odd = bool(_ODD.search(text))
    if odd:
        text = _DROPPED.sub("", text)
    if not is_code and not text.isascii() and _is_mojibake(text):
        text, odd = _DROPPED.sub("", ftfy.fix_encoding(text)), True
    if odd:
        forms = _CODE_FORMS if is_code else _FORMS
        text = _ODD.sub(lambda found: forms.get(found[0], ""), text)
    if is_code:
        return text.strip("\n") + "\n"
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", _with_joiners(text))
    if any(f"{blank}\n" in text or text.endswith(blank) for blank in _BLANKS):
        text = "\n".join(line.rstrip(_BLANKS) for line in text.split("\n"))
    return _without_blank_runs(text)


def _with_joiners(text: str) -> str:
    """Insert JOINER after every MAX_MARKS combining marks of a longer run."""
    marks = _marks()[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")].tobytes()
    parts, done = [], 0
    while (start := marks.find(b"\1" * (MAX_MARKS + 1), done)) >= 0:
        parts += [text[done : start + MAX_MARKS], JOINER]
        done = start + MAX_MARKS
    return "".join([*parts, text[done:]])


@functools.cache
def _marks() -> np.ndarray:
    """Return a table of all characters, 1 for a combining mark; a regular expression would take ten times as long."""
    return np.fromiter((unicodedata.combining(chr(code)) > 0 for code in range(0x110000)), np.uint8, 0x110000)


def _is_mojibake(text: str) -> bool:
    """Return True if ftfy's test, which takes longer than everything else, finds mojibake in a line that may have it."""
    if not _TWICE_DECODED.search(text):
        return False
    return any(_TWICE_DECODED.search(line) and is_bad(line) for line in text.split("\n"))


def normalize_texts(texts: pa.StringArray, is_code: Sequence[bool]) -> list[str]:
    """Return `normalize` of each text of a batch; an automaton first finds the texts that need it."""
    uneven = pc.match_substring_regex(texts, _UNEVEN).to_pylist()
    return [
        normalize(text, is_code=code) if code or one or not unicodedata.is_normalized("NFC", text) else _without_blank_runs(text)
        for text, code, one in zip(texts.to_pylist(), is_code, uneven, strict=True)
    ]


def _containing_phrases(texts: Sequence[str], numbers: Sequence[int], config: CleanConfig) -> list[int]:
    """Return the indices of texts with any phrase: only a few, and Arrow's automaton searches for all phrases at once."""
    phrases = "|".join(re.escape(phrase) for phrases in config.line_phrases.values() for phrase in phrases)
    if not phrases:
        return []
    found = pc.match_substring_regex(pa.array([texts[i] for i in numbers], pa.string()), phrases, ignore_case=True)
    return [i for i, has in zip(numbers, found.to_pylist(), strict=True) if has]


def _without_lines(text: str, config: CleanConfig, origin: str, statistics: Statistics) -> str:
    lowered = text.lower()
    for rule, phrases in config.line_phrases.items():
        if not any(phrase in lowered for phrase in phrases):
            continue
        kept = []
        for line in text.split("\n"):
            if len(line) <= config.phrase_line and any(phrase in line.lower() for phrase in phrases):
                statistics.change(rule, origin, line)
            else:
                kept.append(line)
        text = _without_blank_runs("\n".join(kept))
    return text


def _without_blank_runs(text: str) -> str:
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip("\n")


def _rejection_reasons(texts: Sequence[str], named: Sequence[str], domains: Sequence[str], config: CleanConfig) -> list[str]:
    """Return the reason to drop each text, or an empty string."""
    found = tokens.tokens(texts)
    singles = np.append(0, np.cumsum(found.single))[found.offsets]
    unspaced = 2 * np.diff(singles) > np.diff(found.offsets)
    tables = [
        config.domain_rules.get(domain, config.code_rules if language == CODE else config.unspaced_rules if single else config.rules)
        for language, domain, single in zip(named, domains, unspaced.tolist(), strict=True)
    ]
    stop_words = [config.stop_words.get(language, ()) for language in named]
    reasons = rules.rejection_reasons(rules.Measures(texts, found, unspaced, stop_words), tables)
    for i, (text, language) in enumerate(zip(texts, named, strict=True)):
        if config.languages and language not in (*config.languages, CODE):
            reasons[i] = "language"
        if not text.strip():
            reasons[i] = "nothing left"
    return reasons
