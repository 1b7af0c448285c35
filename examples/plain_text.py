"""Convert the formats of Debian's documentation packages to plain text, with the standard library alone.

This is not a general extractor: each function knows the one format that it is named after, and leaves out everything but prose:
navigation, credits, long tables.
"""

import html.parser
import re
from collections.abc import Iterable, Iterator
from xml.etree import ElementTree

MAX_TABLE_ROWS = 40
"""Rows of a table that are kept; longer tables are lists of codes and symbols rather than prose."""

_HAN = "\u3000-\u303f\u3400-\u9fff\uff00-\uffef"
_SCRIPTS = {"zh": "\u3400-\u9fff", "ja": "\u3040-\u30ff\u3400-\u9fff", "ru": "\u0400-\u04ff"}


class _Prose(html.parser.HTMLParser):
    """Parser that collects the blocks of a page's text."""

    SKIPPED = frozenset("head header nav aside footer script style noscript button svg".split())
    SKIPPED_CLASSES = frozenset(("howtogetheader", "relatedtopics", "MAC", "headerlink", "sphinxsidebar", "navheader", "navfooter"))
    VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
    BLOCKS = frozenset("p div h1 h2 h3 h4 h5 h6 li ul ol dl dt dd pre section article blockquote figure table caption br hr tr".split())

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[str] = []
        self._line: list[str] = []
        self._skipped = ""
        self._depth = 0
        self._verbatim = 0
        self._rows: list[int] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        if self._skipped:
            self._depth += tag == self._skipped
            return
        classes = next((value for name, value in attrs if name == "class" and value), "")
        if tag in self.SKIPPED or (classes and tag not in self.VOID and not self.SKIPPED_CLASSES.isdisjoint(classes.split())):
            self._skipped, self._depth = tag, 1
            return
        if tag == "table":
            self._end_block()
            self._rows.append(0)
        elif tag == "pre":
            self._end_block()
            self._verbatim += 1
        elif tag == "tr" and self._rows:
            self._rows[-1] += 1
        elif tag in self.BLOCKS and not self._rows:
            self._end_block()

    def handle_endtag(self, tag: str) -> None:
        if self._skipped:
            self._depth -= tag == self._skipped
            if not self._depth:
                self._skipped = ""
        elif tag == "tr" or (tag in self.BLOCKS and not self._rows):
            self._end_block()
            self._verbatim = max(0, self._verbatim - (tag == "pre"))
        elif tag in ("td", "th") and self._rows:
            self._line.append(" | ")
        elif tag == "table" and self._rows:
            self._end_block()
            self._rows.pop()

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self._line.append(data)

    def _end_block(self) -> None:
        text = "".join(self._line)
        self._line.clear()
        text = text.strip("\n") if self._verbatim else " ".join(text.split()).strip("| ")
        if text.strip() and not (self._rows and self._rows[-1] > MAX_TABLE_ROWS):
            self.blocks.append(re.sub(r"( \|)+ ", " | ", text) if self._rows else text)


_UNREAD = re.compile(
    r"<(head|header|script|style|noscript|aside|nav|footer)\b.*?</\1\s*>|<a(?! class)[^>]*>|</?(?:b|i|em|strong|img|font)\b[^>]*>|</a>",
    re.DOTALL,
)
"""Markup that the parser would ignore; it is removed first, because the parser is the slow part."""


def from_html(markup: str) -> str:
    """Return a page's prose: one block per line, the cells of a table's row joined by bars."""
    page = _Prose()
    page.feed(_UNREAD.sub("", markup))
    page.close()
    page._end_block()
    return "\n".join(page.blocks)


_RST_TABLE = re.compile(
    r"^([ \t]*)\.\. (?:flat-table|list-table|csv-table|tabularcolumns|raw)::.*\n(?:\1[ \t]+.*\n|[ \t]*\n)*", re.MULTILINE
)
_RST_GRID = re.compile(r"(?:^[ \t]*(?:\+[-=+]{3,}\+|\|.*\|)[ \t]*\n){3,}", re.MULTILINE)


