"""The packages and files of the quickstart's text, chosen for clean prose, size, and a licence that lets anyone use them."""

import dataclasses
from collections.abc import Callable, Iterator

import plain_text


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """Some files of one package, and their conversion to text."""

    package: str
    domain: str
    files: str
    """Pattern of the paths; its group `page` is the page's name, which is the same in every language."""
    text: Callable[[str], str | Iterator[str]] = str
    """Function from a file's content to its text, or to several documents."""
    family: str = ""
    """Name of the collection of pages; the package's name if empty."""
    language: str = "en"
    through: str = ""
    """Pattern of the dependency that has the files, if `package` only names its current version."""
    pages: bool = False
    """Whether each line is a paragraph, so that untranslated and often repeated ones can be left out."""
    large: bool = False
    """Whether the source is only in the large set."""


def _office(language: str, domain: str, *, large: bool = False) -> Source:
    return Source(
        package=f"libreoffice-help-{language}",
        domain=domain,
        files=r"usr/share/libreoffice/help/[\w-]+/text/(?!sbasic)(?P<page>.+)\.html",
        text=plain_text.from_html,
        family="libreoffice-help",
        language=language[:2],
        pages=True,
        large=large,
    )


def _desktop(folder: str, domain: str) -> Source:
    return Source(
        package="gnome-user-docs",
        domain=domain,
        files=rf"usr/share/help/{folder}/(?P<page>gnome-help/.+)\.page",
        text=plain_text.from_mallard,
        language="en" if folder == "C" else folder[:2],
        pages=True,
    )


def _manual(folder: str, *, large: bool = False) -> Source:
    return Source(
        package="manpages-zh",
        domain="chinese",
        files=rf"usr/share/man/{folder}/man\d/(?P<page>.+)\.gz",
        text=plain_text.from_man,
        language="zh",
        pages=True,
        large=large,
    )


# English comes before its translations, from which untranslated paragraphs are removed.
SOURCES = (
    _office("en-us", "english"),
    _desktop("C", "english"),
    Source(
        package="python3-doc",
        through=r"python3\.\d+-doc",
        domain="english",
        files=r"usr/share/doc/.+/_sources/(?P<page>.+)\.rst\.txt",
        text=plain_text.from_rst,
    ),
    Source(
        package="perl-doc",
        domain="english",
        # Without lists of changes, the table of contents and pages in other languages.
        files=r"usr/share/perl/.+/pod/(?P<page>perl(?!toc|cn|jp|ko|tw|\d+delta).*)\.pod",
        text=plain_text.from_pod,
    ),
    Source(
        package="wordnet-base",
        domain="english",
        files=r"usr/share/wordnet/data\.(?P<page>\w+)",
        text=plain_text.from_wordnet,
    ),
    _office("zh-cn", "chinese"),
    _desktop("zh_CN", "chinese"),
    _manual("zh_CN"),
    Source(
        package="fortunes-zh",
        domain="chinese",
        files=r"usr/share/games/fortunes/(?P<page>chinese)",
        text=plain_text.from_fortunes,
    ),
    *(_office(language, "multilingual") for language in ("de", "fr", "es", "ru", "ja")),
    *(_desktop(language, "multilingual") for language in ("de", "fr", "es", "ru", "ja")),
    Source(
        package="perl",
        through=r"perl-modules-\d[\d.]*",
        domain="code",
        files=r"usr/share/perl/[\d.]+/(?P<page>(?!unicore|Unicode|pod/).+)\.p[ml]",
    ),
    Source(
        package="linux-doc",
        through=r"linux-doc-\d[\d.]*",
        domain="english",
        files=r"usr/share/doc/[^/]+/Documentation/(?!translations)(?P<page>.+)\.rst(?:\.gz)?",
        text=plain_text.from_rst,
        large=True,
    ),
    Source(
        package="postgresql-doc",
        through=r"postgresql-doc-\d+",
        domain="english",
        files=r"usr/share/doc/[^/]+/html/(?P<page>.+)\.html",
        text=plain_text.from_html,
        large=True,
    ),
    Source(
        package="python3-sympy",
        domain="code",
        # Rule-based integration and the parsers are generated; tests are lists of formulas.
        files=r"usr/lib/python3/dist-packages/(?P<page>(?!.*(?:/tests/|/rubi/|_antlr/)).+)\.py",
        large=True,
    ),
    _office("zh-tw", "chinese", large=True),
    _manual("zh_TW", large=True),
    *(_office(language, "multilingual", large=True) for language in ("it", "pt", "pl", "nl", "cs")),
    Source(
        package="fortunes-zh",
        domain="classical",
        files=r"usr/share/games/fortunes/(?P<page>tang300|song100)",
        text=plain_text.from_fortunes,
        large=True,
    ),
    Source(
        package="metamath-databases",
        domain="math",
        files=r"usr/share/metamath/databases/(?P<page>iset|nf|ql|hol)\.mm",
        text=plain_text.from_metamath,
        large=True,
    ),
)
