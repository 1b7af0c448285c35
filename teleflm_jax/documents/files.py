"""Files of a source, with the format and compression of each, detected by content first and by name second.

A compressed file, a WARC file or a row of JSON is recognized under any name. The name decides only where the content is ambiguous.
"""

import json
import os
import re
from collections.abc import Iterator

from teleflm_jax import links
from teleflm_jax.documents import streams

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HEAD = 1 << 14
"""Bytes from the start of a (decompressed) file that format detection reads."""
SKIPPED = ("hidden file or folder", "symbolic link", "not a regular file", "empty file")
"""Reasons to skip a file by design: reported with malformed input, but not counted against `pack.max_malformed_fraction`."""
READABLE = (
    "JSON Lines (.jsonl, .ndjson, .jsonlines, .ldjson, .json), JSON, Parquet and UTF-8 text, as they are or compressed "
    "(.gz, .zst, .bz2, .xz, .lz4)"
)
UNKNOWN = "unknown"
ZEROS = "U+0000 taken out"
"""Repair of a text with a few U+0000 characters; a file with more of them is binary (`is_binary`)."""
_JSON_LINES = (".jsonl", ".ndjson", ".jsonlines", ".ldjson")
_BY_NAME = {
    (".parquet", ".pq"): "parquet",
    (".warc", ".wet"): "warc",
    (".arc",): "arc",
    (".html", ".htm", ".xhtml"): "html",
}
_MEDIA = frozenset(
    ".avi .avif .bmp .class .dll .eot .exe .flac .gif .ico .jpeg .jpg .mov .mp3 .mp4 .o .ogg .otf .pdf .png .ps .pyc .so .svgz .tif .tiff "
    ".ttf .wasm .wav .webm .webp .woff .woff2".split()
)
"""Extensions of non-text files that are often stored next to text."""
_MAGIC = re.compile(
    rb"(?P<parquet>PAR1)|(?P<warc>WARC/[01]\.)|(?P<arc>filedesc:)"
    rb"|(?P<unknown>PK\x03\x04|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|LZIP|ARROW1\0|Obj\x01|\x89HDF|SQLite format 3\0|.{257}ustar)",
    re.DOTALL,
)
"""First bytes of files. Known but unsupported: zip, 7z, RAR, lzip, Arrow, Avro, HDF5, SQLite, tar."""
_ROOT = re.compile(
    rb"(?:<\?xml[^>]*+>|(?><!--.*?-->)|\s++)*+<(?:(?P<wikipedia>mediawiki)|(?P<stackexchange>posts)|(?P<html>html|!doctype\s+html))[\s>]",
    re.DOTALL | re.IGNORECASE,
)
"""Root element of a file. Each comment matches up to its first end only; otherwise n comments could be matched in 2^n ways."""
_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")
_CUT_ROW = re.compile(rb"\{\s*\"")


def names(root: str) -> Iterator[tuple[str, str]]:
    """Yield (path inside root, reason to skip it or "") for everything in a folder.

    Symbolic links are not followed, except those of a snapshot in Hugging Face's cache, which point at the blobs of the same repository.
    """
    blobs = links.blobs(root)
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(os.path.join(root, folder)) as entries:
            for entry in entries:
                path = os.path.join(folder, entry.name)
                if entry.name.startswith("."):
                    yield path, SKIPPED[0]
                elif entry.is_symlink():
                    yield path, "" if links.is_blob(entry.path, blobs) else SKIPPED[1]
                elif entry.is_dir():
                    folders.append(path)
                else:
                    yield path, "" if entry.is_file() else SKIPPED[2]


def kind_of(path: str, text_column: str = "text") -> tuple[str, str]:
    """Detect a file's format and compression.

    Args:
        path: The file.
        text_column: The column that marks a row of JSON as a row of text.

    Returns:
        The format: `jsonl`, `json`, `parquet`, `warc`, `arc`, `html`, `wikipedia`, `stackexchange`, `plain`, or UNKNOWN; and the
        compression, one of the values of `streams.ENDINGS` or empty.
    """
    with streams.open_file(path) as file:
        head = file.read(HEAD)
    name, ending = os.path.splitext(path.lower())
    compression = streams.compression_of(head)
    if ending not in streams.ENDINGS:
        name += ending
    elif not compression:
        found = _by_content(head, name, text_column)
        if found not in ("", UNKNOWN):
            return found, ""  # the file was decompressed and kept its name
        compression = streams.ENDINGS[ending]  # the beginning of the file is damaged
    if compression:
        head = streams.beginning(path, compression, HEAD)
    return _by_content(head, name, text_column) or _by_name(name, head), compression


def is_binary(text: bytes) -> bool:
    """Return True if there are more control characters than a text has by mistake: more than one, and more than 1 % of the bytes."""
    return 100 * len(_CONTROLS.findall(text)) > max(100, len(text))


def _by_content(head: bytes, name: str, text_column: str) -> str:
    """Return the format that the first bytes show, or an empty string if they are ambiguous."""
    text = head.removeprefix(BYTE_ORDER_MARK)
    if found := _MAGIC.match(head) or _ROOT.match(text):
        return found.lastgroup or ""
    text = text.lstrip()
    if not text.startswith((b"{", b"[")):
        return ""
    first, end, rest = text.partition(b"\n")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        row = None
    if name.endswith(_JSON_LINES):
        return "jsonl" if isinstance(row, dict) or (not end and _CUT_ROW.match(first)) else ""
    if not name.endswith(".json"):
        # plain text may start with a brace, and many extensions hold one JSON value; only data sets have rows with a text column
        is_cut = not end and _CUT_ROW.match(first) and f'"{text_column}":'.encode() in first
        return "jsonl" if is_cut or (isinstance(row, dict) and isinstance(row.get(text_column), str)) else ""
    is_row = isinstance(row, dict) or (row is None and (not end or rest.lstrip().startswith(b'{"')))
    return "jsonl" if is_row and first.startswith(b"{") else "json"


def _by_name(name: str, head: bytes) -> str:
    if name.endswith((*_JSON_LINES, ".json")):
        return "jsonl"
    if found := next((kind for endings, kind in _BY_NAME.items() if name.endswith(endings)), ""):
        return found
    return UNKNOWN if is_binary(head) and os.path.splitext(name)[1] not in _MEDIA else "plain"
