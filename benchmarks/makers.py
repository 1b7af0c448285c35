"""Pages of many makers from Debian's packages, with their content as marked by elements of each maker's template."""

import collections
import dataclasses
import gzip
import re
import unicodedata
from collections.abc import Iterator

from resiliparse.parse.html import TEXT, DOMContext, ElementNode, HTMLTree, traverse_dom

from examples import debian_packages
from teleflm_jax.corpus.extraction import extract

LONGEST = 400_000
"""Bytes of the longest page that is used; longer pages are indices of whole libraries."""
OPTIONAL = 0.8
"""Share of links above which a list or table is a table of contents, which may be extracted or not."""
_HIDDEN = "script, style, template, noscript, iframe, nav, button, select, textarea, input, [hidden], [aria-hidden='true'], .headerlink"
_BLOCKS = frozenset(
    "address article aside blockquote body br caption center dd details dir div dl dt fieldset figcaption figure footer form h1 h2 h3 h4 "
    "h5 h6 header hr legend li main menu ol p pre section summary table tbody td tfoot th thead tr ul".split()
)
_KINDS = {
    "list items": "li",
    "terms": "dt",
    "definitions": "dd",
    "cells": "td, th",
    "listings": "pre",
    "headings": "h1, h2, h3, h4, h5, h6",
    "captions": "figcaption, caption",
    "summaries": "summary",
}
_WORD = re.compile(r"[^\W_]+")


@dataclasses.dataclass(frozen=True)
class Maker:
    """A program that generates pages, and one package of its pages."""

    package: str
    pages: str = ""
    """Substring of the pages' paths."""
    main: str = "body"
    """Selector of the content."""
    without: str = ""
    """Selector of the navigation inside the content."""


_DOCBOOK = ".navheader, .navfooter, div.toc, .spirit-nav, table.navigation, .footer, body > hr, p#title, ul.docnav, #banner"
_TEXINFO = "div.header, table.header, table.menu, div.nav-panel, .Contents_element, .copiable-link, a.copiable-anchor"
MAKERS = {
    "AsciiDoc": Maker("git-doc", main="#header h1, #header h2, #header p, #content"),
    "Asciidoctor": Maker("ntpsec-doc", main="#header, #content", without="#toc"),
    "Doxygen": Maker("doxygen-doc", main="div.headertitle, div.contents", without="div.toc, .footer"),
    "Doxygen, mathematics": Maker("libeigen3-doc", main="div.headertitle, div.contents", without="div.toc, .footer, .ttc"),
    "DocBook, gtk-doc": Maker("libglib2.0-doc", without=_DOCBOOK),
    "DocBook, Boost": Maker("libboost1.74-doc", "/doc/html/", without=_DOCBOOK + ", body > table:first-child"),
    "DocBook, PostgreSQL": Maker("postgresql-doc-15", without=_DOCBOOK),
    "DocBook, Chinese": Maker("debian-reference-zh-cn", without=_DOCBOOK),
    "DocBook, Japanese": Maker("aptitude-doc-ja", without=_DOCBOOK),
    "DocBook, Arabic": Maker("debian-handbook", "/ar-MA/", without=_DOCBOOK),
    "Docutils": Maker("docutils-doc", main="body", without="div.contents, div.header, div.footer, .system-messages"),
    "Erlang": Maker("erlang-doc", "/lib/", main="#content", without=".footer"),
    "gi-docgen": Maker("libgtk-4-doc", main="#main", without=".footer"),
    "Haddock": Maker("ghc-doc", "/libraries/", main="#content, body > pre", without="#table-of-contents, #synopsis, a.link, a.selflink"),
    "ikiwiki": Maker("ikiwiki", main="#pagebody"),
    "Javadoc": Maker("openjdk-17-doc", main="main", without="ol.sub-nav-list"),
    "LaTeX2HTML": Maker("latex2html", without="div.navigation, ul.ChildLinks, address"),
    "LDoc": Maker("lua-ldoc", main="#content"),
    "LibreOffice, Chinese": Maker("libreoffice-help-zh-cn", "/text/", main="#DisplayArea"),
    "makeinfo": Maker("maxima-doc", without=_TEXINFO),
    "makeinfo, Octave": Maker("octave-doc", without=_TEXINFO),
    "makeinfo, SBCL": Maker("sbcl-doc", without=_TEXINFO),
    "MkDocs": Maker("mkdocs-doc", main="[role=main]"),
    "mpich's doctext": Maker("mpich-doc", "/www3/"),
    "Node.js": Maker("nodejs-doc", main="#apicontent"),
    "rdoc": Maker("asciidoctor-doc", main="main"),
    "rustdoc": Maker("rust-doc", "/html/std/", main="#main-content", without=".out-of-band, .src, a.srclink"),
    "mdBook": Maker("rust-doc", "/html/book/", main="main"),
    "Qt": Maker("qtbase5-doc-html", main="div.content", without="div.sidebar, .breadcrumb, table.buildversion"),
    "Scaladoc": Maker(
        "scala-doc", "/library/scala/collection/", main="#definition, #signature, #comment, #template", without="#textfilter"
    ),
    "Sphinx": Maker("cmake-doc", main="div.body"),
    "texi2any": Maker("zsh-doc", without=_TEXINFO),
    "YARD": Maker("yard-doc", main="#content"),
    "by hand, Apache": Maker("apache2-doc", main="#preamble, #page-content", without="#toc, .top, .bottomlang, #comments_section"),
    "by hand, Exim": Maker("exim4-doc-html", main="#content", without=".navigation, #options"),
    "by hand, gettext": Maker("gettext-doc"),
    "by hand, Postfix": Maker("postfix-doc"),
    "by hand, Slurm": Maker("slurm-wlm-doc", main="div.content", without=".slurm-search"),
    "by hand, SQLite": Maker("sqlite3-doc", without="div.nosearch"),
    "groff": Maker("groff", "/html/"),
}


