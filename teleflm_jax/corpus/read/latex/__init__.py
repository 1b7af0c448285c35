r"""Reader of arXiv's LaTeX sources: papers without comments, hidden drafts, preamble and bibliography, with authors' macros expanded.

Source: LLaMA (Touvron et al. 2023), section 2.1: "we removed everything before the first section, as well as the bibliography. We also
removed the comments from the .tex files, and inline-expanded definitions and macros written by users"; with a `\begin{document}`, the text
begins there. The result is LaTeX. Files: `.tex`; `.gz`, `.tgz` and `.tar.gz`, one paper each; `.tar`, one paper or, as distributed by
arXiv, many `.gz`. Archives are read in memory, and no path named in a file is opened.
"""

import dataclasses
import gzip
import io
import posixpath
import re
import struct
import tarfile
import typing
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

from teleflm_jax.corpus.read import LONGEST, RawDocument
from teleflm_jax.corpus.read.latex import conditionals, macros, scanner
from teleflm_jax.documents import work_units
from teleflm_jax.documents.charsets import decode
from teleflm_jax.documents.statistics import Statistics

ARCHIVE_BYTES = 64 << 20
"""Maximum bytes of a paper, compressed and decompressed."""
MAX_INPUT_DEPTH = 10
MAX_INPUTS = 10_000
MAIN_FILES = 10
"""Maximum files with `\\documentclass` that are assembled from an archive; the longest result is the paper."""
DAMAGED = "truncated or damaged file"
_DAMAGE = (tarfile.TarError, EOFError, ValueError, ArithmeticError, RecursionError, LookupError, struct.error, zlib.error)
_TOO_LONG = f"archive longer than {ARCHIVE_BYTES >> 20} MiB"
_NO_LATEX = "no LaTeX by its name"
_TEX, _ZIPPED = (".tex", ".ltx", ".latex"), (".gz", ".tgz")
_MAIN = re.compile(r"\\document(?:class|style)\b")
_BEGIN, _END = re.compile(r"\\begin\s*\{document\}"), re.compile(r"\\end\s*\{document\}")
_SECTION = re.compile(r"\\(?:part|chapter|section|subsection|subsubsection|paragraph)\b\*?\s{0,9}[\[{]")
_BIBLIOGRAPHY = re.compile(
    r"\\(?:bibliography\s{0,9}\{|printbibliography\b|begin\s{0,9}\{(?:thebibliography|bibdiv|references|REFERENCES)\})"
)
_STYLE = re.compile(r"\\bibliographystyle\s{0,9}\{[^{}\n]{0,200}\}")
_INPUTS = frozenset(("input", "include", "subfile", "subfileinclude"))
_FILE_NAME = re.compile(r"\s{0,9}(?:\{\s{0,9}([^{}\n]{1,200})\}|([^\s{}\\%]{1,200}))")
_INPUT_ENCODING = re.compile(rb"\\usepackage\[([a-z0-9-]{1,20})\]\{inputenc\}")
_ENCODINGS = {"ansinew": "windows-1252", "applemac": "macintosh", "latin9": "iso-8859-15"}
"""LaTeX's names of character sets that browsers, and thus `decode`, do not know -> known names."""


@dataclasses.dataclass(frozen=True, slots=True)
class _BoundedFile:
    """A file that refuses impossible reads and seeks; tarfile would read any length in a forged header at once."""

    file: BinaryIO
    size: int

    def read(self, size: int) -> bytes:
        if not 0 <= size <= ARCHIVE_BYTES:
            raise ValueError("a header with an impossible size")
        return self.file.read(size)

    def seek(self, position: int) -> int:
        if not 0 <= position <= self.size:
            raise ValueError("an offset outside the file")
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()


