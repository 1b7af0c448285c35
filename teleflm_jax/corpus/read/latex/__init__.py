r"""arXiv's LaTeX sources: papers without comments, hidden drafts, preamble and bibliography, and with their authors' macros written out.

Source: LLaMA (Touvron et al. 2023), section 2.1: "we removed everything before the first section, as well as the bibliography. We also
removed the comments from the .tex files, and inline-expanded definitions and macros written by users"; where there is a
`\begin{document}`, the text begins there. What is left stays LaTeX. Files: `.tex`; `.gz`, `.tgz` and `.tar.gz`, one paper each; `.tar`,
a paper or, as arXiv hands them out, many `.gz`. Archives are read in memory, and no path that a file names is opened.
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

from teleflm_jax.corpus.read import LONGEST, Found
from teleflm_jax.corpus.read.latex import conditionals, macros, marks
from teleflm_jax.documents import work_units
from teleflm_jax.documents.charsets import decode
from teleflm_jax.documents.statistics import Tally

ARCHIVE_BYTES = 64 << 20
"""Of one paper, packed and unpacked."""
MAX_INPUT_DEPTH = 10
MAX_INPUTS = 10_000
MAIN_FILES = 10
"""Of an archive with several `\\documentclass`, so many are put together, and the longest is the paper."""
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
"""LaTeX's names of character sets that browsers, and so `decode`, do not know."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Guarded:
    """A file that refuses what only a made-up header asks of it; tarfile would read a header's whole length at once."""

    file: BinaryIO
    size: int

    def read(self, size: int) -> bytes:
        if not 0 <= size <= ARCHIVE_BYTES:
            raise ValueError("a header of such a size")
        return self.file.read(size)

    def seek(self, position: int) -> int:
        if not 0 <= position <= self.size:
            raise ValueError("outside of the file")
        return self.file.seek(position)

    def tell(self) -> int:
        return self.file.tell()


def read(path: str, piece: work_units.Piece, tally: Tally) -> Iterator[Found]:
    """Read the papers of a file.

    Args:
        path: the file.
        piece: what it is called.
        tally: counts papers without text, and what is not read of an archive.

    Yields:
        Papers, in the file's order.
    """
    name = piece.path.lower()
    if not name.endswith((*_TEX, *_ZIPPED, ".tar")):
        tally.drop(_NO_LATEX, piece.path, "")
        return
    with open(path, "rb") as file:
        if name.endswith(".tar"):
            yield from _of_tar(file, piece.path, tally)
        elif name.endswith(_ZIPPED):
            yield from _of_gzip(file.read(ARCHIVE_BYTES + 1), piece.path, tally)
        else:
            yield from _paper({posixpath.basename(piece.path): file.read(LONGEST + 1)}, piece.path, tally)


def body_of(text: str, known: macros.Macros) -> str:
    """A paper's text, its macros written out, without what stands before and after it; empty where neither says where it begins."""
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


def _of_gzip(packed: bytes, origin: str, tally: Tally) -> Iterator[Found]:
    """The paper of a gzip file, which holds one TeX file or a tar of them."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            data = file.read(ARCHIVE_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        tally.drop(DAMAGED, origin, "")
        return
    if max(len(packed), len(data)) > ARCHIVE_BYTES:
        tally.drop(_TOO_LONG, origin, "")
    elif _is_tar(data):
        yield from _of_tar(io.BytesIO(data), origin, tally, nested=True)
    elif data.startswith((b"%PDF", b"%!PS")):
        tally.drop("no TeX in the archive", origin, data)
    else:
        yield from _paper({"": data}, origin, tally)


def _is_tar(data: bytes) -> bool:
    try:
        tarfile.open(fileobj=typing.cast(BinaryIO, _Guarded(io.BytesIO(data), len(data))), mode="r:").close()
    except _DAMAGE:
        return False
    return True


def _of_tar(file: BinaryIO, path: str, tally: Tally, nested: bool = False) -> Iterator[Found]:
    """The papers in a tar: those in its gzip files, unless it is one itself, and the one that its TeX files are."""
    own: dict[str, bytes] = {}
    size = 0
    try:
        for name, tar, member in _members(file, path, tally):
            origin = f"{path}#{name}"
            if name.lower().endswith(_TEX):
                if member.size > LONGEST:
                    tally.drop(f"longer than {LONGEST >> 20} MiB", origin, "", member.size)
                    continue
                own[name] = _content(tar, member)
                size += len(own[name])
                if size > ARCHIVE_BYTES:
                    tally.drop(_TOO_LONG, path, "")
                    return
            elif nested:
                continue  # figures and styles
            elif not name.lower().endswith(_ZIPPED):
                tally.drop(_NO_LATEX, origin, "", member.size)
            elif member.size > ARCHIVE_BYTES:
                tally.drop(_TOO_LONG, origin, "", member.size)
            else:
                yield from _of_gzip(_content(tar, member), origin, tally)
    except _DAMAGE:
        tally.drop(DAMAGED, path, "")
        return
    if own:
        yield from _paper(own, path, tally)
    elif nested:
        tally.drop("no TeX in the archive", path, "")


def _members(file: BinaryIO, path: str, tally: Tally) -> Iterator[tuple[str, tarfile.TarFile, tarfile.TarInfo]]:
    """Yield an archive's plain files, by their names inside of it."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    guarded = typing.cast(BinaryIO, _Guarded(file, size))
    with tarfile.open(fileobj=guarded, mode="r:", encoding="utf-8", errors="replace") as tar:
        previous = -1
        while (member := tar.next()) is not None:
            typing.cast(Any, tar).members = []  # it would keep them all
            if member.size < 0 or tar.offset <= previous:
                raise ValueError("a header that leads back")  # and so without end
            previous = tar.offset
            name = _inside(member.name)
            if not name or not (member.isreg() or member.isdir()):
                tally.drop("link or path that leads out of its archive", f"{path}#{member.name}", "")
            elif member.isreg():
                yield name, tar, member


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None  # a plain file's
    with file:
        return file.read(ARCHIVE_BYTES)


