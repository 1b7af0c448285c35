"""Pages to text: the main content, by resiliparse or trafilatura."""

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
from teleflm_jax.documents.statistics import Tally

MAX_NESTING = 1000
"""Elements inside one another; extraction takes the square of it, and nobody writes such pages."""
TOO_DEEP = f"nested deeper than {MAX_NESTING}"
MAX_TAGS = 500_000
"""Of a page, beginnings and ends; a tree of more takes gigabytes and minutes. The longest page of the kernel's has 200,000."""
MAX_ATTRIBUTES = 1000
"""Attributes of one element; reading them takes the square of it. All beginnings of `html` or of `body` are one element."""
MAX_OPTIONS = 10_000
"""Options of a page; for each of them the parser looks at all of its selection."""
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
_FORMAT_TAG = re.compile(rb"<(/?)(%s)(?=[\s/>])" % b"|".join(_FORMATTING), re.IGNORECASE)
_ALIKE_BYTES = 200
"""Bytes of attributes that are compared; longer ones are taken to be unlike all others."""
_RAW = b"script style textarea title xmp iframe noembed noframes noscript plaintext".split()
_HIDING = re.compile(rb"<(?:!(--)?|\?|/|(%s)(?=[\s/>]))" % b"|".join(_RAW))
"""Comments, declarations and raw text: an end of an element in them ends nothing."""
_NAME = 16
"""Letters of an element's name that are compared; of longer ones no end counts, so that they seem the deeper."""
_LETTERS = bytes(i if chr(i).isalnum() else 0 for i in range(128)).lower() + bytes(128)
"""Of every byte: what may stand in an element's name, in lower case; 0 for all else."""
_ONES = np.uint64(0x0101010101010101)
_LONG_TAG = 20 * MAX_ATTRIBUTES
"""Bytes; below, or in a page of so many characters, whatever stands in a tag takes no time."""
_VALUE_WITH_SIGN = r"=\s*(?:\"[^\">]*>|'[^'>]*>)"
"""For Arrow, in half the time: most pages have none."""
_BLANKS = 64
"""Bytes before a quotation mark that are looked at for what it stands behind."""
_READINGS = 4
"""Times a page's length that may be read for tags that are one in another, which none of a whole page are."""
_TAG_NAME = re.compile(rb"</?[A-Za-z][^\s/>]*")
_ROOT = re.compile(rb"<(?:body|html)(?=[\s/>])", re.IGNORECASE)
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
            try:
                text = main_content(text)
            except markup.TooDeep:
                tally.drop(TOO_DEEP, origin, text)
                continue
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
    if tags <= MAX_NESTING and len(html) <= _LONG_TAG:
        return ""
    page = html.encode("utf-8", "surrogatepass") + bytes(2 * _NAME)
    at = np.flatnonzero(np.frombuffer(page, np.uint8) == ord("<"))
    second = np.frombuffer(page, np.uint8)[at + 1]
    is_end = second == ord("/")
    beginnings = tags - int(np.count_nonzero(is_end))
    in_values = _in_values(page)
    may_be_nested = beginnings > MAX_NESTING or beginnings * tags > MAX_DEPTHS
    if may_be_nested and (reason := _of_nesting(page, at, is_end, in_values)):
        return reason
    if _has_too_many_attributes(page, at, second | 0x20, in_values):
        return f"more than {MAX_ATTRIBUTES} attributes"
    if tags > MAX_OPTIONS and page.lower().count(b"<option") > MAX_OPTIONS:
        return f"more than {MAX_OPTIONS:,} options"
    return ""


def _of_nesting(page: bytes, at: np.ndarray, is_end: np.ndarray, in_values: np.ndarray) -> str:
    """Say why the elements that begin or end at places of a page stand in one another as no person would write them; or nothing."""
    names, is_long = _names(page, at + 1 + is_end)
    # sorted by name, in a name as they stand in the page
    order, first = tokens.ordered(names)
    groups = np.cumsum(first)
    uncounted, formatting, raw = _known_hashes()
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
        return TOO_DEEP
    if depths.sum() > MAX_DEPTHS:
        return "tags nested deeply"
    of_formatting = _are_in(own, formatting)[groups - 1]
    if np.count_nonzero(of_formatting & ~is_end[order]) * len(at) <= MAX_REOPENED:
        return ""
    places = np.flatnonzero(is_end & _in_order(of_formatting, order))
    letters = np.frombuffer(page, np.uint8)
    is_open = (letters[at + 1 + is_end] | 0x20) - ord("a") > ord("z") - ord("a")  # no letter: of bytes, so that none is below 0
    hides = is_open & (is_end | np.isin(letters[at + 1], np.frombuffer(b"!?", np.uint8))) | ~is_end & _in_order(
        _are_in(own, raw)[groups - 1], order
    )
    hidden = _hidden(page, at[hides], in_values)
    unseen = np.count_nonzero(_is_unseen(page, at, places, hidden))
    may_reopen = _running(steps * of_formatting, order).sum() + unseen * len(at) > MAX_REOPENED
    return "formatting elements without end" if may_reopen and _reopened(page, hidden) > MAX_REOPENED else ""