def read(path: str, file_range: work_units.FileRange, statistics: Statistics) -> Iterator[RawDocument]:
    """Read the papers of a file.

    Args:
        path: Path of the file.
        file_range: The file, with its name in statistics.
        statistics: Counts papers without text, and members of archives that are not read.

    Yields:
        Papers in the order of the file.
    """
    name = file_range.path.lower()
    if not name.endswith((*_TEX, *_ZIPPED, ".tar")):
        statistics.drop(_NO_LATEX, file_range.path, "")
        return
    with open(path, "rb") as file:
        if name.endswith(".tar"):
            yield from _read_tar(file, file_range.path, statistics)
        elif name.endswith(_ZIPPED):
            yield from _read_gzip(file.read(ARCHIVE_BYTES + 1), file_range.path, statistics)
        else:
            yield from _read_paper({posixpath.basename(file_range.path): file.read(LONGEST + 1)}, file_range.path, statistics)


def body_of(text: str, known: macros.Macros) -> str:
    """Return the body of a paper with its macros expanded; empty if there is neither a document nor a section."""
    begin = _BEGIN.search(text)
    start = begin or _SECTION.search(text)
    if not start:
        return ""
    macros.expand(text[: start.start()], known)
    text = text[begin.end() if begin else start.start() :]
    if end := _END.search(text):
        text = text[: end.start()]
    text = macros.expand(text, known)
    if bibliography := _BIBLIOGRAPHY.search(text):
        text = text[: bibliography.start()]
    return re.sub(r"\n(?:[ \t]*\n){2,}", "\n\n", _STYLE.sub("", text)).strip()


def _read_gzip(packed: bytes, origin: str, statistics: Statistics) -> Iterator[RawDocument]:
    """Yield the paper of a gzip file, which contains one TeX file or a tar of several."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            data = file.read(ARCHIVE_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        statistics.drop(DAMAGED, origin, "")
        return
    if max(len(packed), len(data)) > ARCHIVE_BYTES:
        statistics.drop(_TOO_LONG, origin, "")
    elif _is_tar(data):
        yield from _read_tar(io.BytesIO(data), origin, statistics, nested=True)
    elif data.startswith((b"%PDF", b"%!PS")):
        statistics.drop("no TeX in the archive", origin, data)
    else:
        yield from _read_paper({"": data}, origin, statistics)


def _is_tar(data: bytes) -> bool:
    try:
        tarfile.open(fileobj=typing.cast(BinaryIO, _BoundedFile(io.BytesIO(data), len(data))), mode="r:").close()
    except _DAMAGE:
        return False
    return True


def _read_tar(file: BinaryIO, path: str, statistics: Statistics, nested: bool = False) -> Iterator[RawDocument]:
    """Yield the papers in a tar: those in its gzip files, unless it is nested itself, and the one that its TeX files form."""
    own: dict[str, bytes] = {}
    size = 0
    try:
        for name, tar, member in _members(file, path, statistics):
            origin = f"{path}#{name}"
            if name.lower().endswith(_TEX):
                if member.size > LONGEST:
                    statistics.drop(f"longer than {LONGEST >> 20} MiB", origin, "", member.size)
                    continue
                own[name] = _content(tar, member)
                size += len(own[name])
                if size > ARCHIVE_BYTES:
                    statistics.drop(_TOO_LONG, path, "")
                    return
            elif nested:
                continue  # figures and style files
            elif not name.lower().endswith(_ZIPPED):
                statistics.drop(_NO_LATEX, origin, "", member.size)
            elif member.size > ARCHIVE_BYTES:
                statistics.drop(_TOO_LONG, origin, "", member.size)
            else:
                yield from _read_gzip(_content(tar, member), origin, statistics)
    except _DAMAGE:
        statistics.drop(DAMAGED, path, "")
        return
    if own:
        yield from _read_paper(own, path, statistics)
    elif nested:
        statistics.drop("no TeX in the archive", path, "")


def _members(file: BinaryIO, path: str, statistics: Statistics) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    """Yield the regular files of an archive with their paths."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    bounded = typing.cast(BinaryIO, _BoundedFile(file, size))
    with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8", errors="replace") as tar:
        previous = -1
        while (member := tar.next()) is not None:
            typing.cast(Any, tar).members = []  # tarfile would keep all members
            if member.size < 0 or tar.offset <= previous:
                raise ValueError("a header that points back")  # an endless loop
            previous = tar.offset
            name = _normalized_path(member.name)
            if not name or not (member.isreg() or member.isdir()):
                statistics.drop("link or path that leads out of its archive", f"{path}#{member.name}", "")
            elif member.isreg():
                yield name, tar, member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # a plain file's
    with file:
        return file.read(ARCHIVE_BYTES)


