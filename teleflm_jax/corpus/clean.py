"""Text made uniform, its language named, boilerplate lines and personal data taken out, and documents dropped that a rule objects to."""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence

import ftfy
import numpy as np
import pyarrow as pa
from ftfy.badness import is_bad
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from teleflm_jax.corpus import privacy, rows, rules, tokens
from teleflm_jax.corpus.config import CODE, CleanConfig
from teleflm_jax.corpus.tally import Tally

LANGUAGE_CHARACTERS = 1000
"""Of a text's beginning, by which its language is named."""
_CONTINUING = bytes(range(0x80, 0xC0))
_TWICE_DECODED = re.compile(f"[\x80-\x9f]|[\xc2-\xf4][{re.escape(_CONTINUING.decode('latin-1') + _CONTINUING.decode('cp1252', 'ignore'))}]")
"""Windows-1252 read as Latin-1, and UTF-8 read as one of these: a first byte and a second. Looked for first, since ftfy's own test takes
longer than all the rest; what was read wrongly in other ways is not mended."""
_LINE_ENDS = re.compile(r"\r\n?|[\u2028\u2029\x85]")
_DROPPED = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b\u2060\ufeff\ufff9-\ufffb]")
_DROPPED_LAST = re.compile(r"[\x80-\x84\x86-\x9f\u00ad]")
"""Where text was decoded wrongly, these are bytes of its characters."""
_SPACES = re.compile(r"[\u00a0\u2000-\u200a\u202f\u205f]")
_TRAILING = re.compile(r"[ \t\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile(r"\n{3,}")


def clean(batches: Iterable[pa.RecordBatch], tally: Tally, *, config: CleanConfig) -> Iterator[pa.RecordBatch]:
    """Clean documents.

    Args:
        batches: of `rows.DOCUMENT`.
        tally: counts what each rule drops or changes.
        config: rules and thresholds.
    """
    for batch in batches:
        origins, domains = batch["origin"].to_pylist(), batch["domain"].to_pylist()
        languages, before = batch["language"].to_pylist(), batch["text"].to_pylist()
        texts: list[str | None] = []
        for i, text in enumerate(before):
            is_code = languages[i] == CODE
            text = uniform(text, is_code=is_code)
            if not is_code:
                languages[i] = language_of(text)
                text = _without_lines(text, config, origins[i], tally)
            text, masked = privacy.mask(text, config.mask)
            for kind, what in masked:
                tally.change(f"{kind} masked", origins[i], "*" * len(what))
            texts.append(text)
        found = tokens.tokens(texts)
        for i, text in enumerate(texts):
            reason = _objection(text, found, i, languages[i], domains[i], config)
            if reason:
                tally.drop(reason, origins[i], text)
                texts[i] = None
        yield rows.with_text(batch, texts, language=languages)


def uniform(text: str, *, is_code: bool = False) -> str:
    """Give line ends, spaces and composed characters one form; drop control characters; mend text that was decoded wrongly.

    Of code, line ends and control characters alone.
    """
    text = _DROPPED.sub("", text)
    if not is_code and _TWICE_DECODED.search(text) and is_bad(text):
        text = _DROPPED.sub("", ftfy.fix_encoding(text))
    text = _DROPPED_LAST.sub("", _LINE_ENDS.sub("\n", text))
    if is_code:
        return text.strip("\n") + "\n"
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    return _BLANK_LINES.sub("\n\n", _TRAILING.sub("", _SPACES.sub(" ", text))).strip("\n")


def language_of(text: str) -> str:
    """Name a text's language by its beginning: ISO 639-1."""
    return _identifier().classify(text[:LANGUAGE_CHARACTERS])[0]


@functools.cache
def _identifier() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE)


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
        text = _BLANK_LINES.sub("\n\n", "\n".join(kept)).strip("\n")
    return text


def _objection(text: str, found: tokens.Tokens, index: int, language: str, domain: str, config: CleanConfig) -> str:
    if not text.strip():
        return "nothing left"
    if config.languages and language not in (*config.languages, CODE):
        return "language"
    at = found.of(index)
    unspaced = bool(2 * np.count_nonzero(found.single[at]) > at.stop - at.start)
    thresholds = config.domain_rules.get(
        domain, config.code_rules if language == CODE else config.unspaced_rules if unspaced else config.rules
    )
    stop_words: Sequence[str] = config.stop_words.get(language, ())
    return rules.objection(rules.Measures(text, found.hashes[at], found.lengths[at], unspaced, frozenset(stop_words)), thresholds)
