"""Conversion of wikitext to text: paragraphs, headings and lists, up to the references. Parsed by mwparserfromhell."""

import dataclasses
import re
import unicodedata
from collections.abc import Callable

import mwparserfromhell
from mwparserfromhell.nodes import Argument, ExternalLink, Heading, HTMLEntity, Node, Tag, Template, Text, Wikilink
from mwparserfromhell.wikicode import Wikicode

from teleflm_jax.corpus.read.wikitext import headings, keywords, removals, styles, templates, variants
from teleflm_jax.corpus.read.wikitext.removals import REMOVED
from teleflm_jax.corpus.read.wikitext.styles import APOSTROPHE

_DROPPED = frozenset(
    """
    ref references gallery table timeline score imagemap source syntaxhighlight templatestyles templatedata graph mapframe maplink
    inputbox categorytree hiero indicator includeonly style script rp
    """.split()
)
"""Tags whose content is not text."""
_INLINE_CODE = frozenset(("source", "syntaxhighlight"))
_LITERAL = frozenset(("nowiki", "pre"))
"""Tags whose content is literal text."""
_FORMULAS = {"math": "{}", "chem": r"\ce{{{}}}", "ce": r"\ce{{{}}}"}
"""Tag of a formula -> template of its TeX."""
_BLOCKS = frozenset("br hr li dd dt p div blockquote ul ol dl center poem pre h1 h2 h3 h4 h5 h6 tr caption".split())
_RAISED = str.maketrans("0123456789+-−=()n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ⁿ")
_LOWERED = str.maketrans("0123456789+-−=()", "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎")
_SMALL = {"sup": (_RAISED, frozenset("0123456789+-−=()n")), "sub": (_LOWERED, frozenset("0123456789+-−=()"))}
_MAX_SMALL = 12
_HEADING = re.compile(r"^=.*=[ \t]*$", re.MULTILINE)
_LEFT_OVER = re.compile(r"^[ \t]*[|!{}].*$", re.MULTILINE)
_MAGIC_WORD = re.compile(r"__([^\W\d](?:(?!__)\w){1,60})__")
_COMMENT = re.compile(r"\n[ \t]*<!--(?:(?!-->).)*-->[ \t]*(?=\n)|<!--.*?(?:-->|\Z)", re.DOTALL)
"""Comment, with its line if there is nothing else on it; an unclosed comment extends to the end of the page."""
_REFERENCE = re.compile(
    r"<ref\b[^<>]*/>|<ref\b[^<>]*>[^<]*+(?:<(?!/?ref\b)[^<]*+)*+</ref\s*>",
    re.IGNORECASE,
)
"""Reference; removed before parsing, because references would take most of the time."""
_STRAY_TAG = re.compile(
    r"</?(abbr|b|big|blockquote|br|center|cite|code|dd|del|div|dl|dt|em|font|gallery|i|includeonly|ins|li|math|noinclude|nowiki|ol|onlyinclude"
    r"|p|poem|ref|references|s|section|small|span|strong|sub|sup|table|td|th|tr|tt|u|ul)\b[^<>\n]{0,300}>",
    re.IGNORECASE,
)
_FILE = re.compile(
    r"[^|]{1,250}\.(?:jpe?g|png|svg|gif|tiff?|webp|xcf|djvu|pdf|og[gav]|oga|opus|flac|mid|mp3|wav|webm|mp4|stl)\s*", re.IGNORECASE
)
_UNCLOSED = re.compile(r"\[\[([^\[\]\n|:]{1,50}):[^\n]*")
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_QUOTES = f"'{APOSTROPHE}"
_WORD_BEGINS_BEHIND = "([{（［【〔「『《〈“«„‘、，：；·・/–—-=~≈+×|"
_UNSPACED = re.compile("[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff66-\uff9f]")


@dataclasses.dataclass(frozen=True, slots=True)
class _Page:
    language: str
    media: frozenset[str]