def _normalized_path(name: str) -> str:
    """Return a normalized path; empty if it leads out of its archive."""
    path = posixpath.normpath(name) if name else ""
    return "" if path.startswith("/") or path.split("/")[0] == ".." else path


def _read_paper(files: Mapping[str, bytes], origin: str, statistics: Statistics) -> Iterator[RawDocument]:
    """Yield the paper that TeX files form."""
    size = sum(map(len, files.values()))
    if max(map(len, files.values())) > LONGEST:
        statistics.drop(f"longer than {LONGEST >> 20} MiB", origin, "", size)
        return
    named = next((found[1].decode() for data in files.values() if (found := _INPUT_ENCODING.search(data))), "")
    decoded = {name: decode(data, _ENCODINGS.get(named, named)) for name, data in files.items()}
    texts = {
        name: scanner.without_comments(re.sub(r"\r\n?", "\n", text))
        for name, text in decoded.items()
        if text is not None and "\0" not in text
    }
    if not texts:
        statistics.drop("unknown character set", origin, "", size)
        return
    try:
        mains = [name for name, text in texts.items() if _MAIN.search(text)] or list(texts)
        mains.sort(key=lambda name: (name.count("/"), -len(texts[name]), name))
        text = max((conditionals.without_dead_branches(_assemble(name, texts)) for name in mains[:MAIN_FILES]), key=len)
        body = body_of(text, macros.Macros())
    except OverflowError:
        statistics.drop("inputs or macros that unfold too far", origin, "", size)
        return
    if body:
        yield RawDocument("text", origin, body.encode(), charset="utf-8")
    else:
        statistics.drop("neither a document nor a section", origin, text)


def _assemble(name: str, texts: Mapping[str, str]) -> str:
    """Return a file with its inputs inserted.

    Raises:
        OverflowError: The result is longer than LONGEST, or has more than MAX_INPUTS inputs.
    """
    folder = posixpath.dirname(name)
    characters, inputs = LONGEST, MAX_INPUTS

    def unfold(name: str, active: tuple[str, ...]) -> Iterator[str]:
        nonlocal characters, inputs
        text = texts[name]
        if active and _MAIN.search(text) and (begin := _BEGIN.search(text)):
            end = _END.search(text, begin.end())  # a file that can also be compiled alone
            text = text[begin.end() : end.start() if end else len(text)]
        characters, inputs = characters - len(text), inputs - 1
        if min(characters, inputs) < 0:
            raise OverflowError
        position = 0
        for token in scanner.scan(text):
            if token["command"] == "endinput":
                text = text[: token.start()]
                break
            if token["command"] not in _INPUTS or not (argument := _FILE_NAME.match(text, token.end())):
                continue
            yield text[position : token.start()]
            position = argument.end()
            wanted = _find_file((argument[1] or argument[2]).strip(), folder, texts)
            if wanted is not None and wanted not in (*active, name) and len(active) < MAX_INPUT_DEPTH:
                yield from unfold(wanted, (*active, name))
        yield text[position:]

    return "".join(unfold(name, ()))


def _find_file(wanted: str, folder: str, texts: Mapping[str, str]) -> str | None:
    """Return the path in the archive that an input refers to; None if there is none."""
    inside = [_normalized_path(posixpath.join(folder, wanted)), _normalized_path(wanted)]
    return next((name + ending for name in inside if name for ending in ("", ".tex") if name + ending in texts), None)
