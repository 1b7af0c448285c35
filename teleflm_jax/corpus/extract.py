"""Pages to text: the main content, by resiliparse or trafilatura."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
from resiliparse.extract.html2text import extract_plain_text

from teleflm_jax.corpus import files, markup, rows, tokens
from teleflm_jax.corpus.charsets import decode
from teleflm_jax.corpus.config import ExtractConfig
from teleflm_jax.corpus.tally import Tally

MAX_NESTING = 1000
"""Elements inside one another; extraction takes the square of it, and nobody writes such pages."""
MAX_TAGS = 500_000
"""Of a page, beginnings and ends; a tree of more takes gigabytes and minutes. The longest page of the kernel's has 200,000."""
MAX_ATTRIBUTES = 1000
"""Of one element; reading them takes the square of it."""
_UNCOUNTED = (
    b"area base br col embed hr img input link meta param source track wbr p li dt dd tr td th tbody tfoot colgroup option "
    b"thead html head body path circle rect line polyline polygon ellipse use stop image".split()
)
"""Elements without an end, those whose end may be left out, and pictures' shapes, which end themselves."""
_NAME = 16
"""Letters of an element's name that are compared; of longer ones no end counts, so that they seem the deeper."""
_LETTERS = bytes(i if chr(i).isalnum() else 0 for i in range(128)).lower() + bytes(128)
"""Of every byte: what may stand in an element's name, in lower case; 0 for all else."""
_ONES = np.uint64(0x0101010101010101)
_LONG_TAG = 20 * MAX_ATTRIBUTES
"""Bytes; below, or in a page of so many characters, whatever stands in a tag takes no time."""
_QUOTED, _ATTRIBUTE = re.compile(rb"\"[^\"]*\"|'[^']*'"), re.compile(rb"[^\s/\"'=]+")


def extract(
    batches: Iterable[pa.RecordBatch], tally: Tally, *, domain: str, source: str, config: ExtractConfig
) -> Iterator[pa.RecordBatch]:
    """Turn what readers found into documents.

    Args:
        batches: of `rows.FOUND`.
        tally: counts pages that yield no text.
        domain: of the source.
        source: where they come from.
        config: settings.
    """
    main_content = {"resiliparse": extracted_text, "trafilatura": _trafilatura}[config.extractor]
    found = itertools.chain.from_iterable(_documents(batch, tally, domain, source, main_content) for batch in batches)
    yield from rows.batches(found, rows.DOCUMENT)  # of a batch of pages a fifth is text: several make one


def _documents(batch: pa.RecordBatch, tally: Tally, domain: str, source: str, main_content: Callable[[str], str]) -> Iterator[tuple]:
    for number, kind, origin, family, date, charset, content in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        text = decode(content, charset)
        if text is None:
            tally.drop("unknown character set", origin, content)
            continue
        if kind == "html":
            if reason := objection(text):
                tally.drop(reason, origin, text)
                continue
            text = main_content(text)
        if "\0" in text:
            if files.is_binary(text.encode("utf-8", "replace")):
                tally.drop("binary", origin, content)
                continue
            tally.change(files.ZEROS, origin, "\0" * text.count("\0"))
            text = text.replace("\0", "")
        if not text.strip():
            tally.drop("no text", origin, content)
            continue
        yield number, domain, source, origin, family, date, "code" if kind == "code" else "", None, text


def objection(html: str) -> str:
    """Say why a page would take the square of its length to read; empty if it does not."""
    tags = html.count("<")
    if tags > MAX_TAGS:
        return f"more than {MAX_TAGS:,} tags"
    may_be_deep = tags > MAX_NESTING and tags - html.count("</") > MAX_NESTING
    if not may_be_deep and len(html) <= _LONG_TAG:
        return ""
    page = html.encode("utf-8", "surrogatepass") + bytes(2 * _NAME)
    at = np.flatnonzero(np.frombuffer(page, np.uint8) == ord("<"))
    if may_be_deep and _is_too_nested(page, at):
        return f"nested deeper than {MAX_NESTING}"
    return f"more than {MAX_ATTRIBUTES} attributes" if _has_too_many_attributes(page, at) else ""


