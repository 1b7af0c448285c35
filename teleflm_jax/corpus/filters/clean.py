"""Text made uniform, its language named, boilerplate lines and personal data taken out, and documents dropped that a rule objects to."""

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
from teleflm_jax.documents.statistics import Tally

_CONTINUING = bytes(range(0x80, 0xC0))
_SECOND = re.escape(_CONTINUING.decode("latin-1") + _CONTINUING.decode("cp1252", "ignore"))
_TWICE_DECODED = re.compile(f"[\x80-\x9f\xc2-\xf4](?:(?<=[\x80-\x9f])|[{_SECOND}])")
"""Windows-1252 read as Latin-1, and UTF-8 read as one of these: a first byte and a second. What was read wrongly in other ways is not
mended."""
_NOTHING = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u2060\ufeff\ufff9-\ufffb"
_DROPPED = re.compile(f"[{_NOTHING}]")
_LINE_ENDS = ("\r\n", "\r", "\x85", "\u2028", "\u2029")
_SPACES = (*map(chr, range(0x2000, 0x200B)), "\xa0", "\u202f", "\u205f")
_CODE_FORMS = dict.fromkeys(_LINE_ENDS, "\n") | {space: space for space in _SPACES}
_FORMS = _CODE_FORMS | dict.fromkeys(_SPACES, " ")
_ODD = re.compile(f"\r\n?|[{_NOTHING}\x80-\x9f\xad\u2028\u2029{''.join(_SPACES)}]")
"""What has another form, and what has none and goes; bytes of wrongly decoded characters are among it, so these are mended first."""
MAX_MARKS = 30
"""Combining marks in a row; to put more into one order takes the square of their number. Source: UAX 15, stream-safe text format."""
JOINER = "\u034f"
"""Stands behind so many, so that those that follow are put in order by themselves."""
JOINED = f"runs of more than {MAX_MARKS} combining marks divided"
_BLANKS = " \t\u3000"
_UNEVEN = rf"{_ODD.pattern}|[\xc2-\xf4][{_SECOND}]|[{_BLANKS}](?:\n|\z)"
"""For Arrow: all that `uniform` looks for, but for gaps and characters in parts; most texts have nothing of it."""


def clean(batches: Iterable[pa.RecordBatch], tally: Tally, *, config: CleanConfig) -> Iterator[pa.RecordBatch]:
    """Clean documents.

    Args:
        batches: of `rows.DOCUMENT`.
        tally: counts what each rule drops or changes.
        config: rules and thresholds.
    """
    for batch in batches:
        origins, domains = batch["origin"].to_pylist(), batch["domain"].to_pylist()
        named = batch["language"].to_pylist()
        texts = [*uniform_texts(batch["text"], [language == CODE for language in named])]
        for i, text in enumerate(texts):
            if JOINER in text and (count := text.count(JOINER) - batch["text"][i].as_py().count(JOINER)) > 0:
                tally.changed[JOINED].add(count, count * len(JOINER.encode()))
        prose = [i for i, language in enumerate(named) if language != CODE]
        for i, language in zip(prose, languages.languages([texts[i] for i in prose]), strict=True):
            named[i] = language
        for i in _with_phrases(texts, prose, config):
            texts[i] = _without_lines(texts[i], config, origins[i], tally)
        for i, text in enumerate(texts):
            texts[i], masked = privacy.mask(text, config.mask)
            for kind, what in masked:
                tally.change(f"{kind} masked", origins[i], "*" * len(what))
        kept: list[str | None] = [*texts]
        for i, reason in enumerate(_objections(texts, named, domains, config)):
            if reason:
                tally.drop(reason, origins[i], texts[i])
                kept[i] = None
        yield rows.with_text(batch, kept, language=named)


