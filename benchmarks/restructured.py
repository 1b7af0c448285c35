"""The text that readers see on a page made by Sphinx, from its reStructuredText: the truth for extraction from HTML.

Markup is removed. Words that Sphinx inserts are included if the source alone determines them: titles of notes, "Changed in version", `PEP`
before its number, a module's name before the names of its functions, the title that a reference names. Text from other files (included
code, comments of C files, tables of contents, indices) is missing; `brings_in` recognises pages that have such text.
"""

import dataclasses
import posixpath
import re
from collections.abc import Iterator, Mapping

_DIRECTIVE = re.compile(r"^(\s*)\.\.\s+(?:\|[^|]+\|\s+)?(\w[\w:+-]*?)::(?:\s+(.*))?$")
_EXPLICIT = re.compile(r"^(\s*)\.\.(?:\s|$)")
_FOOTNOTE = re.compile(r"^(\s*)\.\.\s+\[([^\]]+)\]\s*(.*)$")
_TARGET = re.compile(r"^\s*\.\.\s+_`?([^:`]+)`?:\s*(\S*)\s*$")
_REPLACED = re.compile(r"^\s*\.\.\s+\|([^|]+)\|\s+(?:replace|unicode)::\s+(.*)$")
_OPTION = re.compile(r"^\s+:[\w-]+:(\s|$)")
_UNDERLINE = re.compile(r"^([=\-`:'\"~^_*+#<>.])\1{2,}\s*$")
_INLINE = re.compile(
    r"``(?P<literal>.+?)``(?!`)"
    r"|(?::(?P<role>[a-zA-Z][\w:+-]*):)?`(?P<text>[^`]+)`(?P<after>:[a-z]+:|__?)?"
    r"|\[(?P<note>\d+|#\w*|\*)\]_"
    r"|\|(?P<name>[\w .-]+)\|_{0,2}"
    r"|(?P<path>\bDocumentation/[\w/.+-]+)\.rst"
    r"|\*{0,2}\\(?P<joined>\s)\*{0,2}|\\(?P<escaped>.)",
    re.DOTALL,
)
_TITLED = re.compile(r"^(.*?)\s*<([^<>]+)>$", re.DOTALL)
_ELSEWHERE = (
    "toctree literalinclude include kernel-doc kernel-include kernel-feat kernel-abi maintainers-include audit-event-table miscnews "
    "limited-api-list"
).split()
"""Directives that show text from outside the source."""
_HIDDEN = frozenset(
    "index sectionauthor moduleauthor highlight tabularcolumns testsetup testcleanup raw contents program cssclass image kernel-figure "
    "kernel-render c:namespace c:namespace-push c:namespace-pop sectnum meta default-domain math ifconfig title role".split()
    + _ELSEWHERE
)
"""Directives whose text is left out."""
_BRINGING = re.compile(rf"^\s*\.\.\s+(?:{'|'.join(_ELSEWHERE)})::", re.MULTILINE)
_SAID = {
    "note": "Note", "warning": "Warning", "seealso": "See also", "important": "Important", "caution": "Caution", "tip": "Tip",
    "hint": "Hint", "attention": "Attention", "danger": "Danger", "error": "Error", "availability": "Availability",
    "impl-detail": "CPython implementation detail", "envvar": "",
}  # fmt: skip
"""Directive -> the title that it gets."""
_WITHOUT_ARGUMENT = frozenset(
    "code-block sourcecode code doctest testcode testoutput parsed-literal productionlist only list-table flat-table module currentmodule "
    "figure".split()
)
"""Directives whose arguments are not text."""
_VERSIONS = {"versionadded": "New in version", "versionchanged": "Changed in version", "deprecated": "Deprecated since version"}
_KINDS = {
    "class": "class", "exception": "exception", "classmethod": "classmethod", "staticmethod": "static", "abstractmethod": "abstractmethod",
    "coroutinemethod": "coroutine", "coroutinefunction": "coroutine", "awaitablefunction": "awaitable", "awaitablemethod": "awaitable",
    "c:struct": "struct", "c:type": "type", "c:union": "union", "c:enum": "enum", "c:enumerator": "enumerator",
}  # fmt: skip
"""Directive of an object -> the word before its name."""
_OF_MODULE = frozenset(
    "function data class exception decorator coroutinefunction awaitablefunction attribute method classmethod staticmethod".split()
)
_OBJECTS = _OF_MODULE | frozenset(
    "coroutinemethod awaitablemethod abstractmethod cmdoption option opcode pdbcommand describe object decoratormethod 2to3fixer "
    "c:function c:member c:type c:var c:macro c:struct c:union c:enum c:enumerator rst:directive".split()
)
_SILENT_ROLES = frozenset("cspan rspan fill-cells".split())
_ROLE_PREFIX = {"pep": "PEP ", "PEP": "PEP ", "rfc": "RFC ", "RFC": "RFC ", "issue": "bpo-", "gh": "gh-"}


