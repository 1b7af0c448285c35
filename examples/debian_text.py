"""Extract real text for the quickstart from Debian's or Ubuntu's packages, without root and without installing anything.

    python examples/debian_text.py --out data/text [--set quickstart|large] [--folder DOMAIN=DIR ...]

Packages are downloaded by name with `apt-get download` into a cache, read without unpacking them to disk, and written as JSONL:
OUT/<domain>/<package>.jsonl with one `{"text", "family", "source"}` per line. `family` is the page's name without its language, so that
all translations of a page are on one side of the held-out split. If apt-get or a package is missing, a line says so, and the
interpreter's own standard library and the user's folders remain. Nothing is written outside OUT and the cache.
"""

import argparse
import ast
import collections
import contextlib
import dataclasses
import gzip
import hashlib
import json
import os
import pathlib
import re
import sys
import sysconfig
import time
import zlib
from collections.abc import Iterator
from typing import TextIO

import debian_packages
import plain_text
from debian_sources import SOURCES, Source

VERSION = 1
"""Version of the text that this program makes; text of another version is made again."""
MARKER = "debian_text.json"
MIN_BYTES = 200
"""Minimum UTF-8 bytes of a page; shorter pages are a heading and a link."""
MAX_CODE_CHARACTERS = 200_000
"""Maximum characters of a source file; longer files are generated tables."""
MIN_PARAGRAPH = 20
"""Characters below which a paragraph, such as a button's name, may repeat and may be untranslated."""
MAX_REPEATS = 3
"""Documents of a domain that may share a paragraph; a paragraph in more is a licence, a footer or a standard phrase."""
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data", "__pycache__"}
"""Folders of the standard library that are left out: installed packages, tests and tables."""


@dataclasses.dataclass(frozen=True)
class Document:
    """One text on its way to OUT/<domain>/<file>.jsonl."""

    domain: str
    file: str
    family: str
    source: str
    text: str


class Writer:
    """Writer of documents that drops and counts short, repeated and generated ones."""

    def __init__(self, out: pathlib.Path) -> None:
        """Start without documents."""
        self.paths: list[pathlib.Path] = []
        self.table: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        """Return domain -> `documents`, `bytes`, and the reasons for dropped documents."""
        self._out = out
        self._open: dict[pathlib.Path, TextIO] = {}
        self._stack = contextlib.ExitStack()
        self._seen: set[bytes] = set()
        self._repeats: collections.Counter[tuple[str, str]] = collections.Counter()

    def write(self, document: Document, *, pages: bool = False) -> None:
        """Write one document, unless there is a reason to drop it.

        Args:
            document: The document.
            pages: Whether its lines are paragraphs; those that are in many documents are left out.
        """
        text = (self._without_repeats(document) if pages else document.text).strip()
        if reason := self._objection(document.domain, text):
            self.drop(document.domain, reason)
            return
        row = {"text": text, "family": document.family, "source": document.source}
        self._file(document).write(json.dumps(row, ensure_ascii=False) + "\n")
        self.table[document.domain].update(documents=1, bytes=len(text.encode()))

    def drop(self, domain: str, reason: str) -> None:
        """Count a document that is not written."""
        self.table[domain][reason] += 1

    def close(self) -> None:
        """Give the files their names; until then, earlier files are unchanged."""
        self._stack.close()
        for path in self.paths:
            os.replace(_partial(path), path)

    def _objection(self, domain: str, text: str) -> str:
        if len(text.encode()) < MIN_BYTES:
            return "short"
        if domain == "code" and len(text) > MAX_CODE_CHARACTERS:
            return "generated"
        digest = hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()
        if digest in self._seen:
            return "duplicate"
        self._seen.add(digest)
        return ""

    def _without_repeats(self, document: Document) -> str:
        lines = document.text.split("\n")
        long = {line for line in lines if len(line) >= MIN_PARAGRAPH}
        self._repeats.update((document.domain, line) for line in long)
        return "\n".join(line for line in lines if line not in long or self._repeats[document.domain, line] <= MAX_REPEATS)

    def _file(self, document: Document) -> TextIO:
        path = self._out / document.domain / f"{document.file}.jsonl"
        if path not in self._open:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open[path] = self._stack.enter_context(open(_partial(path), "w", encoding="utf-8"))
            self.paths.append(path)
        return self._open[path]


