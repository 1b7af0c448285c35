"""Reader of Stack Exchange's dumps (`Posts.xml`): a document is a question with its best answers.

Source: the schema of the public data dump; `Q:` and `A:`, and answers by score, as in LLaMA's and RedPajama's corpora.

Answers may be anywhere after their question in files of 100 GB. Posts are therefore first distributed over temporary files (in TMPDIR,
which needs space for the dump's text), each with all posts of some questions, and then joined file by file. Only one document and the
posts' numbers of one file are in memory.
"""

import dataclasses
import functools
import json
import os
import pathlib
import re
import struct
import tempfile
from collections.abc import Iterator
from typing import BinaryIO
from xml.parsers import expat

from resiliparse.extract.html2text import extract_plain_text

from teleflm_jax.corpus.extraction import markup
from teleflm_jax.corpus.extraction.extract import MAX_NESTING, TOO_DEEP, rejection_reason
from teleflm_jax.corpus.read import RawDocument, xml
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Statistics

ANSWERS = 5
"""Maximum answers of a question."""
BUCKET_BYTES = 64 << 20
"""Bytes of the dump per temporary file."""
HELD_BYTES = 32 << 20
"""Bytes of posts buffered in memory; opening a file for each post would take longer than writing it."""
BATCH_BYTES = 1 << 16
"""Bytes of rows that are parsed together."""
UNPACKED = 6
"""Approximate compression ratio of a dump."""
_NAME = re.compile(r"(?:.*[._-])?posts\.xml(?:\.(?:gz|zst|zstd|bz2|xz|lz4))?$", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]{1,18}$")
_QUESTION, _ANSWER = "1", "2"
_HEADER = struct.Struct("<?qqqqI")


@dataclasses.dataclass(frozen=True, slots=True)
class Post:
    """A question or an answer without its text."""

    is_question: bool
    number: int
    question: int
    """Number of the question, or of the question that is answered."""
    accepted: int
    """For a question, the number of its accepted answer; 0 if there is none."""
    score: int
    offset: int = 0
    """Offset of the text in its temporary file."""
    size: int = 0


