"""Changes of a page's markup where resiliparse would omit or garble visible text (docs/corpus.md lists the cases)."""

import functools
import html
import re
from collections.abc import Callable

from resiliparse.parse.html import ElementNode, HTMLTree, Node

MARK = "\ufdd0"
"""Marker in the extracted text that callers remove; a noncharacter, which pages may not contain."""
_THREE_BYTES = re.compile("[\u0800-\ud7ff\uf900-\ufffd]")
"""Characters with three bytes in UTF-8, except those of icon fonts."""
_SINGLE = re.compile(r">\s*[&\u0800-\ud7ff\uf900-\ufffd](?:(?<!&)|#?\w{1,8};)(?=\s*<)")
_SINGLE_ENTITY = re.compile(r"&(?<=[>\s]&)#?\w{1,8};(?=\s*<)")
"""Faster pattern for pages in Latin-1, in a tenth of the time; it also matches the last word of several, which is harmless."""

_LINK = re.compile(
    r"<a\b(?:(?<=\w<a)|(?<=\w[\s(,，、（]<a)|(?<=</code>\s<a)|(?<=</em>\s<a)|(?<=</strong>\s<a))(?![^<>]*(?:href=[\"']?#|skip|permalink))"
)
"""A link after a word in a line of text."""
_XHTML, _XHTML_WITHIN = re.compile("xhtml", re.IGNORECASE), 1000
_EMPTY = re.compile(r"<a\b[^<>]*>(?<=[\"'\s]/>)")
"""A self-closing anchor, which is empty in XHTML and contains everything after it in HTML."""
_LINKED = re.compile(r"href=[\"']#([^\"'<>]+)")
_SECTION = re.compile(r"<(?:section|div)\b[^<>]*>(?=\s*(?:<span [^<>]*></span>\s*)*<h[1-6]\b)")
_HEADING = re.compile(r"<h[2-6]\b[^<>]*?\sid=[^<>]*>")
_ID = re.compile(r"\sid=(?:\"([^\"<>]*)\"|'([^'<>]*)')")
_TITLE = re.compile(r"(<body class=\"(?:article|book|manpage)\b[^<>]*>\s*<div )id=\"header\"")
"""Title block of AsciiDoc."""
_RARE = re.compile(
    r"<(figure|summary|time|menu|MENU|dir|DIR|listing|q|aside|math|ruby|RUBY|su[bp]|SU[BP]|img(?=\b[^<>]*\s(?:alt=[\"']\$|class=[\"'](?:math|latex|tex)\b))"
    r"|script(?=\s[^<>]*math/tex)|div(?=\s[^<>]*class=\"sidebar\"))\b"
)
"""Elements that most pages lack."""
_RAISED = re.compile(r"<(su[bp]|SU[BP])\b[^<>]*>([0-9+−=()-]{1,12})</(?:su[bp]|SU[BP])>")
_DIGITS = "0123456789+-−=()"
_RAISED_DIGITS = {"sup": str.maketrans(_DIGITS, "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾"), "sub": str.maketrans(_DIGITS, "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")}

_SHALLOW = "body > ul, body > * > ul, body > * > * > ul"
"""Lists that resiliparse treats as navigation, whatever their content."""
_TEX = 'annotation[encoding="application/x-tex"]'
_SOME_LEVELS = 50
"""A depth that few pages reach; testing for a greater depth is slow even for shallow pages."""
_ROOT_LEVELS = 2
"""Levels of the elements `html` and `body`."""
_DEEPEST_FORMULA = 50
"""Maximum levels of a formula that are linearized; below, only its characters are kept."""


class TooDeep(Exception):
    """Raised for a page whose elements are nested so deeply that traversing them would crash the process."""


