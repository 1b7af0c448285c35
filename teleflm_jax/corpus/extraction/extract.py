"""Extraction of the main text of HTML pages, with resiliparse or trafilatura."""

import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from resiliparse.extract.html2text import extract_plain_text

from teleflm_jax.corpus import rows, tokens
from teleflm_jax.corpus.config import ExtractConfig
from teleflm_jax.corpus.extraction import markup
from teleflm_jax.documents import files
from teleflm_jax.documents.charsets import decode
from teleflm_jax.documents.statistics import Statistics

MAX_NESTING = 1000
"""Maximum nesting of elements; extraction takes quadratic time, and people do not write deeper pages."""
TOO_DEEP = f"nested deeper than {MAX_NESTING}"
MAX_TAGS = 500_000
"""Maximum start and end tags of a page; a larger tree takes gigabytes and minutes. The longest page of the kernel has 200,000."""
MAX_ATTRIBUTES = 1000
"""Maximum attributes of an element; parsing takes quadratic time. All start tags of `html` or `body` count as one element."""
MAX_OPTIONS = 10_000
"""Maximum options of a page; for each of them the parser visits the whole selection."""
MAX_DEPTHS = 50_000_000
"""Maximum sum of the depths of a page's tags; extraction visits all ancestors of each. The kernel's longest page has 2,000,000."""
MAX_REOPENED = 1_000_000
"""Maximum sum, over the tags of a page, of open formatting elements; the parser recreates all of them after an end tag."""
MAX_ALIKE = 3
"""Maximum open formatting elements with equal attributes; the parser drops further ones."""
_UNCOUNTED = (
    b"area base br col embed hr img input link meta param source track wbr p li dt dd tr td th tbody tfoot colgroup option "
    b"thead html head body path circle rect line polyline polygon ellipse use stop image".split()
)
"""Elements without an end tag, with an optional end tag, and SVG shapes, which are self-closing."""
_FORMATTING = b"a b big code em font i nobr s small strike strong tt u".split()
"""Elements that continue after the end of their block. Source: the HTML standard, "the list of active formatting elements"."""
_FORMAT_TAG = re.compile(rb"<(/?)(%s)(?=[\s/>])" % b"|".join(_FORMATTING), re.IGNORECASE)
_ALIKE_BYTES = 200
"""Maximum bytes of attributes that are compared; longer ones count as different from all others."""
_RAW = b"script style textarea title xmp iframe noembed noframes noscript plaintext".split()
_HIDING = re.compile(rb"<(?:!(--)?|\?|/|(%s)(?=[\s/>]))" % b"|".join(_RAW))
"""Start of comments, declarations and raw text, in which end tags have no effect."""
_NAME = 16
"""Letters of an element's name that are compared; end tags of longer names are not counted, which overestimates the depth."""
_LETTERS = bytes(i if chr(i).isalnum() else 0 for i in range(128)).lower() + bytes(128)
"""Byte -> lower-case letter or digit of an element's name; 0 for all other bytes."""
_ONES = np.uint64(0x0101010101010101)
_LONG_TAG = 20 * MAX_ATTRIBUTES
"""Bytes below which the content of a tag, or of a whole page, takes negligible time."""
_VALUE_WITH_SIGN = r"=\s*(?:\"[^\">]*>|'[^'>]*>)"
"""Arrow pattern of a value with `>`, in half the time; most pages have none."""
_BLANKS = 64
"""Bytes before a quotation mark that are searched for an equals sign."""
_READINGS = 4
"""Maximum bytes read for tags inside tags, as a multiple of the page's length; well-formed pages have no such tags."""
_TAG_NAME = re.compile(rb"</?[A-Za-z][^\s/>]*")
_ROOT = re.compile(rb"<(?:body|html)(?=[\s/>])", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"[\s/]*[^\s/>][^\s/>=]*(?:\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s>\"'][^\s>]*)?)?")
"""An attribute with its value, according to the HTML standard."""


def extract(
    batches: Iterable[pa.RecordBatch], statistics: Statistics, *, domain: str, source: str, config: ExtractConfig
) -> Iterator[pa.RecordBatch]:
    """Turn raw documents into documents of text.

    Args:
        batches: Batches of `rows.RAW_DOCUMENT`.
        statistics: Counts pages that yield no text.
        domain: Domain of the source.
        source: Name of the source.
        config: Settings.
    """
    main_content = {"resiliparse": extracted_text, "trafilatura": _trafilatura}[config.extractor]
    found = itertools.chain.from_iterable(_documents(batch, statistics, domain, source, main_content) for batch in batches)
    yield from rows.batches(found, rows.DOCUMENT)  # text is a fifth of a page, so several batches of pages are merged into one