@dataclasses.dataclass(frozen=True)
class Titles:
    """Targets of references in a whole documentation."""

    documents: Mapping[str, str]
    """Path without ending -> first heading."""
    labels: Mapping[str, str]
    """Label -> the heading that follows it."""


def titles(sources: Mapping[str, str]) -> Titles:
    """Find the headings that references show.

    Args:
        sources: path without ending -> reStructuredText.
    """
    documents, labels = {}, {}
    for path, source in sources.items():
        waiting: list[str] = []
        lines = source.split("\n")
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            target = _TARGET.match(line)
            if target and not target[2]:
                waiting.append(target[1].lower())
            elif line.strip() and _UNDERLINE.match(after) and not _UNDERLINE.match(line):
                documents.setdefault(path, line.strip())
                labels.update(dict.fromkeys(waiting, line.strip()))
                waiting = []
            elif line.strip() and not line.startswith("..") and not _UNDERLINE.match(line):
                waiting = []
    bare = Titles({}, {})
    return Titles(*({name: _inline(title, "", bare, {}) for name, title in table.items()} for table in (documents, labels)))


def brings_in(source: str) -> bool:
    """Return whether a page shows text that is not in its source."""
    return bool(_BRINGING.search(source))


def visible(source: str, path: str, known: Titles, said: Mapping[str, str]) -> str:
    """Remove the markup.

    Args:
        source: reStructuredText.
        path: path of the page without its ending; relative references start from it.
        known: titles that references show.
        said: substitution -> text that the documentation's configuration defines.
    """
    said = dict(said) | {match[1]: match[2] for match in map(_REPLACED.match, source.split("\n")) if match}
    return _inline("\n".join(_lines(source.expandtabs().split("\n"))), path, known, said)


def _lines(lines: list[str]) -> Iterator[str]:
    """Yield the visible lines, with directives expanded."""
    at, module, notes = 0, "", 0
    while at < len(lines):
        line = lines[at]
        at += 1
        if found := _FOOTNOTE.match(line):
            notes += found[2].startswith("#")
            yield f"{found[1]}{notes if found[2].startswith('#') else found[2]} {found[3]}"
        elif found := _DIRECTIVE.match(line):
            depth, name, argument = len(found[1]), found[2].lower(), found[3] or ""
            if name in ("module", "currentmodule"):
                module = argument.strip()
            hidden = name in _HIDDEN or "|" in line[: found.start(2)] or (name == "only" and "html" not in argument)
            if hidden or any(":hide:" in option for option in lines[at : at + 2]):
                at = _end(lines, at, depth)
            elif name == "audit-event":
                yield _event(argument)
                at = _end(lines, at, depth)
            elif name in _OBJECTS:
                arguments = [argument]
                while at < len(lines) and lines[at].strip() and not _OPTION.match(lines[at]) and _depth(lines[at]) > depth:
                    arguments.append(lines[at].strip())
                    at += 1
                yield from (_signature(name, one, module, depth) for one in _joined(arguments))
            else:
                yield found[1] + _announced(name, argument)
            while at < len(lines) and _OPTION.match(lines[at]) and _depth(lines[at]) > depth:
                at += 1
        elif found := _EXPLICIT.match(line):
            at = _end(lines, at, len(found[1]))
        else:
            yield re.sub(r"\s*# ?doctest: ?[+-].*", "", line)