def parsed(page: str, deepest: int) -> HTMLTree:
    """Parse a page.

    Raises:
        TooDeep: The tree has more levels than `deepest`. The tree is tested, because end tags in comments, values and scripts do not count.
    """
    tree = HTMLTree.parse(page)
    document, may_be_deep = tree.document, page.count("<") > deepest
    if (
        document is not None
        and may_be_deep
        and all(document.query_selector(_levels(count)) for count in (_SOME_LEVELS, deepest + _ROOT_LEVELS + 1))
    ):
        raise TooDeep
    return tree


def repaired(page: str, deepest: int) -> HTMLTree:
    """Parse a page and change it so that resiliparse extracts all of its text; the text may contain `MARK`.

    Raises:
        TooDeep: The tree has more levels than `deepest`.
    """
    rare = {name.lower() for name in _RARE.findall(page)}
    if rare & {"sup", "sub"}:
        page = _RAISED.sub(lambda found: found[2].translate(_RAISED_DIGITS[found[1].lower()]), page)
    if _XHTML.search(page, 0, _XHTML_WITHIN):
        page = _EMPTY.sub("", page)
    tree = parsed(_LINK.sub("<span", _without_ids(_with_marks(page))), deepest)
    if tree.body:
        for name in sorted(rare & _CHANGES.keys()):
            selector, change = _CHANGES[name]
            for element in tree.body.query_selector_all(selector).values():
                change(tree, element)
        for element in tree.body.query_selector_all(_SHALLOW).values():
            _deepen(tree, element)
    return tree


@functools.cache
def _levels(count: int) -> str:
    """Return a selector of elements at depth `count`."""
    return ">".join("*" * count)


def _with_marks(page: str) -> str:
    """Append `MARK` to texts of a single three-byte character, such as 漢 or →, which resiliparse treats as icons."""

    def marked(found: re.Match) -> str:
        character = html.unescape(found[0].lstrip(">")).strip()  # an empty string for blanks
        return found[0] + MARK if _THREE_BYTES.fullmatch(character) else found[0]

    return (_SINGLE_ENTITY if _is_latin(page) else _SINGLE).sub(marked, page)


def _is_latin(page: str) -> bool:
    try:
        page.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


def _without_ids(page: str) -> str:
    """Remove the ids of headings, and of sections that start with a heading and are linked, such as from the table of contents.

    Such an id has the words of the heading ("new-features-related-to-type-hints") and does not describe the layout, but resiliparse would
    omit the section as "related" content.
    """
    linked = set(_LINKED.findall(page))
    if title := _TITLE.match(page, max(0, page.find("<body"))):
        page = page[: title.end(1)] + page[title.end() :]

    def bare(tag: re.Match) -> str:
        own = _ID.search(tag[0])
        if own and (tag[0][1] == "h" or (own[1] or own[2]) in linked):
            return tag[0][: own.start()] + tag[0][own.end() :]
        return tag[0]

    return _HEADING.sub(bare, _SECTION.sub(bare, page) if linked else page)


def _element(tree: HTMLTree, name: str) -> ElementNode:
    made = tree.create_element(name)
    assert isinstance(made, ElementNode)  # None only where there is no tree
    return made


def _text(tree: HTMLTree, content: str) -> Node:
    made = tree.create_text_node(content)
    assert made is not None  # None only where there is no tree
    return made


def _deepen(tree: HTMLTree, element: ElementNode) -> None:
    """Move a list four levels below `<body>`, because resiliparse treats shallower lists as navigation."""
    outer = inner = _element(tree, "div")
    for _ in range(2):
        child = _element(tree, "div")
        inner.append_child(child)
        inner = child
    element.replace_with(outer)
    inner.append_child(element)


def _rename(tree: HTMLTree, element: ElementNode, name: str) -> None:
    renamed = _element(tree, name)
    element.replace_with(renamed)
    renamed.append(*element.child_nodes.values())


def _note(tree: HTMLTree, element: ElementNode) -> None:
    """Turn asides that are footnotes, admonitions or boxes, as written by Docutils, into sections."""
    if _NOTE.search(f"{element.get_attribute('class') or ''} {element.get_attribute('role') or ''}"):
        _rename(tree, element, "section")


