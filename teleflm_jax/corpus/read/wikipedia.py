"""Reader of MediaWiki's XML dumps (`*-pages-articles*.xml`, `.bz2`, `.gz`): articles without markup, references and later sections.

Source: report, section 2: 22 languages. `wikitext` turns an article's markup into text.
"""

import collections
import functools
import html
import re
from collections.abc import Iterator
from xml.parsers import expat

from teleflm_jax.corpus.read import LONGEST, RawDocument, xml
from teleflm_jax.corpus.read.wikitext import is_redirect, plain
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Statistics

MAX_NESTING = 40
"""Maximum nesting of templates, links and tables; people do not write deeper ones, and parsing them is slow."""
MAX_UNCLOSED = 300
"""Maximum unclosed tags and brackets; for each the parser reads to the end of the article and backtracks."""
MAX_READ_AGAIN = 5_000_000
"""Maximum characters that the parser reads for unclosed markup."""
MAX_ROWS = 10_000
"""Maximum table rows; the parser takes quadratic time."""
MAX_BARS = 50_000
"""Maximum bars between template parameters and table cells; the parser takes quadratic time in those of one template or table."""
_DEEP_LIST = re.compile(r"[:;*#]{100}|^(?:=++[^=\n]*+){100}", re.MULTILINE)
"""Deeply nested lists, also inside language variants, and headings in a line; the parser's stack overflows at a few thousand levels."""
_ADDRESS = re.compile(r"\s{0,20}(?:[A-Za-z][A-Za-z+.-]{0,20}:|//)")
"""URL after a bracket; without one the bracket is not a link, and the parser does not read ahead."""
_OPENERS = re.compile(r"\{\{|\[\[|\{\||\}\}|\]\]|\|\}")
_OPEN_OR_CLOSED = re.compile(r"\[|\]|<(/?)([A-Za-z]+)([^<>]*>)?")
_NEVER_CLOSED = frozenset(("br", "hr", "img", "li", "dd", "dt", "td", "th", "tr", "wbr"))
_LANGUAGE = re.compile(r"<mediawiki\b[^>]{0,2000}\sxml:lang\s*=\s*[\"']([A-Za-z]+)")
_NAMESPACE = re.compile(r"<namespace\b[^>]{0,200}\skey\s*=\s*[\"'](-?\d{1,4})[\"'][^>]{0,200}>([^<]{0,200})<")
_TOO_NESTED = "article too long or too nested"


def read(path: str, file_range: work_units.FileRange, statistics: Statistics) -> Iterator[RawDocument]:
    """Yield articles as text."""
    elements = xml.elements(streams.chunks(path, file_range.compression), "page", file_range.path, statistics, _TOO_NESTED)
    head = next(elements)
    language, media = _site(head)
    parse = functools.partial(_page, encoding=xml.encoding_of(head))
    for element in elements:
        page = xml.parsed(element, parse, file_range.path, statistics)
        if page is None:
            continue
        origin = f"{file_range.path}#{page['id']} {page['title']}"
        if page["ns"] != "0":
            statistics.drop("no article", origin, "")
        elif page["redirect"] or is_redirect(page["text"]):
            statistics.drop("redirect", origin, "")
        elif len(page["text"]) > LONGEST or _too_nested(page["text"]):
            statistics.drop(_TOO_NESTED, origin, "")
        else:
            body = plain(page["text"], language, media)
            yield RawDocument(
                "text", origin, f"{page['title']}\n\n{body}".encode() if body else b"", date=page["timestamp"], charset="utf-8"
            )


def _site(head: bytes) -> tuple[str, frozenset[str]]:
    """Return the language of a dump and its namespaces of pictures and categories."""
    text = head[: xml.ROOM].decode("utf-8", "replace")
    language = _LANGUAGE.search(text)
    named = (html.unescape(name).strip().lower() for key, name in _NAMESPACE.findall(text) if key in ("6", "14"))
    return language[1] if language else "", frozenset(named)


def _page(element: bytes, encoding: str | None) -> dict:
    """Parse a page.

    Raises:
        ExpatError: The page is damaged.
        ValueError: The page is nested too deeply.
    """
    parts: dict[str, list[str]] = {name: [] for name in ("title", "ns", "id", "timestamp", "text")}
    depth, field, is_redirect = 0, "", False

    def start(name: str, _: dict) -> None:
        nonlocal depth, field, is_redirect
        depth += 1
        if depth > xml.MAX_DEPTH:
            raise ValueError("elements nested too deeply")
        is_redirect = is_redirect or name == "redirect"
        # the page's own id precedes those of its revision and author
        field = name if name in ("title", "ns", "timestamp", "text") or (name == "id" and not parts["id"]) else ""

    def end(_: str) -> None:
        nonlocal depth, field
        depth, field = depth - 1, ""

    parser = expat.ParserCreate(encoding)
    parser.buffer_text, parser.buffer_size = True, 1 << 16
    parser.StartElementHandler, parser.EndElementHandler, parser.StartDoctypeDeclHandler = start, end, xml.refuse
    parser.CharacterDataHandler = lambda data: parts[field].append(data) if field else None
    parser.Parse(element, True)
    return {"redirect": is_redirect} | {name: "".join(found) for name, found in parts.items()}


def _too_nested(text: str) -> bool:
    if _DEEP_LIST.search(text) or text.count("\n|-") > MAX_ROWS or text.count("|") + text.count("\n!") > MAX_BARS:
        return True
    opened: list[int] = []
    for mark in _OPENERS.finditer(text):
        if mark[0] in ("{{", "[[", "{|"):
            opened.append(mark.start())
        elif opened:
            opened.pop()
        if len(opened) > MAX_NESTING:
            return True
    unclosed: dict[str, list[int]] = collections.defaultdict(list)
    for mark in _OPEN_OR_CLOSED.finditer(text):
        name = (mark[2] or "[").lower()
        if mark[1] or mark[0] == "]":
            if unclosed[name]:
                unclosed[name].pop()
        elif not mark[0].endswith("/>") and not (mark[3] and name in _NEVER_CLOSED):
            unclosed[name].append(mark.start())
    again = opened + [place for name, places in unclosed.items() for place in places if name != "[" or _ADDRESS.match(text, place + 1)]
    return sum(map(len, unclosed.values())) > MAX_UNCLOSED or len(text) * len(again) - sum(again) > MAX_READ_AGAIN