def plain(wikitext: str, language: str, media: frozenset[str] = keywords.COMMON_MEDIA_NAMESPACES) -> str:
    """Convert an article's wikitext to text.

    Formulas become TeX between dollar signs.

    Args:
        wikitext: Wikitext of the dump.
        language: Language of the dump; nothing is cut off if `headings.TRAILING` lacks it.
        media: Further namespaces, in lower case, of links to files and categories, in addition to those of the language.
    """
    page = _Page(language, media | keywords.COMMON_MEDIA_NAMESPACES | frozenset(keywords.MEDIA_NAMESPACES.get(language, "").split()))
    wikitext = _COMMENT.sub("", wikitext).replace(REMOVED, "").replace(APOSTROPHE, "")
    wikitext = headings.before_references(variants.choose(wikitext, language), language)
    # removing markup can create the start of a comment, and the parser would search for the end of each
    wikitext = _REFERENCE.sub(REMOVED, wikitext).replace("<!--", "&lt;!--")
    code = mwparserfromhell.parse(wikitext, skip_style_tags=True)
    text = styles.strip(removals.tidy(_render(code, page, is_bare=True)))
    text = _LEFT_OVER.sub("", _HEADING.sub(lambda heading: headings.title(heading[0]), text))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.strip(" \t") for line in text.split("\n"))).strip()


def is_redirect(wikitext: str) -> bool:
    """Return True if a page is a redirect; old dumps mark redirects only in the text."""
    word = re.match(r"\s*[#＃]\s*([^\W\d_]{2,30})\s*:?\s*\[\[", wikitext)
    return bool(word) and word[1].lower() in keywords.REDIRECTS


def _render(code: Wikicode, page: _Page, is_bare: bool = False) -> str:
    """Render parsed markup as text with placeholders of removed markup.

    Args:
        code: The markup.
        page: Its page.
        is_bare: True if the markup starts a line.
    """
    nodes = list(code.nodes)
    parts: list[str] = []
    before = ""
    for i, node in enumerate(nodes):
        if isinstance(node, Template):
            part = _template(node, page, before, is_bare, nodes[i + 1 : i + 8])
        else:
            render = _RENDERERS.get(type(node))
            part = render(node, page) if render else ""
            if isinstance(node, Tag) and node.wiki_markup in ("*", "#", ";", ":"):
                is_bare = False
                if node.wiki_markup == ":" and parts and not parts[-1].endswith("\n"):
                    part = " " if before.endswith((" ", ":")) else ": "
        if part:
            parts.append(part)
            if part != REMOVED:
                before = (before + part)[-8:] if len(part) < 8 else part[-8:]
            line = part.rpartition("\n")
            is_bare = (is_bare or bool(line[1])) and not line[2].strip(" \t" + REMOVED)
    return "".join(parts)


def _template(node: Template, page: _Page, before: str, is_bare: bool, following: list[Node]) -> str:
    name = templates.name_of(node)
    after = _beginning(following)
    if name in templates.CHARACTERS:
        mark = templates.CHARACTERS[name]
        mark = mark.lstrip(" ") if before.endswith(" ") else mark
        return mark.rstrip(" ") if after.startswith(" ") else mark
    if is_bare and name in templates.QUOTATIONS:
        return templates.quotation(node, lambda code: _render(code, page))
    if is_bare and (not after.strip(" \t") or (after[0].isalnum() and not _UNSPACED.match(after)) or "\n" in str(node)):
        return REMOVED
    behind = before.rstrip(_QUOTES + REMOVED)[-1:]
    if not (is_bare or not behind or behind.isspace() or behind in _WORD_BEGINS_BEHIND or _UNSPACED.match(behind) or _opens(before)):
        return REMOVED
    return templates.words(node, name, page.language, lambda code: _render(code, page))