def _documents(
    batch: pa.RecordBatch, statistics: Statistics, domain: str, source: str, main_content: Callable[[str], str]
) -> Iterator[tuple]:
    for number, kind, origin, family, date, charset, content in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        text = decode(content, charset)
        if text is None:
            statistics.drop("unknown character set", origin, content)
            continue
        if kind == "html":
            if reason := rejection_reason(text):
                statistics.drop(reason, origin, text)
                continue
            try:
                text = main_content(text)
            except markup.TooDeep:
                statistics.drop(TOO_DEEP, origin, text)
                continue
        if "\0" in text:
            if files.is_binary(text.encode("utf-8", "replace")):
                statistics.drop("binary", origin, content)
                continue
            statistics.change(files.ZEROS, origin, "\0" * text.count("\0"))
            text = text.replace("\0", "")
        if not text.strip():
            statistics.drop("no text", origin, content)
            continue
        yield number, domain, source, origin, family, date, "code" if kind == "code" else "", None, text


def rejection_reason(html: str) -> str:
    """Return why a page would take quadratic time to extract; empty if it does not."""
    tags = html.count("<")
    if tags > MAX_TAGS:
        return f"more than {MAX_TAGS:,} tags"
    if tags <= MAX_NESTING and len(html) <= _LONG_TAG:
        return ""
    page = html.encode("utf-8", "surrogatepass") + bytes(2 * _NAME)
    at = np.flatnonzero(np.frombuffer(page, np.uint8) == ord("<"))
    second = np.frombuffer(page, np.uint8)[at + 1]
    is_end = second == ord("/")
    beginnings = tags - int(np.count_nonzero(is_end))
    in_values = _in_values(page)
    may_be_nested = beginnings > MAX_NESTING or beginnings * tags > MAX_DEPTHS
    if may_be_nested and (reason := _nesting_reason(page, at, is_end, in_values)):
        return reason
    if _has_too_many_attributes(page, at, second | 0x20, in_values):
        return f"more than {MAX_ATTRIBUTES} attributes"
    if tags > MAX_OPTIONS and page.lower().count(b"<option") > MAX_OPTIONS:
        return f"more than {MAX_OPTIONS:,} options"
    return ""


def _nesting_reason(page: bytes, at: np.ndarray, is_end: np.ndarray, in_values: np.ndarray) -> str:
    """Return why the nesting of a page's elements is refused; empty if it is accepted."""
    names, is_long = _names(page, at + 1 + is_end)
    # sorted by name, and by position within a name
    order, first = tokens.ordered(names)
    groups = np.cumsum(first)
    uncounted, formatting, raw = _known_hashes()
    own = names[order[first]]
    counted = ~_are_in(own, uncounted)[groups - 1]
    steps = np.where(is_end[order], -1 * ~is_long[order], 1) * counted
    # the number of open elements by name, and its minimum so far: where the minimum falls, an end tag closes nothing and is not a step
    sums = np.cumsum(steps)
    least = np.minimum(0, sums - (sums - steps)[first][groups - 1]) - groups * (len(at) + 1)
    least = np.minimum.accumulate(least) + groups * (len(at) + 1)
    steps[least < np.where(first, 0, np.append(0, least[:-1]))] = 0
    depths = _running(steps, order)
    if depths.max() > MAX_NESTING:
        return TOO_DEEP
    if depths.sum() > MAX_DEPTHS:
        return "tags nested deeply"
    of_formatting = _are_in(own, formatting)[groups - 1]
    if np.count_nonzero(of_formatting & ~is_end[order]) * len(at) <= MAX_REOPENED:
        return ""
    places = np.flatnonzero(is_end & _in_order(of_formatting, order))
    letters = np.frombuffer(page, np.uint8)
    is_open = (letters[at + 1 + is_end] | 0x20) - ord("a") > ord("z") - ord("a")  # not a letter; bytes wrap around below 0
    hides = is_open & (is_end | np.isin(letters[at + 1], np.frombuffer(b"!?", np.uint8))) | ~is_end & _in_order(
        _are_in(own, raw)[groups - 1], order
    )
    hidden = _hidden(page, at[hides], in_values)
    unseen = np.count_nonzero(_is_hidden(page, at, places, hidden))
    may_reopen = _running(steps * of_formatting, order).sum() + unseen * len(at) > MAX_REOPENED
    return "formatting elements without end" if may_reopen and _reopened(page, hidden) > MAX_REOPENED else ""