def _is_too_nested(page: bytes, at: np.ndarray) -> bool:
    """Whether the elements that begin or end at places of a page stand in one another deeper than any person would write them."""
    is_end = np.frombuffer(page, np.uint8)[at + 1] == ord("/")
    names, is_long = _names(page, at + 1 + is_end)
    # sorted by name, in a name as they stand in the page
    order, first = tokens.ordered(names)
    groups = np.cumsum(first)
    uncounted, own = _uncounted(), names[order[first]]  # looked up by hand, since np.isin takes as long as the sort
    counted = (uncounted[np.searchsorted(uncounted[:-1], own)] != own)[groups - 1]
    steps = np.where(is_end[order], -1 * ~is_long[order], 1) * counted
    # of each name, how many are open, and the least that would have been so far: where that falls, an end ends nothing and is no step
    sums = np.cumsum(steps)
    least = np.minimum(0, sums - (sums - steps)[first][groups - 1]) - groups * (len(at) + 1)
    least = np.minimum.accumulate(least) + groups * (len(at) + 1)
    steps[least < np.where(first, 0, np.append(0, least[:-1]))] = 0
    depths = np.empty_like(steps)
    depths[order] = steps
    return bool(np.cumsum(depths).max() > MAX_NESTING)


def _has_too_many_attributes(page: bytes, at: np.ndarray) -> bool:
    """Whether an element has more attributes than any person would write; long values, as of pictures, are none."""
    at = np.append(at, len(page))
    tags = (page[at[i] + 1 : at[i + 1]] for i in np.flatnonzero(np.diff(at) > _LONG_TAG))
    return any(tag[:1].isalpha() and len(_ATTRIBUTE.findall(_QUOTED.sub(b'"', tag).partition(b">")[0])) > MAX_ATTRIBUTES for tag in tags)


def _names(page: bytes, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hashes of the elements' names that begin at places of a page, 64 bits, and whether they are longer than `_NAME`; 0 for no name."""
    letters = np.frombuffer(page.translate(_LETTERS), np.uint8)
    eights = np.ndarray(len(page) - 7, "<u8", letters, strides=(1,))  # at every place the eight bytes from there on

    def half(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = eights[places]
        zeros = (values - _ONES) & ~values & (_ONES << np.uint64(7))  # the lowest bit marks the first byte that is 0
        lowest = zeros & (~zeros + np.uint64(1))
        return values & ((lowest >> np.uint64(7)) - np.uint64(1)), zeros == 0

    hashes, whole = half(starts)
    is_name = letters[starts] >= ord("a")
    hashes = tokens.mix(np.where(is_name, hashes, 0))
    longer = np.flatnonzero(whole & is_name)  # few have more than eight letters
    rest, whole = half(starts[longer] + _NAME // 2)
    hashes[longer] = tokens.mix(hashes[longer] + rest)
    is_long = np.zeros(len(starts), bool)
    is_long[longer] = whole & (letters[starts[longer] + _NAME] > 0)
    return hashes, is_long


@functools.cache
def _uncounted() -> np.ndarray:
    """Hashes of what does not count, in order."""
    page = b"".join(name.ljust(_NAME + 1, b"\0") for name in (b"", *_UNCOUNTED)) + bytes(_NAME)
    return np.sort(_names(page, (_NAME + 1) * np.arange(len(_UNCOUNTED) + 1))[0])


def extracted_text(html: str) -> str:
    """Give a page's main text, by resiliparse; `objection` has been asked before."""
    page = markup.mended(html)
    text = extract_plain_text(page, preserve_formatting=True, main_content=True, list_bullets=True, alt_texts=False, links=False)
    return text.replace(markup.MARK, "")


def _trafilatura(html: str) -> str:
    import trafilatura  # slow to import

    return trafilatura.extract(html, include_comments=False, include_tables=True, favor_precision=True) or ""