def _opens(before: str) -> bool:
    """Return True if a straight quotation mark at the end of the text opens a quotation."""
    return before.endswith('"') and (len(before) == 1 or before[-2].isspace() or before[-2] in "(（")


def _beginning(nodes: list[Node]) -> str:
    """Return the first relevant characters of the rest of the line, skipping templates."""
    blanks = ""
    for node in nodes:
        if isinstance(node, Text):
            line, end, _ = node.value[:20].partition("\n")
            if end or line.strip(" \t"):
                return blanks + line
            blanks += line
        elif not isinstance(node, Template) and _RENDERERS.get(type(node)):
            return blanks + ("," if isinstance(node, Tag) else "[")
    return blanks


def _text(node: Text, page: _Page) -> str:
    text = node.value
    if "[[" in text:
        text = _UNCLOSED.sub(lambda link: "" if link[1].strip().lower() in page.media else link[0], text)
    if "<" in text:
        text = _STRAY_TAG.sub(lambda tag: "\n" if tag[1].lower() in _BLOCKS else "", text)
    if "__" in text:
        text = _MAGIC_WORD.sub(lambda word: "" if not word[1].islower() and word[1].lower() in keywords.MAGIC_WORDS else word[0], text)
    return text


def _entity(node: HTMLEntity, page: _Page) -> str:
    text = node.normalize()
    if unicodedata.category(text) in ("Cc", "Cs") and text not in "\t\n":
        return ""
    return APOSTROPHE if text == "'" else text


def _heading(node: Heading, page: _Page) -> str:
    return _render(node.title, page).strip()


def _argument(node: Argument, page: _Page) -> str:
    return _render(node.default, page) if node.default is not None else REMOVED


def _link(node: Wikilink, page: _Page) -> str:
    title = str(node.title)
    space, colon, _ = title.strip().partition(":")
    space = space.strip().lower()
    if colon and (space in page.media or space in keywords.LANGUAGE_PREFIXES or (space and _FILE.fullmatch(title))):
        return REMOVED
    text = "" if node.text is None else _render(node.text, page)
    return text or _render(node.title, page).strip().removeprefix(":")


def _external(node: ExternalLink, page: _Page) -> str:
    if not node.brackets:
        return str(node.url)
    return _render(node.title, page) if node.title is not None else REMOVED


def _tag(node: Tag, page: _Page) -> str:
    name = str(node.tag).strip().lower()
    if name in _FORMULAS:
        formula = " ".join(_literal(node).split())
        return f"${_FORMULAS[name].format(formula)}$" if formula else REMOVED
    if name in _LITERAL:
        return f"\n{_literal(node)}\n" if name in _BLOCKS else _literal(node)
    if name in _DROPPED:
        is_inline = name in _INLINE_CODE and any(str(one.name).strip() == "inline" for one in node.attributes)
        return _literal(node) if is_inline else REMOVED
    if node.wiki_markup or node.contents is None:
        return "\n" if name in _BLOCKS and not node.wiki_markup else ""
    if node.attributes and any(_HIDDEN.search(str(one.value)) for one in node.attributes if one.value is not None):
        return REMOVED
    text = _render(node.contents, page, is_bare=name in _BLOCKS)
    if name in _BLOCKS:
        return f"\n{text}\n"
    if name in _SMALL and len(text) <= _MAX_SMALL:
        table, characters = _SMALL[name]
        return text.translate(table) if characters.issuperset(text) else text
    return f"({text})" if name == "rt" and text else f"{text} " if name in ("td", "th") else text


def _literal(node: Tag) -> str:
    """Return the content of a tag, with its apostrophes protected from being read as markup."""
    return str(node.contents or "").replace("'", APOSTROPHE)


_RENDERERS: dict[type, Callable[..., str]] = {
    Text: _text,
    HTMLEntity: _entity,
    Heading: _heading,
    Argument: _argument,
    Wikilink: _link,
    ExternalLink: _external,
    Tag: _tag,
}
"""Node type -> renderer; comments have none."""