def _box(tree: HTMLTree, element: ElementNode) -> None:
    """Remove the class of a box of DocBook or Docutils, which is not a page sidebar."""
    if element.query_selector(".titlepage, .sidebar-title, p.title"):
        element.remove_attribute("class")


def _quote(tree: HTMLTree, element: ElementNode) -> None:
    element.replace_with(_text(tree, '"'), *element.child_nodes.values(), _text(tree, '"'))


def _remove(tree: HTMLTree, element: ElementNode) -> None:
    element.remove()


def _formula(tree: HTMLTree, element: ElementNode) -> None:
    """Replace a formula by its TeX, if the page has it, or by one line of text."""
    tex = element.query_selector(_TEX)
    text = (tex.text or "").strip() if tex else element.get_attribute("alttext")
    text = _delimited(text, element.get_attribute("display") == "block") if text else _linear(element, _DEEPEST_FORMULA)
    parent = element.parent_element
    if parent is not None:
        parent.remove_attribute("style")  # MediaWiki hides the formula behind a picture
    element.replace_with(_text(tree, text))


def _delimited(tex: str, is_display: bool) -> str:
    return f"$${tex}$$" if is_display else f"${tex}$"


def _linear(element: Node, levels: int) -> str:
    """Return MathML as one line of text: x^2, a_i, (a+b)/2."""
    if not levels or element.tag == "#text" or not element.first_child:
        return element.text or ""
    parts = [part for child in element.child_nodes.values() if (part := _linear(child, levels - 1).strip())]
    signs = _SIGNS.get(element.tag or "", ())
    if signs and len(parts) == len(signs):
        return "".join(sign + (part if part.isalnum() else f"({part})") for sign, part in zip(signs, parts, strict=True))
    return f"√({''.join(parts)})" if element.tag == "msqrt" else "".join(parts)


def _formula_of_script(tree: HTMLTree, element: ElementNode) -> None:
    """Replace MathJax 2's script and its rendering by the TeX."""
    before = element.previous_element_sibling
    while before and (before.get_attribute("class") or "").startswith("MathJax"):
        before, rendered = before.previous_element_sibling, before
        rendered.remove()
    tex, kind = (element.text or "").strip(), element.get_attribute("type") or ""
    element.replace_with(_text(tree, _delimited(tex, "display" in kind)))


def _formula_of_image(tree: HTMLTree, element: ElementNode) -> None:
    text = element.get_attribute("alt") or ""
    if text.startswith("$"):
        element.replace_with(_text(tree, text))
    elif text and _FORMULA.search(element.get_attribute("class") or ""):
        element.replace_with(_text(tree, _delimited(text, is_display=False)))


_NOTE = re.compile(r"\b(?:footnote|sidebar|admonition|topic|note|doc-footnote)\b")
_FORMULA = re.compile(r"^(?:math|latex|tex)\b")
_SIGNS = {"msup": ("", "^"), "msub": ("", "_"), "mfrac": ("", "/"), "msubsup": ("", "_", "^"), "munder": ("", "_"), "mover": ("", "^")}
_as_section = functools.partial(_rename, name="section")
_CHANGES: dict[str, tuple[str, Callable[[HTMLTree, ElementNode], None]]] = {
    "figure": ("figure, figcaption", _as_section),
    "summary": ("summary", _as_section),
    "time": ("time", functools.partial(_rename, name="span")),
    "menu": ("menu", functools.partial(_rename, name="ul")),
    "dir": ("dir", functools.partial(_rename, name="ul")),
    "listing": ("listing", functools.partial(_rename, name="pre")),
    "q": ("q", _quote),
    "aside": ("aside", _note),
    "ruby": ("ruby rt, ruby rp, ruby rtc", _remove),  # readings follow their characters
    "math": ("math", _formula),
    "script": ('script[type^="math/tex"]', _formula_of_script),
    "img": ("img", _formula_of_image),
    "div": ("div.sidebar", _box),
}
"""Name of an element of `_RARE` -> selector and change."""