def _partial(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + ".partial")


def add_package(deb: pathlib.Path, sources: list[Source], originals: set[str], writer: Writer) -> None:
    """Write the documents of one package.

    Args:
        deb: The package's file.
        sources: Files to take from it.
        originals: English paragraphs. Those of English pages are added; translated pages lose those that are among them.
        writer: Writer of the documents.
    """
    package = deb.name.partition("_")[0]
    patterns = [(source, re.compile(source.files)) for source in sources]
    # Files come sorted by path, so GNOME's originals (C) are before their translations (de, es, ...).
    for path, content in debian_packages.files(deb, lambda path: any(pattern.fullmatch(path) for _, pattern in patterns)):
        for source, match in ((source, pattern.fullmatch(path)) for source, pattern in patterns):
            if not match:
                continue
            try:
                found = source.text(_decoded(content, path))
            except (ValueError, SyntaxError):
                writer.drop(source.domain, "unreadable")
                continue
            family = f"{source.family or source.package}/{match['page']}"
            pages = [(family, found)] if isinstance(found, str) else ((f"{family}#{number}", text) for number, text in enumerate(found))
            for name, text in pages:
                _add_page(Document(source.domain, package, name, f"{package}:{path}", text), source, originals, writer)


def _add_page(document: Document, source: Source, originals: set[str], writer: Writer) -> None:
    if source.pages and source.language == "en":
        originals.update(line for line in document.text.split("\n") if len(line) >= MIN_PARAGRAPH)
    elif source.pages:
        document = dataclasses.replace(document, text=plain_text.without_lines(document.text, originals))
    if plain_text.is_in_language(document.text, source.language):
        writer.write(document, pages=source.pages)
    else:
        writer.drop(source.domain, "untranslated")


def _decoded(content: bytes, path: str) -> str:
    try:
        content = gzip.decompress(content) if path.endswith(".gz") else content
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no gzip file") from error
    return content.decode("utf-8").replace("\r\n", "\n")


def add_folder(domain: str, folder: pathlib.Path, writer: Writer) -> None:
    """Write every UTF-8 text file of a folder that the user names."""
    for path in _walk(folder, set()):
        name = path.relative_to(folder).as_posix()
        try:
            text = _decoded(path.read_bytes(), name)
        except (ValueError, OSError):
            writer.drop(domain, "unreadable")
            continue
        text = plain_text.from_html(text) if path.suffix in (".html", ".htm") else text
        writer.write(Document(domain, "folder", f"{domain}/{name}", name, text))


def add_standard_library(writer: Writer, *, english: bool) -> None:
    """Write the interpreter's own modules as code and, if no package gave any English, their docstrings as English."""
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in _walk(root, _NOT_LIBRARY):
        name = path.relative_to(root).as_posix()
        if path.suffix not in (".py", ".txt"):
            continue
        try:
            text = _decoded(path.read_bytes(), name)
        except (ValueError, OSError):
            writer.drop("code", "unreadable")
            continue
        if path.suffix == ".py":
            writer.write(Document("code", "python", f"python/{name}", name, text))
        if english:
            writer.write(Document("english", "python", f"python/{name}", name, docstrings(text) if path.suffix == ".py" else text))


def docstrings(module: str) -> str:
    """Return the docstrings in a module's source, from its own to those of its functions."""
    try:
        tree = ast.parse(module)
    except (SyntaxError, ValueError):
        return ""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, kinds))
    return "\n\n".join(filter(None, found))


def _walk(folder: pathlib.Path, skipped: set[str]) -> Iterator[pathlib.Path]:
    for parent, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name not in skipped and not name.startswith("."))
        yield from (pathlib.Path(parent, file) for file in sorted(files))