def _inside(name: str) -> str:
    """A path in its shortest form; empty if it leads out of its archive."""
    path = posixpath.normpath(name) if name else ""
    return "" if path.startswith("/") or path.split("/")[0] == ".." else path


def _paper(files: Mapping[str, bytes], origin: str, tally: Tally) -> Iterator[Found]:
    """The paper that TeX files make up."""
    size = sum(map(len, files.values()))
    if max(map(len, files.values())) > LONGEST:
        tally.drop(f"longer than {LONGEST >> 20} MiB", origin, "", size)
        return
    named = next((found[1].decode() for data in files.values() if (found := _INPUT_ENCODING.search(data))), "")
    decoded = {name: decode(data, _ENCODINGS.get(named, named)) for name, data in files.items()}
    texts = {
        name: marks.without_comments(re.sub(r"\r\n?", "\n", text))
        for name, text in decoded.items()
        if text is not None and "\0" not in text
    }
    if not texts:
        tally.drop("unknown character set", origin, "", size)
        return
    try:
        mains = [name for name, text in texts.items() if _MAIN.search(text)] or list(texts)
        mains.sort(key=lambda name: (name.count("/"), -len(texts[name]), name))
        text = max((conditionals.without_dead_branches(_assembled(name, texts)) for name in mains[:MAIN_FILES]), key=len)
        body = body_of(text, macros.Macros())
    except OverflowError:
        tally.drop("inputs or macros that unfold too far", origin, "", size)
        return
    if body:
        yield Found("text", origin, body.encode(), charset="utf-8")
    else:
        tally.drop("neither a document nor a section", origin, text)


def _assembled(name: str, texts: Mapping[str, str]) -> str:
    """A file with those that it inputs in their places.

    Raises:
        OverflowError: it becomes longer than LONGEST, or inputs more than MAX_INPUTS files.
    """
    folder = posixpath.dirname(name)
    characters, inputs = LONGEST, MAX_INPUTS

    def unfold(name: str, active: tuple[str, ...]) -> Iterator[str]:
        nonlocal characters, inputs
        text = texts[name]
        if active and _MAIN.search(text) and (begin := _BEGIN.search(text)):
            end = _END.search(text, begin.end())  # made to be compiled alone as well
            text = text[begin.end() : end.start() if end else len(text)]
        characters, inputs = characters - len(text), inputs - 1
        if min(characters, inputs) < 0:
            raise OverflowError
        position = 0
        for mark in marks.marks(text):
            if mark["command"] == "endinput":
                text = text[: mark.start()]
                break
            if mark["command"] not in _INPUTS or not (argument := _FILE_NAME.match(text, mark.end())):
                continue
            yield text[position : mark.start()]
            position = argument.end()
            wanted = _found((argument[1] or argument[2]).strip(), folder, texts)
            if wanted is not None and wanted not in (*active, name) and len(active) < MAX_INPUT_DEPTH:
                yield from unfold(wanted, (*active, name))
        yield text[position:]

    return "".join(unfold(name, ()))


def _found(wanted: str, folder: str, texts: Mapping[str, str]) -> str | None:
    """The file of the archive that a name stands for."""
    inside = [_inside(posixpath.join(folder, wanted)), _inside(wanted)]
    return next((name + ending for name in inside if name for ending in ("", ".tex") if name + ending in texts), None)
