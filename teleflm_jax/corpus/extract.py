"""Pages to text: the main content, by resiliparse or trafilatura."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

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
"""Of one element; reading them takes the square of it. All beginnings of `html` or of `body` are one element."""
MAX_OPTIONS = 10_000
"""Of a page; the parser looks at all options of a selection for each."""
MAX_DEPTHS = 50_000_000
"""Sum of the depths at which the tags of a page stand; extraction asks all ancestors of each. The kernel's longest page has 2,000,000."""
MAX_REOPENED = 1_000_000
"""Formatting elements that are open at the tags of a page, summed up. Where an end takes them off, the parser makes all of them anew."""
MAX_ALIKE = 3
"""Open formatting elements with the same attributes; the parser forgets the others."""
_UNCOUNTED = (
    b"area base br col embed hr img input link meta param source track wbr p li dt dd tr td th tbody tfoot colgroup option "
    b"thead html head body path circle rect line polyline polygon ellipse use stop image".split()
)
"""Elements without an end, those whose end may be left out, and pictures' shapes, which end themselves."""
_FORMATTING = b"a b big code em font i nobr s small strike strong tt u".split()
"""Elements that go on behind the end of a block that they begin in. Source: HTML's standard, "the list of active formatting elements"."""
_FORMAT_TAG = re.compile(rb"<(/?)(%s)((?:[\s/][^>]*)?)>" % b"|".join(_FORMATTING), re.IGNORECASE)
_NAME = 16
"""Letters of an element's name that are compared; of longer ones no end counts, so that they seem the deeper."""
_LETTERS = bytes(i if chr(i).isalnum() else 0 for i in range(128)).lower() + bytes(128)
"""Of every byte: what may stand in an element's name, in lower case; 0 for all else."""
_ONES = np.uint64(0x0101010101010101)
_LONG_TAG = 20 * MAX_ATTRIBUTES
"""Bytes; below, or in a page of so many characters, whatever stands in a tag takes no time."""
_READINGS = 4
"""How often a page's length may be read for tags that are one in another, which none of a whole page are."""
_TAG_NAME = re.compile(rb"</?[A-Za-z][^\s/>]*")
_ROOT = re.compile(rb"<(?:body|html)(?=[\s/>])", re.IGNORECASE)
_ROOT_LETTERS = np.frombuffer(b"bBhH", np.uint8), np.frombuffer(b"oOtT", np.uint8)
"""The first two of its name: a search by them takes less time than one by the pattern."""
_ATTRIBUTE = re.compile(rb"[\s/]*[^\s/>][^\s/>=]*(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s>\"'][^\s>]*)?)?")
"""One of a tag, with its value, as HTML's standard reads it."""


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
    beginnings = tags - html.count("</")
    may_be_deep = beginnings > MAX_NESTING or beginnings * tags > MAX_DEPTHS
    if not may_be_deep and len(html) <= _LONG_TAG:
        return ""
    page = html.encode("utf-8", "surrogatepass") + bytes(2 * _NAME)
    at = np.flatnonzero(np.frombuffer(page, np.uint8) == ord("<"))
    reason = _of_nesting(page, at) if may_be_deep else ""
    if not reason and _has_too_many_attributes(page, at):
        reason = f"more than {MAX_ATTRIBUTES} attributes"
    return reason or (f"more than {MAX_OPTIONS:,} options" if tags > MAX_OPTIONS < page.lower().count(b"<option") else "")


def _of_nesting(page: bytes, at: np.ndarray) -> str:
    """Say why the elements that begin or end at places of a page stand in one another as no person would write them; or nothing."""
    is_end = np.frombuffer(page, np.uint8)[at + 1] == ord("/")
    names, is_long = _names(page, at + 1 + is_end)
    # sorted by name, in a name as they stand in the page
    order, first = tokens.ordered(names)
    groups = np.cumsum(first)
    uncounted, formatting = _uncounted()
    own = names[order[first]]
    counted = ~_are_in(own, uncounted)[groups - 1]
    steps = np.where(is_end[order], -1 * ~is_long[order], 1) * counted
    # of each name, how many are open, and the least that would have been so far: where that falls, an end ends nothing and is no step
    sums = np.cumsum(steps)
    least = np.minimum(0, sums - (sums - steps)[first][groups - 1]) - groups * (len(at) + 1)
    least = np.minimum.accumulate(least) + groups * (len(at) + 1)
    steps[least < np.where(first, 0, np.append(0, least[:-1]))] = 0
    depths = _running(steps, order)
    if depths.max() > MAX_NESTING:
        return f"nested deeper than {MAX_NESTING}"
    if depths.sum() > MAX_DEPTHS:
        return "tags nested deeply"
    may_reopen = _running(steps * _are_in(own, formatting)[groups - 1], order).sum() > MAX_REOPENED
    return "formatting elements without end" if may_reopen and _reopened(page) > MAX_REOPENED else ""


