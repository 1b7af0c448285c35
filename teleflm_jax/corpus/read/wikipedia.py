"""MediaWiki's XML dumps (`*-pages-articles*.xml`, `.bz2`, `.gz`): articles without markup, references and what follows them.

Source: report, section 2: 22 languages. `wikitext` turns an article's markup into text.
"""

import bz2
import collections
import gzip
import re
from collections.abc import Iterator
from xml.parsers import expat

from teleflm_jax.corpus import documents
from teleflm_jax.corpus.read import LONGEST, Found
from teleflm_jax.corpus.read.wikitext import is_redirect, plain
from teleflm_jax.corpus.tally import Tally

CHUNK = 1 << 18
MAX_NESTING = 40
"""Of templates, links and tables in one article; deeper ones are not written by people, and parsing them takes long."""
MAX_UNCLOSED = 300
"""Tags and brackets without an end; for each the parser reads the article to its end and comes back."""
_DEEP_LIST = re.compile(r"^[:;*#]{100}", re.MULTILINE)
_OPENERS = re.compile(r"\{\{|\[\[|\{\||\}\}|\]\]|\|\}")
_OPEN_OR_CLOSED = re.compile(r"\[|\]|<(/?)([A-Za-z]+)([^<>]*>)?")
_NEVER_CLOSED = frozenset(("br", "hr", "img", "li", "dd", "dt", "td", "th", "tr", "wbr"))


def read(path: str, piece: documents.Piece, tally: Tally) -> Iterator[Found]:
    """Yield articles as text."""
    opener = {"bz2": bz2.open, ".gz": gzip.open}.get(path[-3:], open)
    with opener(path, "rb") as stream:
        pages = _Pages()
        try:
            while chunk := stream.read(CHUNK):
                pages.feed(chunk)
                yield from _articles(pages, piece.path, tally)
            pages.feed(b"", is_last=True)
        except (expat.ExpatError, EOFError, OSError, ValueError):
            yield from _articles(pages, piece.path, tally)
            tally.drop("truncated or damaged file", piece.path, "")


def _articles(pages: "_Pages", path: str, tally: Tally) -> Iterator[Found]:
    for page in pages.take():
        origin = f"{path}#{page['id']} {page['title']}"
        if page["ns"] != "0":
            tally.drop("no article", origin, "")
        elif page["redirect"] or is_redirect(page["text"]):
            tally.drop("redirect", origin, "")
        elif page["cut"] or _too_nested(page["text"]):
            tally.drop("article too long or too nested", origin, "")
        else:
            body = plain(page["text"], pages.language, frozenset(pages.media))
            yield Found("text", origin, f"{page['title']}\n\n{body}".encode() if body else b"", date=page["timestamp"], charset="utf-8")


def _too_nested(text: str) -> bool:
    if _DEEP_LIST.search(text):
        return True
    depth = 0
    for mark in _OPENERS.finditer(text):
        depth = max(0, depth + (1 if mark[0] in ("{{", "[[", "{|") else -1))
        if depth > MAX_NESTING:
            return True
    unclosed: collections.Counter[str] = collections.Counter()
    for mark in _OPEN_OR_CLOSED.finditer(text):
        name = (mark[2] or "[").lower()
        if mark[1] or mark[0] == "]":
            unclosed[name] = max(0, unclosed[name] - 1)
        elif not mark[0].endswith("/>") and not (mark[3] and name in _NEVER_CLOSED):
            unclosed[name] += 1
    return unclosed.total() > MAX_UNCLOSED


class _Pages:
    """Takes XML in pieces and gives pages; entities that a file defines itself end it, so that none can unfold without bound."""

    def __init__(self):
        self.language = ""
        self.media: set[str] = set()
        self._space = False
        self._done: list[dict] = []
        self._page: dict | None = None
        self._field = ""
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._characters
        self._parser.EntityDeclHandler = self._refuse

    def feed(self, chunk: bytes, is_last: bool = False) -> None:
        self._parser.Parse(chunk, is_last)

    def take(self) -> list[dict]:
        done, self._done = self._done, []
        return done

    def _start(self, name: str, attributes: dict) -> None:
        if name == "mediawiki":
            self.language = attributes.get("xml:lang", "").partition("-")[0]
        elif name == "namespace":
            self._space = attributes.get("key") in ("6", "14")
        elif name == "page":
            self._page = {
                "title": "",
                "ns": "",
                "id": "",
                "timestamp": "",
                "text": "",
                "redirect": False,
                "cut": False,
                "size": 0,
                "parts": [],
            }
        elif self._page is not None:
            if name == "redirect":
                self._page["redirect"] = True
            # the page's own id comes first, before those of its revision and author
            self._field = name if name in ("title", "ns", "timestamp", "text") or (name == "id" and not self._page["id"]) else ""

    def _end(self, name: str) -> None:
        self._field, self._space = "", False
        if name == "page" and self._page is not None:
            self._page["text"] = "".join(self._page.pop("parts"))
            self._done.append(self._page)
            self._page = None

    def _characters(self, data: str) -> None:
        page = self._page
        if self._space:
            self.media.add(data.strip().lower())
        if page is None or not self._field:
            return
        if page["size"] > LONGEST:
            page["cut"] = True
        elif self._field == "text":
            page["parts"].append(data)
            page["size"] += len(data)
        else:
            page[self._field] += data
            page["size"] += len(data)

    def _refuse(self, *_) -> None:
        raise ValueError("an entity of the file's own")
