"""MediaWiki's XML dumps (`*-pages-articles*.xml`, `.bz2`, `.gz`): articles without markup, references and what follows them.

Source: report, section 2: 22 languages. `wikitext` turns an article's markup into text.
"""

import collections
import functools
import html
import re
from collections.abc import Iterator
from xml.parsers import expat

from teleflm_jax.corpus.read import LONGEST, Found, xml
from teleflm_jax.corpus.read.wikitext import is_redirect, plain
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Tally

MAX_NESTING = 40
"""Of templates, links and tables in one article; deeper ones are not written by people, and parsing them takes long."""
MAX_UNCLOSED = 300
"""Tags and brackets without an end; for each the parser reads the article to its end and comes back."""
MAX_READ_AGAIN = 5_000_000
"""Characters that the parser reads for all that has no end."""
MAX_ROWS = 10_000
"""Rows of tables; the parser takes the square of them."""
MAX_BARS = 50_000
"""Between parameters of templates and cells of tables; the parser takes the square of those of one template or table."""
_DEEP_LIST = re.compile(r"[:;*#]{100}|^(?:=++[^=\n]*+){100}", re.MULTILINE)
"""Levels of lists, also within rules of languages, and of headings in a line; the parser's own stack ends at some thousands of them."""
_ADDRESS = re.compile(r"\s{0,20}(?:[A-Za-z][A-Za-z+.-]{0,20}:|//)")
"""Behind a bracket; without one it is no link, and is not read to its end."""
_OPENERS = re.compile(r"\{\{|\[\[|\{\||\}\}|\]\]|\|\}")
_OPEN_OR_CLOSED = re.compile(r"\[|\]|<(/?)([A-Za-z]+)([^<>]*>)?")
_NEVER_CLOSED = frozenset(("br", "hr", "img", "li", "dd", "dt", "td", "th", "tr", "wbr"))
_LANGUAGE = re.compile(r"<mediawiki\b[^>]{0,2000}\sxml:lang\s*=\s*[\"']([A-Za-z]+)")
_NAMESPACE = re.compile(r"<namespace\b[^>]{0,200}\skey\s*=\s*[\"'](-?\d{1,4})[\"'][^>]{0,200}>([^<]{0,200})<")
_TOO_NESTED = "article too long or too nested"


def read(path: str, piece: work_units.Piece, tally: Tally) -> Iterator[Found]:
    """Yield articles as text."""
    elements = xml.elements(streams.chunks(path, piece.compression), "page", piece.path, tally, _TOO_NESTED)
    head = next(elements)
    language, media = _site(head)
    parse = functools.partial(_page, encoding=xml.encoding_of(head))
    for element in elements:
        page = xml.parsed(element, parse, piece.path, tally)
        if page is None:
            continue
        origin = f"{piece.path}#{page['id']} {page['title']}"
        if page["ns"] != "0":
            tally.drop("no article", origin, "")
        elif page["redirect"] or is_redirect(page["text"]):
            tally.drop("redirect", origin, "")
        elif len(page["text"]) > LONGEST or _too_nested(page["text"]):
            tally.drop(_TOO_NESTED, origin, "")
        else:
            body = plain(page["text"], language, media)
            yield Found("text", origin, f"{page['title']}\n\n{body}".encode() if body else b"", date=page["timestamp"], charset="utf-8")


def _site(head: bytes) -> tuple[str, frozenset[str]]:
    """Return a dump's language, and its namespaces of links that stand for a picture or a category."""
    text = head[: xml.ROOM].decode("utf-8", "replace")
    language = _LANGUAGE.search(text)
    named = (html.unescape(name).strip().lower() for key, name in _NAMESPACE.findall(text) if key in ("6", "14"))
    return language[1] if language else "", frozenset(named)


def _page(element: bytes, encoding: str | None) -> dict:
    """Parse a page.

    Raises:
        ExpatError, ValueError: it is damaged.
    """
    parts: dict[str, list[str]] = {name: [] for name in ("title", "ns", "id", "timestamp", "text")}
    depth, field, is_redirect = 0, "", False

    def start(name: str, _: dict) -> None:
        nonlocal depth, field, is_redirect
        depth += 1
        if depth > xml.MAX_DEPTH:
            raise ValueError("elements inside one another")
        is_redirect = is_redirect or name == "redirect"
        # the page's own id comes first, before those of its revision and author
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