def from_rst(source: str) -> str:
    """Return a page's source unchanged, but without its tables."""
    return _RST_GRID.sub("", _RST_TABLE.sub("", source + "\n"))


def from_mallard(markup: str) -> str:
    """Return the title, description and text of a GNOME help page (Mallard XML), without the credits."""
    tag = "{http://projectmallard.org/1.0/}"
    root = ElementTree.fromstring(markup)
    blocks = []
    for element in root.iter():
        if element.tag in (tag + "title", tag + "p", tag + "desc", tag + "code", tag + "screen"):
            blocks.append(" ".join("".join(element.itertext()).split()))
    return "\n".join(block for block in blocks if block)


def from_man(source: str) -> str:
    """Return a manual page without roff requests and escapes, with filled text joined to one line per paragraph."""
    paragraphs: list[str] = []
    line, verbatim, skipping = "", False, ""

    def end() -> None:
        nonlocal line
        if line.strip():
            paragraphs.append(line if verbatim else line.strip())
        line = ""

    for raw in source.split("\n"):
        request, _, rest = raw[1:].strip().partition(" ") if raw[:1] in (".", "'") else ("", "", raw)
        if skipping or request in _MAN_SKIPPED:
            skipping = (
                "" if skipping and request in ("", skipping) and raw.startswith("." + skipping) else skipping or _MAN_SKIPPED[request]
            )
            continue
        if request in _MAN_BREAKS or (not request and not raw.strip()):
            end()
        if request in _MAN_HEADINGS:
            end()
            paragraphs.append(_unescape(" ".join(_arguments(rest))))
        elif request in ("nf", "EX"):
            end()
            verbatim = True
        elif request in ("fi", "EE"):
            end()
            verbatim = False
        elif request in _MAN_FONTS or not raw.startswith((".", "'")):
            text = _unescape(_MAN_FONTS.get(request, "").join(_arguments(rest)) if request else rest)
            line = text if not line else _join(line, text)
            if verbatim or line.endswith("\x00"):
                end()
    end()
    return "\n".join(paragraphs)


_MAN_SKIPPED = {"TS": "TE", "EQ": "EN", "de": ".", "ig": "."}
"""Requests that open a part without text -> the request that ends it."""
_MAN_BREAKS = frozenset("PP LP P IP TP TQ HP sp br RS RE Pp It Bl El".split())
_MAN_HEADINGS = frozenset("SH SS Sh Ss".split())
_MAN_FONTS = {"B": " ", "I": " ", "SM": " ", "SB": " ", "BR": "", "RB": "", "IR": "", "RI": "", "BI": "", "IB": ""} | dict.fromkeys(
    "Nm Nd Xr Fl Ar Op Cm Pa Dq Sq Em Va Li Ql Ev Dv Er Fn Ft Fa".split(), " "
)
"""Requests whose arguments are text -> the separator of the arguments."""


def _arguments(rest: str) -> list[str]:
    """Return a request's arguments: words, or text in double quotes."""
    return [quoted.replace('""', '"') or word for quoted, word in re.findall(r'"((?:[^"]|"")*)"?|(\S+)', rest)]


_MAN_ESCAPES = (
    (re.compile(r'\\["#].*'), ""),
    (re.compile(r"\\f(?:\[[^\]]*\]|\(..|.)|\\s[+-]?\d+|\\[mMF]\[[^\]]*\]|\\[hvwlL]'[^']*'|\\[&|^%,/:)ud]|\\[nk](?:\[[^\]]*\]|\(..|.)"), ""),
    (re.compile(r"\\\((?:lq|rq)|\\\*\((?:lq|rq)"), '"'),
    (re.compile(r"\\\((?:aq|oq|cq)"), "'"),
    (re.compile(r"\\\((?:em|en|hy|mi)"), "-"),
    (re.compile(r"\\\((?:bu|\*\w)"), "*"),
    (re.compile(r"\\(?:\*|\()(?:\[[^\]]*\]|..)|\\\[[^\]]*\]"), ""),
    (re.compile(r"\\[ ~0]"), " "),
    (re.compile(r"\\c$"), ""),
    (re.compile(r"\\e"), r"\\"),
    (re.compile(r"\\([-.'`\\])"), r"\1"),
)


