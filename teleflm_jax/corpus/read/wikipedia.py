"""MediaWiki's XML dumps (`*-pages-articles*.xml`, `.bz2`, `.gz`): articles without markup, references and what follows them.

Source: report, section 2: 22 languages, "to remove reference and subsequent content". The wikitext is parsed by mwparserfromhell.
"""

import collections
import functools
import html
import re
import unicodedata
from collections.abc import Iterator
from xml.parsers import expat

import mwparserfromhell
from mwparserfromhell.nodes import Node, Tag, Template, Wikilink
from mwparserfromhell.smart_list import SmartList
from mwparserfromhell.wikicode import Wikicode

from teleflm_jax.corpus import documents, streams
from teleflm_jax.corpus.read import LONGEST, Found, xml
from teleflm_jax.corpus.tally import Tally

MAX_NESTING = 40
"""Of templates, links and tables in one article; deeper ones are not written by people, and parsing them takes long."""
MAX_UNCLOSED = 300
"""Tags and brackets without an end; for each the parser reads the article to its end and comes back."""
FIRST_TRAILING = {
    "bg": "източници|бележки|литература|външни препратки|вижте също",
    "ca": "referències|notes|bibliografia|enllaços externs|vegeu també",
    "cs": "reference|poznámky|literatura|externí odkazy|související články",
    "da": "referencer|kilder|noter|litteratur|eksterne henvisninger|se også",
    "de": "einzelnachweise|literatur|weblinks|siehe auch|anmerkungen|quellen",
    "en": "references|notes|bibliography|external links|see also|further reading|footnotes|citations|sources|works cited",
    "es": "referencias|notas|bibliografía|enlaces externos|véase también",
    "fr": "références|notes et références|notes|bibliographie|liens externes|voir aussi|annexes",
    "hr": "izvori|bilješke|literatura|vanjske poveznice|poveznice|vidi još",
    "hu": "jegyzetek|források|irodalom|további információk|kapcsolódó szócikkek|lásd még",
    "it": "note|bibliografia|collegamenti esterni|altri progetti|voci correlate",
    "ja": "脚注|出典|参考文献|外部リンク|関連項目|注釈",
    "nl": "bronnen|referenties|noten|literatuur|externe links|externe link|zie ook|bronnen, noten en/of referenties",
    "pl": "przypisy|bibliografia|linki zewnętrzne|zobacz też|uwagi",
    "pt": "referências|notas|bibliografia|ligações externas|ver também",
    "ro": "note|referințe|bibliografie|legături externe|vezi și",
    "ru": "примечания|литература|ссылки|см. также|источники",
    "sl": "sklici|viri|opombe|literatura|zunanje povezave|glej tudi",
    "sr": "референце|извори|напомене|литература|спољашње везе|види још|reference|izvori|literatura|spoljašnje veze|vidi još",
    "sv": "referenser|noter|källor|litteratur|externa länkar|se även",
    "uk": "примітки|джерела|література|посилання|див. також",
    "zh": "参考文献|參考文獻|参考资料|參考資料|外部链接|外部連結|外部連接|参见|參見|注释|註釋|脚注|腳註|相关条目|相關條目"
    "|延伸阅读|延伸閱讀",
}
"""Headings at which an article's own text ends, by the dump's language. Our choice; the report names none."""
_DEEP_LIST = re.compile(r"^[:;*#]{100}", re.MULTILINE)
_OPENERS = re.compile(r"\{\{|\[\[|\{\||\}\}|\]\]|\|\}")
_OPEN_OR_CLOSED = re.compile(r"\[|\]|<(/?)([A-Za-z]+)([^<>]*>)?")
_NEVER_CLOSED = frozenset(("br", "hr", "img", "li", "dd", "dt", "td", "th", "tr", "wbr"))
_DROPPED_TAGS = ("ref", "gallery", "table", "timeline", "math", "score", "imagemap", "syntaxhighlight", "source")
_HEADING = re.compile(r"^=.*=[ \t]*$", re.MULTILINE)
_LEFT_OVER = re.compile(r"^[ \t]*(?:[|!{}].*|__[A-Z]+__)[ \t]*$", re.MULTILINE)
_MEDIA = frozenset(("file", "image", "category", "media"))
_LANGUAGE = re.compile(r"<mediawiki\b[^>]{0,2000}\sxml:lang\s*=\s*[\"']([A-Za-z]+)")
_NAMESPACE = re.compile(r"<namespace\b[^>]{0,200}\skey\s*=\s*[\"'](-?\d{1,4})[\"'][^>]{0,200}>([^<]{0,200})<")
_TOO_NESTED = "article too long or too nested"
_LANGUAGE_LINK = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?$")


def read(path: str, piece: documents.Piece, tally: Tally) -> Iterator[Found]:
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
        elif page["redirect"]:
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
    return language[1] if language else "", _MEDIA.union(named)


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
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = lambda data: parts[field].append(data) if field else None
    parser.Parse(element, True)
    return {"redirect": is_redirect} | {name: "".join(found) for name, found in parts.items()}


def plain(wikitext: str, language: str, media: frozenset[str] = _MEDIA) -> str:
    """Turn an article's wikitext into text: paragraphs, headings and lists, up to the references.

    Args:
        wikitext: as the dump has it.
        language: of the dump; for one that FIRST_TRAILING does not name, nothing is cut off.
        media: namespaces, in lower case, of links that stand for a picture or a category.
    """
    code = mwparserfromhell.parse(_before_references(wikitext, language), skip_style_tags=True)
    _prune(code, media)
    text = code.strip_code(normalize=True, collapse=True)
    text = _LEFT_OVER.sub("", _HEADING.sub(lambda heading: _title(heading[0]), text)).replace("'''", "").replace("''", "")
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip(" \t") for line in text.split("\n"))).strip()


def _prune(code: Wikicode, media: frozenset[str]) -> None:
    """Take out what is no text; in one pass, because the parser's own `remove` looks for each node from the beginning."""
    kept = [node for node in code.nodes if not _is_dropped(node, media)]
    for node in kept:
        for child in node.__children__():
            _prune(child, media)
    code.nodes = SmartList(kept)


def _is_dropped(node: Node, media: frozenset[str]) -> bool:
    if isinstance(node, Tag):
        return str(node.tag).strip().lower() in _DROPPED_TAGS
    return isinstance(node, Template) or (isinstance(node, Wikilink) and _is_media(str(node.title), media))


def _is_media(title: str, media: frozenset[str]) -> bool:
    space, colon, _ = title.strip().partition(":")
    return bool(colon) and (space.strip().lower() in media or bool(_LANGUAGE_LINK.match(space)))


def _title(heading: str) -> str:
    """A heading's text, between as many equals signs as both sides have."""
    line = heading.rstrip(" \t")
    text = line.strip("=")
    level = min(len(line) - len(line.lstrip("=")), len(line) - len(line.rstrip("=")))
    return line[level : len(line) - level].strip(" \t") if text else line


def _before_references(wikitext: str, language: str) -> str:
    names = frozenset(FIRST_TRAILING.get(language, "").split("|"))
    for heading in _HEADING.finditer(wikitext):
        if unicodedata.normalize("NFC", _title(heading[0])).strip(" :.'").lower() in names:
            return wikitext[: heading.start()]
    return wikitext


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