def uniform(text: str, *, is_code: bool = False) -> str:
    """Give line ends, spaces and composed characters one form; drop control characters; mend text that was decoded wrongly.

    Of code, line ends and control characters alone.
    """
    odd = bool(_ODD.search(text))
    if odd:
        text = _DROPPED.sub("", text)
    if not is_code and not text.isascii() and _is_decoded_wrongly(text):
        text, odd = _DROPPED.sub("", ftfy.fix_encoding(text)), True
    if odd:
        forms = _CODE_FORMS if is_code else _FORMS
        text = _ODD.sub(lambda found: forms.get(found[0], ""), text)
    if is_code:
        return text.strip("\n") + "\n"
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", _divided(text))
    if any(f"{blank}\n" in text or text.endswith(blank) for blank in _BLANKS):
        text = "\n".join(line.rstrip(_BLANKS) for line in text.split("\n"))
    return _without_gaps(text)


def _divided(text: str) -> str:
    """Put a joiner behind every 30 of more marks in a row."""
    marks = _marks()[np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")].tobytes()
    parts, done = [], 0
    while (start := marks.find(b"\1" * (MAX_MARKS + 1), done)) >= 0:
        parts += [text[done : start + MAX_MARKS], JOINER]
        done = start + MAX_MARKS
    return "".join([*parts, text[done:]])


@functools.cache
def _marks() -> np.ndarray:
    """Make a table of all characters, 1 for a combining mark; an expression takes ten times as long as this table."""
    return np.fromiter((unicodedata.combining(chr(code)) > 0 for code in range(0x110000)), np.uint8, 0x110000)


def _is_decoded_wrongly(text: str) -> bool:
    """By ftfy's test, which takes longer than all the rest, of lines that may be."""
    if not _TWICE_DECODED.search(text):
        return False
    return any(_TWICE_DECODED.search(line) and is_bad(line) for line in text.split("\n"))


def uniform_texts(texts: pa.StringArray, is_code: Sequence[bool]) -> list[str]:
    """`uniform` of each text of a batch; an automaton tells first which have anything to mend."""
    uneven = pc.match_substring_regex(texts, _UNEVEN).to_pylist()
    return [
        uniform(text, is_code=code) if code or one or not unicodedata.is_normalized("NFC", text) else _without_gaps(text)
        for text, code, one in zip(texts.to_pylist(), is_code, uneven, strict=True)
    ]


def _with_phrases(texts: Sequence[str], numbers: Sequence[int], config: CleanConfig) -> list[int]:
    """Of the texts with these numbers, those that have any phrase at all: few, and Arrow's automaton looks for all phrases at once."""
    phrases = "|".join(re.escape(phrase) for phrases in config.line_phrases.values() for phrase in phrases)
    if not phrases:
        return []
    found = pc.match_substring_regex(pa.array([texts[i] for i in numbers], pa.string()), phrases, ignore_case=True)
    return [i for i, has in zip(numbers, found.to_pylist(), strict=True) if has]


def _without_lines(text: str, config: CleanConfig, origin: str, tally: Tally) -> str:
    lowered = text.lower()
    for rule, phrases in config.line_phrases.items():
        if not any(phrase in lowered for phrase in phrases):
            continue
        kept = []
        for line in text.split("\n"):
            if len(line) <= config.phrase_line and any(phrase in line.lower() for phrase in phrases):
                tally.change(rule, origin, line)
            else:
                kept.append(line)
        text = _without_gaps("\n".join(kept))
    return text


def _without_gaps(text: str) -> str:
    while "\n\n\n" in text:
        text = text.replace("\n\n\n", "\n\n")
    return text.strip("\n")


def _objections(texts: Sequence[str], named: Sequence[str], domains: Sequence[str], config: CleanConfig) -> list[str]:
    """Say of each text why it goes, or nothing."""
    found = tokens.tokens(texts)
    singles = np.append(0, np.cumsum(found.single))[found.offsets]
    unspaced = 2 * np.diff(singles) > np.diff(found.offsets)
    tables = [
        config.domain_rules.get(domain, config.code_rules if language == CODE else config.unspaced_rules if single else config.rules)
        for language, domain, single in zip(named, domains, unspaced.tolist(), strict=True)
    ]
    stop_words = [config.stop_words.get(language, ()) for language in named]
    reasons = rules.objections(rules.Measures(texts, found, unspaced, stop_words), tables)
    for i, (text, language) in enumerate(zip(texts, named, strict=True)):
        if config.languages and language not in (*config.languages, CODE):
            reasons[i] = "language"
        if not text.strip():
            reasons[i] = "nothing left"
    return reasons