def read(path: str, file_range: work_units.FileRange, statistics: Statistics) -> Iterator[RawDocument]:
    """Join the questions of a `Posts.xml` with their answers.

    Args:
        path: Path of the file.
        file_range: The file, with its name in statistics.
        statistics: Counts posts that are not part of a document.

    Yields:
        Documents in an order that depends only on the file.
    """
    if not _NAME.match(os.path.basename(file_range.path)):
        statistics.drop("no Posts.xml by its name", file_range.path, "")
        return
    with tempfile.TemporaryDirectory(prefix="stackexchange-") as folder:
        size = os.path.getsize(path) * (UNPACKED if file_range.compression else 1)
        buckets = -(-max(1, size) // BUCKET_BYTES)
        _spread(_rows(path, file_range, statistics), pathlib.Path(folder), buckets, file_range.path, statistics)
        for number in range(buckets):
            bucket = _bucket(pathlib.Path(folder), number)
            if bucket.exists():
                with open(bucket, "rb") as file:
                    yield from _documents(file, file_range.path, statistics)
                bucket.unlink()


def plain(html: str) -> str:
    """Turn a post's HTML into text.

    Raises:
        markup.TooDeep: The elements are nested too deeply.
    """
    return extract_plain_text(
        markup.parsed(html, MAX_NESTING), preserve_formatting=True, main_content=False, links=False, alt_texts=False
    ).strip()


def _bucket(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"{number:06d}"


def _spread(rows: Iterator[dict[str, str]], folder: pathlib.Path, buckets: int, path: str, statistics: Statistics) -> None:
    held: dict[int, bytearray] = {}
    size = 0
    for attributes in rows:
        post = _post(attributes, path, statistics)
        if post is None:
            continue
        text = json.dumps([attributes.get(name, "") for name in ("Title", "Body", "CreationDate")], ensure_ascii=False).encode()
        buffer = held.setdefault(post.question % buckets, bytearray())
        buffer += _HEADER.pack(post.is_question, post.number, post.question, post.accepted, post.score, len(text)) + text
        size += _HEADER.size + len(text)
        if size >= HELD_BYTES:
            _write(folder, held)
            size = 0
    _write(folder, held)


def _write(folder: pathlib.Path, held: dict[int, bytearray]) -> None:
    for number, buffer in held.items():
        # reopened each time: 100 GB need more files than a process may have open
        with open(_bucket(folder, number), "ab") as file:
            file.write(buffer)
    held.clear()


def _rows(path: str, file_range: work_units.FileRange, statistics: Statistics) -> Iterator[dict[str, str]]:
    elements = xml.elements(streams.chunks(path, file_range.compression), "row", file_range.path, statistics)
    parse = functools.partial(_attributes, encoding=xml.encoding_of(next(elements)))
    for batch in _batches(elements):
        # one parser per row would double the time
        try:
            rows = parse(b"<posts>%s</posts>" % b"".join(batch), most=len(batch) + 1)[1:]
        except (expat.ExpatError, ValueError, LookupError):
            rows = []
        if len(rows) != len(batch):
            rows = [found[0] for row in batch if (found := xml.parsed(row, parse, file_range.path, statistics))]
        yield from rows


def _batches(elements: Iterator[bytes]) -> Iterator[list[bytes]]:
    held, size = [], 0
    for element in elements:
        held.append(element)
        size += len(element)
        if size >= BATCH_BYTES:
            yield held
            held, size = [], 0
    yield held


def _attributes(elements: bytes, encoding: str | None, most: int = xml.MAX_DEPTH) -> list[dict[str, str]]:
    """Parse an element, or a sequence of elements in a root element, and return the attributes of each.

    Raises:
        ExpatError: The elements are damaged.
        ValueError: There are more than `most` elements; a row contains no others.
    """
    found: list[dict[str, str]] = []

    def start(_: str, attributes: dict[str, str]) -> None:
        found.append(attributes)
        if len(found) > most:
            raise ValueError("elements in a row")

    parser = expat.ParserCreate(encoding)
    parser.StartElementHandler, parser.StartDoctypeDeclHandler = start, xml.refuse
    parser.Parse(elements, True)
    return found


def _post(attributes: dict[str, str], path: str, statistics: Statistics) -> Post | None:
    kind = attributes.get("PostTypeId", "")
    if kind not in (_QUESTION, _ANSWER):
        statistics.drop("neither question nor answer", f"{path}#{attributes.get('Id', '')}", attributes.get("Body", ""))
        return None
    number, parent, accepted, score = (_number(attributes.get(name, "")) for name in ("Id", "ParentId", "AcceptedAnswerId", "Score"))
    question = number if kind == _QUESTION else parent
    if number is None or question is None:
        statistics.drop("post without its number", path, attributes.get("Body", ""))
        return None
    return Post(kind == _QUESTION, number, question, accepted or 0, score or 0)


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.match(text) else None


def _documents(file: BinaryIO, path: str, statistics: Statistics) -> Iterator[RawDocument]:
    questions: dict[int, Post] = {}
    for post in _posts(file):
        if post.is_question and questions.setdefault(post.number, post) is not post:
            statistics.drop("post given twice", f"{path}#{post.number}", "", post.size)
    answers = _best(file, questions, path, statistics)
    for number in sorted(questions):
        origin = f"{path}#{number}"
        title, text, date = _text(file, questions[number], origin, statistics)
        given = [(post, *_text(file, post, origin, statistics)) for post in answers.get(number, ())]
        kept = [answer for _, _, answer, _ in given if answer]
        if text and kept:
            question = f"{title.strip()}\n\n{text}".strip()
            content = "\n\n".join([f"Q: {question}", *(f"A: {answer}" for answer in kept)])
            yield RawDocument("text", origin, content.encode(), date=date, charset="utf-8")
            continue
        if text:
            statistics.drop("question without an answer worth keeping", origin, text)
        for post, _, answer, _ in given:
            if answer:
                statistics.drop("answer without a question", f"{path}#{post.number}", answer)


def _best(file: BinaryIO, questions: dict[int, Post], path: str, statistics: Statistics) -> dict[int, list[Post]]:
    """Return question -> its best answers: the accepted one, then by score."""
    best: dict[int, list[Post]] = {}
    for post in _posts(file):
        if post.is_question:
            continue
        origin = f"{path}#{post.number}"
        question = questions.get(post.question)
        if question is None:
            statistics.drop("answer without a question", origin, "", post.size)
        elif post.score <= 0 and post.number != question.accepted:
            statistics.drop("answer that nobody found useful", origin, "", post.size)
        else:
            chosen = best.setdefault(post.question, [])
            if any(post.number == other.number for other in chosen):
                statistics.drop("post given twice", origin, "", post.size)
                continue
            chosen.append(post)
            chosen.sort(key=lambda one: (one.number != questions[one.question].accepted, -one.score, one.number))
            for worse in chosen[ANSWERS:]:
                statistics.drop(f"answer after the best {ANSWERS}", f"{path}#{worse.number}", "", worse.size)
            del chosen[ANSWERS:]
    return best


def _posts(file: BinaryIO) -> Iterator[Post]:
    file.seek(0)
    while header := file.read(_HEADER.size):
        is_question, number, question, accepted, score, size = _HEADER.unpack(header)
        yield Post(is_question, number, question, accepted, score, file.tell(), size)
        file.seek(size, os.SEEK_CUR)


def _text(file: BinaryIO, post: Post, origin: str, statistics: Statistics) -> tuple[str, str, str]:
    """Return a post's title, text and date; a post without text is counted."""
    file.seek(post.offset)
    title, body, date = json.loads(file.read(post.size))
    if reason := rejection_reason(body):
        statistics.drop(reason, origin, body)
        return title, "", date
    try:
        text = plain(body)
    except markup.TooDeep:
        statistics.drop(TOO_DEEP, origin, body)
        return title, "", date
    if not text:
        statistics.drop("post without text", origin, body)
    return title, text, date
