"""Which files a source holds, and what each of them is: its format and its compression, told by its content and by its name.

Content goes first: a compressed file, a WARC file or a row of JSON is one under any name. The name decides where content does not tell.
"""

import json
import os
import re
from collections.abc import Iterator

from teleflm_jax import links
from teleflm_jax.documents import streams

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
HEAD = 1 << 14
"""Bytes of a file's beginning, decompressed, that tell what it is."""
SKIPPED = ("hidden file or folder", "symbolic link", "not a regular file", "empty file")
"""What is passed over by design: reported with the malformed, but not held against `pack.max_malformed_fraction`."""
READABLE = (
    "JSON Lines (.jsonl, .ndjson, .jsonlines, .ldjson, .json), JSON, Parquet and UTF-8 text, as they are or compressed "
    "(.gz, .zst, .bz2, .xz, .lz4)"
)
UNKNOWN = "unknown"
ZEROS = "U+0000 taken out"
"""What is done to a text that has a few of them; where there are more, it is none (`is_binary`)."""
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
"""Endings of what stands beside text and is none."""
_MAGIC = re.compile(
    rb"(?P<parquet>PAR1)|(?P<warc>WARC/[01]\.)|(?P<arc>filedesc:)"
    rb"|(?P<unknown>PK\x03\x04|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|LZIP|ARROW1\0|Obj\x01|\x89HDF|SQLite format 3\0|.{257}ustar)",
    re.DOTALL,
)
"""How files begin. Unknown to us: zip, 7z, RAR, lzip, Arrow, Avro, HDF5, SQLite, tar."""
_ROOT = re.compile(
    rb"(?:<\?xml[^>]*+>|(?><!--.*?-->)|\s++)*+<(?:(?P<wikipedia>mediawiki)|(?P<stackexchange>posts)|(?P<html>html|!doctype\s+html))[\s>]",
    re.DOTALL | re.IGNORECASE,
)
"""The element that all of a file is in. A comment ends at its first end; else n of them would have 2^n readings."""
_CONTROLS = re.compile(rb"[\0-\x08\x0e-\x1f\x7f]")
_CUT_ROW = re.compile(rb"\{\s*\"")


def names(root: str) -> Iterator[tuple[str, str]]:
    """Yield (path inside root, reason to skip it or "") of all that is in a folder.

    Links are not followed, but for those of a snapshot in Hugging Face's cache, whose files are links into the repository's own blobs.
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
    """Say what a file is.

    Args:
        path: the file.
        text_column: what marks a row of JSON as a row of text.

    Returns:
        Its format: `jsonl`, `json`, `parquet`, `warc`, `arc`, `html`, `wikipedia`, `stackexchange`, `plain`, or UNKNOWN; and its
        compression, one of `streams.ENDINGS`' values or empty.
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
            return found, ""  # it was decompressed and kept its name
        compression = streams.ENDINGS[ending]  # and its beginning is damaged
    if compression:
        head = streams.beginning(path, compression, HEAD)
    return _by_content(head, name, text_column) or _by_name(name, head), compression


def is_binary(text: bytes) -> bool:
    """Say whether control characters are more than what stands in a text by mistake: more than one, and than one byte in a hundred."""
    return 100 * len(_CONTROLS.findall(text)) > max(100, len(text))


def _by_content(head: bytes, name: str, text_column: str) -> str:
    """The format of a file that begins so; empty where that tells nothing."""
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
        # text may begin with a brace, and many an ending stands for one JSON value; a row with text is a data set's
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