def _depth(line: str) -> int:
    return len(line) - len(line.lstrip())


def _end(lines: list[str], at: int, depth: int) -> int:
    """Return the line where the content of a directive ends."""
    while at < len(lines) and (not lines[at].strip() or _depth(lines[at]) > depth):
        at += 1
    return at


def _joined(arguments: list[str]) -> list[str]:
    """Return signatures, each of which may span several lines."""
    found: list[str] = []
    for argument in arguments:
        if found and (found[-1].endswith("\\") or found[-1].count("(") > found[-1].count(")")):
            found[-1] = f"{found[-1].removesuffix(chr(92))} {argument}"
        else:
            found.append(argument)
    return found


def _signature(name: str, argument: str, module: str, depth: int) -> str:
    prefix = f"{module}." if module and name in _OF_MODULE and depth == 0 else ""
    return f"{_KINDS.get(name, '')} {prefix}{argument.replace(chr(92), chr(92) * 2)}"


def _announced(name: str, argument: str) -> str:
    if name in _VERSIONS:
        return f"{_VERSIONS[name]} {argument}"
    if name == "deprecated-removed":
        since, _, rest = argument.partition(" ")
        until, _, rest = rest.partition(" ")
        return f"Deprecated since version {since}, will be removed in version {until}: {rest}"
    if name in _WITHOUT_ARGUMENT:
        return ""
    return f"{_SAID.get(name, '')} {argument}"


def _event(argument: str) -> str:
    """Return the sentence that CPython's documentation generates for an audit event."""
    name, *arguments = argument.split()
    arguments = [one.strip('",') for one in arguments if one.strip('",') and not one.startswith("#")]
    if not arguments:
        return f"Raises an auditing event {name} with no arguments."
    return f"Raises an auditing event {name} with argument{'s' if len(arguments) > 1 else ''} {', '.join(arguments)}."


def _inline(text: str, path: str, known: Titles, said: Mapping[str, str]) -> str:
    """Replace roles, references and substitutions in running text by their visible text."""
    notes = 0

    def shown(match: re.Match) -> str:
        nonlocal notes
        if match["literal"]:
            return match["literal"]
        if match["note"]:
            notes += match["note"].startswith("#")
            return str(notes) if match["note"].startswith("#") else match["note"]
        if match["name"]:
            return said.get(match["name"], match[0])
        if match["path"]:
            return known.documents.get(match["path"].removeprefix("Documentation/"), match[0])
        if match["joined"] or match["escaped"]:
            return match["escaped"] or ""
        return _of_role((match["role"] or (match["after"] or "").strip("_:")).rpartition(":")[2], match["text"], path, known)

    return _INLINE.sub(shown, text)


def _of_role(role: str, text: str, path: str, known: Titles) -> str:
    if role in _SILENT_ROLES:
        return ""
    if titled := _TITLED.match(text):
        return titled[1] or titled[2]
    if role in ("ref", "Ref"):
        return known.labels.get(" ".join(text.split()).lower(), text)
    if role == "doc":
        place = text.removeprefix("/") if text.startswith("/") else posixpath.normpath(posixpath.join(posixpath.dirname(path), text))
        return known.documents.get(place, text)
    if role == "abbr":
        return text.partition("(")[0]
    if role in ("pep", "PEP", "rfc", "RFC"):
        text = text.partition("#")[0]
    if text.startswith("~"):
        text = text.rpartition(".")[2]
    return _ROLE_PREFIX.get(role, "") + text.removeprefix("!")