def _is_unseen(page: bytes, at: np.ndarray, places: np.ndarray, hidden: list[tuple[int, int]]) -> np.ndarray:
    """Say of tags, given by their numbers, whether they stand in a hidden part, or in another tag."""
    signs = np.flatnonzero(np.frombuffer(page, np.uint8) == ord(">"))
    in_tag = np.searchsorted(signs, at[places]) == np.searchsorted(signs, at[places - 1])
    parts = np.array([(0, 0), *hidden])
    return in_tag | (at[places] < parts[np.searchsorted(parts[:, 0], at[places]) - 1, 1])


def _in_order(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Bring values into the order of the page."""
    found = np.empty_like(values)
    found[order] = values
    return found


def _running(steps: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sum steps up in the order of the page."""
    return np.cumsum(_in_order(steps, order))


def _are_in(values: np.ndarray, some: np.ndarray) -> np.ndarray:
    """Look values up in sorted ones; np.isin takes as long as the sort of all names."""
    return some[np.searchsorted(some[:-1], values)] == values


def _reopened(page: bytes, hidden: list[tuple[int, int]]) -> int:
    """Sum up, over the tags of a page, how many formatting elements may be open there; cells of tables hide some, which is left out."""
    opened: dict[bytes, list[bytes]] = {name: [] for name in _FORMATTING}  # name -> attributes of those that are open
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
        if name in (b"a", b"nobr") and own:  # whose beginning ends one before it
            count -= len(own)
            own.clear()
        if own[-MAX_NESTING:].count(attributes) < MAX_ALIKE:
            own.append(attributes)
            count += 1
    return total + count * page.count(b"<", position)


def _hidden(page: bytes, openings: np.ndarray, in_values: np.ndarray) -> list[tuple[int, int]]:
    """Return parts of a page, apart and in order, in which ends of elements may be none."""
    lower = page.lower()
    nearest: dict[bytes, int] = {}  # what ends a part -> where it next stands
    parts = [(place, page.find(page[quote : quote + 1], place) % (len(page) + 1)) for place, quote in in_values.tolist()]
    for opening in filter(None, (_HIDING.match(lower, start) for start in openings.tolist())):
        mark = b"</" + opening[2] if opening[2] else b"-->" if opening[1] else b">"
        if nearest.get(mark, 0) < opening.end():
            nearest[mark] = lower.find(mark, opening.end()) % (len(page) + 1)  # none: to the page's end
        parts.append((opening.start(), nearest[mark]))
    apart: list[tuple[int, int]] = []
    for start, end in sorted(parts):
        if apart and start <= apart[-1][1]:
            apart[-1] = apart[-1][0], max(end, apart[-1][1])
        else:
            apart.append((start, end))
    return apart


def _in_values(page: bytes) -> np.ndarray:
    """Find signs of a tag's end that may stand in an attribute's value, each with the quotation mark before it: [n, 2], in order."""
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
            may_begin[i] = _stands_behind_equals(page, int(events[places[i]]))
        places = places[may_begin]
        found.append(np.stack([events[places + 1], events[places]], 1))
    both = np.concatenate(found)
    return both[np.argsort(both[:, 0])]


def _stands_behind_equals(page: bytes, quote: int) -> bool:
    """Tell if a quotation mark may begin a value; so many blanks as no person writes are taken to hide it."""
    return page[max(0, quote - _BLANKS) : quote].rstrip()[-1:] in (b"=", b"")


def _has_too_many_attributes(page: bytes, at: np.ndarray, second: np.ndarray, in_values: np.ndarray) -> bool:
    """Tell if an element has more attributes than any person would write; long values, as of pictures, are none.

    Args:
        page: the page.
        at: where its tags begin.
        second: their second letters, in lower case.
        in_values: by `_in_values`; where the first sign of an end behind a tag's beginning is none of them, it is the tag's end.
    """
    spent = of_roots = 0
    ends = in_values[:, 0].tolist() + _far_ends(page)
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


def _far_ends(page: bytes) -> list[int]:
    """Find each `>`, or the page's end, that is so far behind the one before it that a tag between them may be long."""
    found, position = [], 0
    while len(page) - position > _LONG_TAG:
        last = page.rfind(b">", position, position + _LONG_TAG)
        if last < 0:
            last = page.find(b">", position) % (len(page) + 1)
            found.append(last)
        position = last + 1
    return found


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
def _known_hashes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hashes of what does not count, of formatting elements, and of raw text's, each in order."""
    return _hashes((b"", *_UNCOUNTED)), _hashes(_FORMATTING), _hashes(_RAW)


def _hashes(names: Sequence[bytes]) -> np.ndarray:
    page = b"".join(name.ljust(_NAME + 1, b"\0") for name in names) + bytes(_NAME)
    return np.sort(_names(page, (_NAME + 1) * np.arange(len(names)))[0])


def extracted_text(html: str) -> str:
    """Give a page's main text, by resiliparse; `objection` has been asked before.

    Raises:
        markup.TooDeep: of elements.
    """
    page = markup.mended(html, MAX_NESTING)
    text = extract_plain_text(page, preserve_formatting=True, main_content=True, list_bullets=True, alt_texts=False, links=False)
    return text.replace(markup.MARK, "")


def _trafilatura(html: str) -> str:
    import trafilatura  # slow to import

    return trafilatura.extract(html, include_comments=False, include_tables=True, favor_precision=True) or ""