def _unescape(text: str) -> str:
    if "\\" in text:
        for pattern, replacement in _MAN_ESCAPES:
            text = pattern.sub(replacement, text)
    return text


def _join(left: str, right: str) -> str:
    """Join two source lines; Chinese and Japanese have no space at a line break."""
    tight = re.search(f"[{_HAN}]$", left) and re.match(f"[{_HAN}]", right)
    return left + right.lstrip() if tight else f"{left.rstrip()} {right.lstrip()}"


_POD_CODE = re.compile(r"\b([BCFILSXZ])<(?:<+ (.*?) >+|([^<>]*))>", re.DOTALL)
_POD_ENTITIES = {"lt": "<", "gt": ">", "verbar": "|", "sol": "/"}


def from_pod(source: str) -> str:
    """Return the text and code of Perl's documentation, without formatting codes and commands."""
    paragraphs = []
    for paragraph in re.split(r"\n[ \t]*\n", source):
        command, _, rest = paragraph.strip().partition(" ")
        if paragraph[:1] in (" ", "\t"):
            paragraphs.append(paragraph.rstrip())
        elif not command.startswith("="):
            paragraphs.append(_strip_pod(paragraph))
        elif command.startswith(("=head", "=item")):
            paragraphs.append(_strip_pod(rest))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph.strip())


def _strip_pod(text: str) -> str:
    before = None
    while before != text:
        before = text
        text = _POD_CODE.sub(_pod_content, text)
    return re.sub(r"\bE<(\w+)>", lambda match: _POD_ENTITIES.get(match[1], ""), text).strip()


def _pod_content(match: re.Match) -> str:
    letter, content = match[1], match[2] if match[2] is not None else match[3]
    if letter in "XZ":
        return ""
    return content.partition("|")[0] if letter == "L" else content


def from_fortunes(source: str) -> Iterator[str]:
    """Return the sayings and poems of a fortune file without terminal colours, joined to documents of about 2,000 characters."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", source)
    return _grouped((part.strip() for part in re.split(r"^%\s*$", plain, flags=re.MULTILINE)), between="\n\n")


def from_wordnet(source: str) -> Iterator[str]:
    """Return WordNet's synsets as `word, word: explanation`, with neighbours in the hierarchy joined to one document."""
    return _grouped((_synset(line) for line in source.split("\n") if " | " in line[:20_000] and line[:1].isdigit()), between="\n")


def from_metamath(source: str) -> Iterator[str]:
    """Return the axioms, theorems and proofs of a Metamath database unchanged, with neighbours joined to one document."""
    return _grouped(re.split(r"\n\s*\n", source), between="\n\n")


def _synset(line: str) -> str:
    fields, _, gloss = line.partition(" | ")
    parts = fields.split(" ")
    words = [re.sub(r"\(\w+\)$", "", word).replace("_", " ") for word in parts[4 : 4 + 2 * int(parts[3], 16) : 2]]
    return f"{', '.join(words)}: {gloss.strip()}"


def _grouped(texts: Iterable[str], *, between: str, num_characters: int = 2_000) -> Iterator[str]:
    group: list[str] = []
    size = 0
    for text in filter(None, texts):
        group.append(text)
        size += len(text)
        if size >= num_characters:
            yield between.join(group)
            group, size = [], 0
    if group:
        yield between.join(group)


def is_in_language(text: str, language: str, *, share: float = 0.3) -> bool:
    """Return whether at least this share of the letters is in the language's script; true for a language in Latin letters.

    This recognises untranslated pages and lists of codes among the translated pages.
    """
    if language not in _SCRIPTS:
        return True
    letters = len(re.findall(r"[^\W\d_]", text))
    return len(re.findall(f"[{_SCRIPTS[language]}]", text)) >= share * max(letters, 1)


def without_lines(text: str, originals: set[str]) -> str:
    """Return the text without the sentences of the English original, which nobody translated."""
    return "\n".join(line for line in text.split("\n") if line not in originals)