def _is_hidden(page: bytes, at: np.ndarray, places: np.ndarray, hidden: list[tuple[int, int]]) -> np.ndarray:
    """Return, for tags given by index, True if they are in a hidden part or in another tag."""
    signs = np.flatnonzero(np.frombuffer(page, np.uint8) == ord(">"))
    in_tag = np.searchsorted(signs, at[places]) == np.searchsorted(signs, at[places - 1])
    parts = np.array([(0, 0), *hidden])
    return in_tag | (at[places] < parts[np.searchsorted(parts[:, 0], at[places]) - 1, 1])


def _in_order(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return values in the order of the page."""
    found = np.empty_like(values)
    found[order] = values
    return found


def _running(steps: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return cumulative sums of steps in the order of the page."""
    return np.cumsum(_in_order(steps, order))


def _are_in(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Return which values are in a sorted array; np.isin takes as long as sorting all names."""
    return some[np.searchsorted(some[:-1], values)] == values


def _reopened(page: bytes, hidden: list[tuple[int, int]]) -> int:
    """Return the sum, over the tags of a page, of formatting elements that may be open there, ignoring that table cells hide some."""
    opened: dict[bytes, list[bytes]] = {name: [] for name in _FORMATTING}  # name -> attributes of the open elements
    count = total = position = end = region = 0
    for tag in _FORMAT_TAG.finditer(page):
        total += count * page.count(b"<", position, tag.start())
        if total > MAX_REOPENED:
            break
        position, name = tag.start(), tag[2].lower()
        own = opened[name]
        if tag[1]:
            while region < len(hidden) and hidden[region][1] <= position:
                region += 1
            is_hidden = region < len(hidden) and hidden[region][0] < position
            if own and not is_hidden and page.rfind(b">", page.rfind(b"<", 0, position) + 1, position) >= 0:
                own.pop()
                count -= 1
            continue
        if 0 <= end < tag.end():
            end = page.find(b">", tag.end())
        attributes = page[tag.end() : end] if 0 <= end - tag.end() < _ALIKE_BYTES else b"%d" % position
        if name in (b"a", b"nobr") and own:  # their start tag closes an open one
            count -= len(own)
            own.clear()
        if own[-MAX_NESTING:].count(attributes) < MAX_ALIKE:
            own.append(attributes)
            count += 1
    return total + count * page.count(b"<", position)


def _hidden(page: bytes, openings: np.ndarray, in_values: np.ndarray) -> list[tuple[int, int]]:
    """Return the disjoint parts of a page, in order, in which end tags may have no effect."""
    lower = page.lower()
    nearest: dict[bytes, int] = {}  # terminator of a part -> its next position
    parts = [(place, page.find(page[quote : quote + 1], place) % (len(page) + 1)) for place, quote in in_values.tolist()]
    for opening in filter(None, (_HIDING.match(lower, start) for start in openings.tolist())):
        mark = b"</" + opening[2] if opening[2] else b"-->" if opening[1] else b">"
        if nearest.get(mark, 0) < opening.end():
            nearest[mark] = lower.find(mark, opening.end()) % (len(page) + 1)  # without a terminator: the end of the page
        parts.append((opening.start(), nearest[mark]))
    apart: list[tuple[int, int]] = []
    for start, end in sorted(parts):
        if apart and start <= apart[-1][1]:
            apart[-1] = apart[-1][0], max(end, apart[-1][1])
        else:
            apart.append((start, end))
    return apart


def _in_values(page: bytes) -> np.ndarray:
    """Find each `>` that may be in an attribute's value, with the quotation mark before it: [n, 2], in order."""
    if not pc.match_substring_regex(pa.array([page]), _VALUE_WITH_SIGN)[0].as_py():
        return np.empty((0, 2), int)
    letters = np.frombuffer(page, np.uint8)
    found = []
    for mark in b"\"'":
        events = np.flatnonzero((letters == mark) | (letters == ord(">")))
        is_mark = letters[events] == mark
        places = np.flatnonzero(is_mark[:-1] & ~is_mark[1:])
        before = letters[events[places] - 1]
        may_begin = before == ord("=")
        for i in np.flatnonzero(before <= ord(" ")).tolist():
            may_begin[i] = _follows_equals(page, int(events[places[i]]))
        places = places[may_begin]
        found.append(np.stack([events[places + 1], events[places]], 1))
    both = np.concatenate(found)
    return both[np.argsort(both[:, 0])]


def _follows_equals(page: bytes, quote: int) -> bool:
    """Return True if a quotation mark may start a value; a run of _BLANKS blanks, which people do not write, counts as an equals sign."""
    return page[max(0, quote - _BLANKS) : quote].rstrip()[-1:] in (b"=", b"")


def _has_too_many_attributes(page: bytes, at: np.ndarray, second: np.ndarray, in_values: np.ndarray) -> bool:
    """Return True if an element has more than MAX_ATTRIBUTES attributes; long values, such as embedded pictures, do not count.

    Args:
        page: The page.
        at: Positions of its tags.
        second: Second letters of the tags, in lower case.
        in_values: Result of `_in_values`; the first `>` of a tag that is not in it is the end of the tag.
    """
    spent = of_roots = 0
    ends = in_values[:, 0].tolist() + _distant_tag_ends(page)
    for end in sorted(set(ends)):
        first = page.rfind(b">", 0, end) + 1
        for start in at[slice(*np.searchsorted(at, (first, end)))].tolist():
            tag = _TAG_NAME.match(page, start)
            count, behind = _attributes(page, tag.end()) if tag else (0, start)
            spent += behind - start
            if count > MAX_ATTRIBUTES or spent > _READINGS * len(page):
                return True
    roots = at[(second == ord("b")) | (second == ord("h"))]
    third = np.frombuffer(page, np.uint8)[roots + 2] | 0x20
    for start in roots[(third == ord("o")) | (third == ord("t"))].tolist():
        root = _ROOT.match(page, start)
        of_roots += _attributes(page, root.end())[0] if root else 0
        if of_roots > MAX_ATTRIBUTES:
            return True
    return False


def _distant_tag_ends(page: bytes) -> list[int]:
    """Return each `>`, or the page's end, that is so far after the previous one that the tag between them may be long."""
    found, position = [], 0
    while len(page) - position > _LONG_TAG:
        last = page.rfind(b">", position, position + _LONG_TAG)
        if last < 0:
            last = page.find(b">", position) % (len(page) + 1)
            found.append(last)
        position = last + 1
    return found


def _attributes(page: bytes, start: int) -> tuple[int, int]:
    """Return the number of attributes after a tag's name, at most MAX_ATTRIBUTES + 1, and the position after the last."""
    count = 0
    while count <= MAX_ATTRIBUTES and (found := _ATTRIBUTE.match(page, start)):
        count, start = count + 1, found.end()
    return count, start


def _names(page: bytes, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return 64-bit hashes of the element names at positions of a page, 0 for no name, and whether they are longer than _NAME."""
    letters = np.frombuffer(page.translate(_LETTERS), np.uint8)
    eights = np.ndarray(len(page) - 7, "<u8", letters, strides=(1,))  # the eight bytes from every position on

    def half(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = eights[places]
        zeros = (values - _ONES) & ~values & (_ONES << np.uint64(7))  # the lowest bit marks the first byte that is 0
        lowest = zeros & (~zeros + np.uint64(1))
        return values & ((lowest >> np.uint64(7)) - np.uint64(1)), zeros == 0

    hashes, whole = half(starts)
    is_name = letters[starts] >= ord("a")
    hashes = tokens.mix(np.where(is_name, hashes, 0))
    longer = np.flatnonzero(whole & is_name)  # few names have more than eight letters
    rest, whole = half(starts[longer] + _NAME // 2)
    hashes[longer] = tokens.mix(hashes[longer] + rest)
    is_long = np.zeros(len(starts), bool)
    is_long[longer] = whole & (letters[starts[longer] + _NAME] > 0)
    return hashes, is_long


@functools.cache
def _known_hashes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the sorted hashes of uncounted, formatting and raw-text elements."""
    return _hashes((b"", *_UNCOUNTED)), _hashes(_FORMATTING), _hashes(_RAW)


def _hashes(names: Sequence[bytes]) -> np.ndarray:
    page = b"".join(name.ljust(_NAME + 1, b"\0") for name in names) + bytes(_NAME)
    return np.sort(_names(page, (_NAME + 1) * np.arange(len(names)))[0])


def extracted_text(html: str) -> str:
    """Extract a page's main text with resiliparse; the page must have passed `rejection_reason`.

    Raises:
        markup.TooDeep: The elements are nested too deeply.
    """
    page = markup.repaired(html, MAX_NESTING)
    text = extract_plain_text(page, preserve_formatting=True, main_content=True, list_bullets=True, alt_texts=False, links=False)
    return text.replace(markup.MARK, "")


def _trafilatura(html: str) -> str:
    import trafilatura  # slow to import

    return trafilatura.extract(html, include_comments=False, include_tables=True, favor_precision=True) or ""