def _running(steps: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sum steps up in the order of the page."""
    found = np.empty_like(steps)
    found[order] = steps
    return np.cumsum(found)


def _are_in(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Look values up in sorted ones; np.isin takes as long as the sort of all names."""
    return some[np.searchsorted(some[:-1], values)] == values


def _reopened(page: bytes) -> int:
    """Sum up, over the tags of a page, how many formatting elements are open there; exactly, but for cells of tables, which hide them."""
    opened: dict[bytes, list[bytes]] = {name: [] for name in _FORMATTING}  # name -> attributes of those that are open
    count = total = position = 0
    for tag in _FORMAT_TAG.finditer(page):
        total += count * page.count(b"<", position, tag.start())
        position = tag.start()
        name, attributes = tag[2].lower(), tag[3]
        own = opened[name]
        if not tag[1]:
            if name in (b"a", b"nobr") and own:  # whose beginning ends one before it
                count -= len(own)
                own.clear()
            if own[-MAX_NESTING:].count(attributes) < MAX_ALIKE:
                own.append(attributes)
                count += 1
        elif own:
            own.pop()
            count -= 1
        if total > MAX_REOPENED:
            break
    return total + count * page.count(b"<", position)


def _has_too_many_attributes(page: bytes, at: np.ndarray) -> bool:
    """Whether an element has more attributes than any person would write; long values, as of pictures, are none."""
    letters = np.frombuffer(page, np.uint8)
    ends = np.append(np.flatnonzero(letters == ord(">")), len(page))
    # a tag may have both signs in its values, so it may go on to the farther of them
    lengths = np.maximum(ends[np.searchsorted(ends, at)], np.append(at[1:], len(page))) - at
    spent = of_roots = 0
    for start in at[lengths > _LONG_TAG].tolist():
        tag = _TAG_NAME.match(page, start)
        count, end = _attributes(page, tag.end()) if tag else (0, start)
        spent += end - start
        if count > MAX_ATTRIBUTES or spent > _READINGS * len(page):
            return True
    may_be_root = np.isin(letters[at + 1], _ROOT_LETTERS[0]) & np.isin(letters[at + 2], _ROOT_LETTERS[1])
    for start in at[may_be_root].tolist():
        root = _ROOT.match(page, start)
        of_roots += _attributes(page, root.end())[0] if root else 0
        if of_roots > MAX_ATTRIBUTES:
            return True
    return False


def _attributes(page: bytes, start: int) -> tuple[int, int]:
    """Count the attributes behind a tag's name, up to one more than there may be; with the place behind the last."""
    count = 0
    while count <= MAX_ATTRIBUTES and (found := _ATTRIBUTE.match(page, start)):
        count, start = count + 1, found.end()
    return count, start


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
def _uncounted() -> tuple[np.ndarray, np.ndarray]:
    """Hashes of what does not count, and of formatting elements, each in order."""
    return _hashes((b"", *_UNCOUNTED)), _hashes(_FORMATTING)


def _hashes(names: Sequence[bytes]) -> np.ndarray:
    page = b"".join(name.ljust(_NAME + 1, b"\0") for name in names) + bytes(_NAME)
    return np.sort(_names(page, (_NAME + 1) * np.arange(len(names)))[0])


def extracted_text(html: str) -> str:
    """Give a page's main text, by resiliparse; `objection` has been asked before."""
    page = markup.mended(html)
    text = extract_plain_text(page, preserve_formatting=True, main_content=True, list_bullets=True, alt_texts=False, links=False)
    return text.replace(markup.MARK, "")


def _trafilatura(html: str) -> str:
    import trafilatura  # slow to import

    return trafilatura.extract(html, include_comments=False, include_tables=True, favor_precision=True) or ""