def make(out: pathlib.Path, cache: debian_packages.Cache, *, large: bool, folders: dict[str, pathlib.Path]) -> dict:
    """Write all domains; return the content of the marker."""
    writer = Writer(out)
    originals: set[str] = set()
    missing: dict[str, str] = {}
    rows: dict[str, list[Source]] = {}
    for source in SOURCES:
        if large or not source.large:
            rows.setdefault(source.package, []).append(source)
    for package, sources in rows.items():
        print(f"{package} ...", file=sys.stderr, flush=True)
        try:
            add_package(cache.get(package, sources[0].through), sources, originals, writer)
        except debian_packages.PackageError as error:
            missing[package] = str(error)
            print(f"without {package}: {error}", file=sys.stderr)
    add_standard_library(writer, english=not writer.table["english"]["documents"])
    for domain, folder in folders.items():
        add_folder(domain, folder, writer)
    writer.close()
    table = {domain: dict(counts) for domain, counts in writer.table.items() if counts["documents"]}
    return {"files": [path.relative_to(out).as_posix() for path in writer.paths], "table": table, "missing": missing}


def print_table(table: dict[str, dict[str, int]]) -> None:
    """Print documents and bytes by domain, and dropped documents with reasons."""
    print(f"{'domain':<14}{'documents':>10}{'MB':>8}   dropped")
    for domain, counts in table.items():
        dropped = ", ".join(f"{count} {reason}" for reason, count in counts.items() if reason not in ("documents", "bytes"))
        print(f"{domain:<14}{counts['documents']:>10}{counts['bytes'] / 1e6:>8.1f}   {dropped}")


def main() -> int:
    """Make the text, or report that it exists already."""
    arguments = _parse()
    folders = dict(map(_named, arguments.folder))
    wrong = [f"{domain}={path}" for domain, path in folders.items() if not path.is_dir() or "/" in domain or domain.startswith(".")]
    if wrong:
        print(f"error: got --folder {', '.join(wrong)}; allowed: [DOMAIN=]DIR, an existing folder; change --folder", file=sys.stderr)
        return 2
    marker = arguments.out / MARKER
    asked = {"version": VERSION, "set": arguments.set, "folders": {domain: str(path.resolve()) for domain, path in folders.items()}}
    before = json.loads(marker.read_text()) if marker.exists() else {}
    if before.get("asked") == asked and not arguments.again and all((arguments.out / name).exists() for name in before["files"]):
        print(f"{arguments.out} exists already; --again makes it again")
        print_table(before["table"])
        return 0
    start = time.monotonic()
    made = make(arguments.out, debian_packages.Cache(arguments.debs), large=arguments.set == "large", folders=folders)
    if not made["table"]:
        print("error: got no text from packages, standard library or folders; name a folder of text with --folder", file=sys.stderr)
        return 2
    for name in set(before.get("files", ())) - set(made["files"]):
        (arguments.out / name).unlink(missing_ok=True)
    marker.write_text(json.dumps({"asked": asked, **made}, indent=1))
    print_table(made["table"])
    if made["missing"]:
        print(f"without {', '.join(made['missing'])} (see above); run with --again to retry")
    print(f"{arguments.out}: {sum(row['bytes'] for row in made['table'].values()) / 1e6:.0f} MB in {time.monotonic() - start:.0f} s")
    return 0


def _named(folder: str) -> tuple[str, pathlib.Path]:
    domain, _, path = folder.rpartition("=")
    return domain or pathlib.Path(path).resolve().name, pathlib.Path(path)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("data/text"), help="folder to write to (default: data/text)")
    parser.add_argument("--debs", type=pathlib.Path, default=pathlib.Path("data/debs"), help="cache of packages (default: data/debs)")
    parser.add_argument("--set", choices=("quickstart", "large"), default="quickstart", help="amount of text (default: quickstart)")
    parser.add_argument("--folder", action="append", default=[], metavar="[DOMAIN=]DIR", help="your own text files as a domain; repeatable")
    parser.add_argument("--again", action="store_true", help="make the text again even if it exists")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        raise
    except OSError as error:
        print(
            f"error: got {error.filename or 'a disk'} ({error.strerror}); allowed: folders with room; change --out or --debs",
            file=sys.stderr,
        )
        sys.exit(2)