@dataclasses.dataclass(frozen=True)
class Page:
    """A page and its content."""

    path: str
    html: bytes
    content: str
    """All text that may be extracted."""
    wanted: str
    """The text that should be extracted."""
    items: tuple[tuple[str, str], ...]
    """Parts of that text without a link: (kind, text)."""


def pages(maker: Maker, cache: debian_packages.Cache, count: int) -> list[Page]:
    """Return some of a maker's pages, evenly spread over the pages of its package that have content.

    Raises:
        debian_packages.PackageError: the package is not available.
    """
    deb = cache.get(maker.package)
    names = [name for name, _ in debian_packages.files(deb, lambda path: _is_page(path, maker))]
    chosen = set(names[:: max(1, len(names) // count)][:count])
    found = []
    for path, content in debian_packages.files(deb, lambda path: path in chosen):
        content = gzip.decompress(content) if path.endswith(".gz") else content
        if len(content) <= LONGEST and (own := page(path, content, maker)):
            found.append(own)
    return found


def _is_page(path: str, maker: Maker) -> bool:
    return path.endswith((".html", ".htm", ".html.gz")) and maker.pages in path


def page(path: str, html: bytes, maker: Maker) -> Page | None:
    """Read one page of a maker; return None if it has hardly any content."""
    tree = HTMLTree.parse(extract.decode(html, ""))
    for node in tree.body.query_selector_all(_HIDDEN + (f", {maker.without}" if maker.without else "")).values():
        node.remove()
    roots = [tree.body] if maker.main == "body" else tree.body.query_selector_all(maker.main).values()
    content = "\n".join(map(visible, roots))
    if len(_WORD.findall(content)) < 20:
        return None
    for root in roots:
        for node in reversed(root.query_selector_all("ul, ol, dl, table").values()):
            if _links(node) > OPTIONAL:
                node.remove()
    items = tuple((kind, text) for root in roots for kind, text in _items(root))
    return Page(path, html, content, "\n".join(map(visible, roots)), items)


def _links(node: ElementNode) -> float:
    letters = sum(map(len, _WORD.findall(node.text)))
    return sum(len(word) for link in node.query_selector_all("a").values() for word in _WORD.findall(link.text)) / max(letters, 1)


def _items(root: ElementNode) -> Iterator[tuple[str, str]]:
    for kind, selector in _KINDS.items():
        for node in root.query_selector_all(selector).values():
            if not node.query_selector(f"a[href], img, {selector}"):
                yield kind, visible(node).strip()


def visible(root: ElementNode) -> str:
    """Return the text under an element, one block per line, in compatibility forms, so that 10⁶ and 10<sup>6</sup> are equal."""
    parts = []

    def border(context: DOMContext) -> None:
        if context.node.tag in _BLOCKS:
            parts.append("\n")

    def begin(context: DOMContext) -> None:
        if context.node.type == TEXT:
            parts.append(context.node.value)
        border(context)

    traverse_dom(root, begin, border)
    return unicodedata.normalize("NFKC", "".join(parts))


def found(page: Page, text: str) -> collections.Counter:
    """Count the items that an extracted text of the same form contains word for word, as (kind, True), and those that it does not."""
    words = f" {' '.join(_WORD.findall(text))} "
    counts = collections.Counter()
    for kind, item in page.items:
        if own := _WORD.findall(item):
            counts[kind, f" {' '.join(own)} " in words] += 1
    signs, there = collections.Counter(filter(_is_sign, page.wanted)), collections.Counter(filter(_is_sign, text))
    common = (signs & there).total()
    counts["signs", True] += common
    counts["signs", False] += signs.total() - common
    return counts


def _is_sign(character: str) -> bool:
    return character >= "\u2010" and not character.isalnum() and not character.isspace() and not "\ue000" <= character <= "\uf8ff"
