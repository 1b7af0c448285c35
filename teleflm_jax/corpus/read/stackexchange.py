"""Stack Exchange's dumps (`Posts.xml`): a question with its best answers is a document.

Source: the schema of the public data dump; `Q:` and `A:`, and answers by score, as in LLaMA's and RedPajama's corpora.

Answers stand anywhere after their question in files of 100 GB. So posts are first spread over files in a temporary folder (TMPDIR says
where; it needs the space of the dump's text), each with all posts of some questions, and then put together file by file. Of a file only
the posts' numbers are in memory, and one document.
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
from teleflm_jax.corpus.extraction.extract import MAX_NESTING, TOO_DEEP, objection
from teleflm_jax.corpus.read import Found, xml
from teleflm_jax.documents import streams, work_units
from teleflm_jax.documents.statistics import Tally

ANSWERS = 5
"""Of a question, at most."""
BUCKET_BYTES = 64 << 20
"""Of the dump, that one temporary file takes."""
HELD_BYTES = 32 << 20
"""Of posts in memory before they are written; opening a file for each post would take longer than writing it."""
BATCH_BYTES = 1 << 16
"""Of rows that are parsed together."""
UNPACKED = 6
"""Bytes that one of a compressed dump stands for, about."""
_NAME = re.compile(r"(?:.*[._-])?posts\.xml(?:\.(?:gz|zst|zstd|bz2|xz|lz4))?$", re.IGNORECASE | re.DOTALL)
_NUMBER = re.compile(r"-?[0-9]{1,18}$")
_QUESTION, _ANSWER = "1", "2"
_HEADER = struct.Struct("<?qqqqI")


@dataclasses.dataclass(frozen=True, slots=True)
class Post:
    """A question, or an answer, without its text."""

    is_question: bool
    number: int
    question: int
    """Its own number, or that of the question that it answers."""
    accepted: int
    """Of a question: the number of the answer that it accepted; 0: none."""
    score: int
    offset: int = 0
    """Where its text stands in a bucket's file."""
    size: int = 0


def read(path: str, piece: work_units.Piece, tally: Tally) -> Iterator[Found]:
    """Put the questions of a `Posts.xml` together with their answers.

    Args:
        path: the file.
        piece: what it is called.
        tally: counts posts that become no part of a document.

    Yields:
        Documents in an order that depends on the file alone.
    """
    if not _NAME.match(os.path.basename(piece.path)):
        tally.drop("no Posts.xml by its name", piece.path, "")
        return
    with tempfile.TemporaryDirectory(prefix="stackexchange-") as folder:
        size = os.path.getsize(path) * (UNPACKED if piece.compression else 1)
        buckets = -(-max(1, size) // BUCKET_BYTES)
        _spread(_rows(path, piece, tally), pathlib.Path(folder), buckets, piece.path, tally)
        for number in range(buckets):
            bucket = _bucket(pathlib.Path(folder), number)
            if bucket.exists():
                with open(bucket, "rb") as file:
                    yield from _documents(file, piece.path, tally)
                bucket.unlink()


def plain(html: str) -> str:
    """Turn a post's HTML into text.

    Raises:
        markup.TooDeep: of elements.
    """
    return extract_plain_text(
        markup.parsed(html, MAX_NESTING), preserve_formatting=True, main_content=False, links=False, alt_texts=False
    ).strip()


def _bucket(folder: pathlib.Path, number: int) -> pathlib.Path:
    return folder / f"{number:06d}"


def _spread(rows: Iterator[dict[str, str]], folder: pathlib.Path, buckets: int, path: str, tally: Tally) -> None:
    held: dict[int, bytearray] = {}
    size = 0
    for attributes in rows:
        post = _post(attributes, path, tally)
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
        # opened anew each time: a hundred gigabytes are more files than a process may hold open
        with open(_bucket(folder, number), "ab") as file:
            file.write(buffer)
    held.clear()


def _rows(path: str, piece: work_units.Piece, tally: Tally) -> Iterator[dict[str, str]]:
    elements = xml.elements(streams.chunks(path, piece.compression), "row", piece.path, tally)
    parse = functools.partial(_attributes, encoding=xml.encoding_of(next(elements)))
    for batch in _batches(elements):
        # a parser for each would take as long as the parsing
        try:
            rows = parse(b"<posts>%s</posts>" % b"".join(batch), most=len(batch) + 1)[1:]
        except (expat.ExpatError, ValueError, LookupError):
            rows = []
        if len(rows) != len(batch):
            rows = [found[0] for row in batch if (found := xml.parsed(row, parse, piece.path, tally))]
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
    """Parse elements inside one another, or one after another in one; return their attributes.

    Raises:
        ExpatError, ValueError: they are damaged, or more than `most`; a row has none in it.
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


def _post(attributes: dict[str, str], path: str, tally: Tally) -> Post | None:
    kind = attributes.get("PostTypeId", "")
    if kind not in (_QUESTION, _ANSWER):
        tally.drop("neither question nor answer", f"{path}#{attributes.get('Id', '')}", attributes.get("Body", ""))
        return None
    number, parent, accepted, score = (_number(attributes.get(name, "")) for name in ("Id", "ParentId", "AcceptedAnswerId", "Score"))
    question = number if kind == _QUESTION else parent
    if number is None or question is None:
        tally.drop("post without its number", path, attributes.get("Body", ""))
        return None
    return Post(kind == _QUESTION, number, question, accepted or 0, score or 0)


def _number(text: str) -> int | None:
    return int(text) if _NUMBER.match(text) else None


def _documents(file: BinaryIO, path: str, tally: Tally) -> Iterator[Found]:
    questions: dict[int, Post] = {}
    for post in _posts(file):
        if post.is_question and questions.setdefault(post.number, post) is not post:
            tally.drop("post given twice", f"{path}#{post.number}", "", post.size)
    answers = _best(file, questions, path, tally)
    for number in sorted(questions):
        origin = f"{path}#{number}"
        title, text, date = _text(file, questions[number], origin, tally)
        given = [(post, *_text(file, post, origin, tally)) for post in answers.get(number, ())]
        kept = [answer for _, _, answer, _ in given if answer]
        if text and kept:
            question = f"{title.strip()}\n\n{text}".strip()
            content = "\n\n".join([f"Q: {question}", *(f"A: {answer}" for answer in kept)])
            yield Found("text", origin, content.encode(), date=date, charset="utf-8")
            continue
        if text:
            tally.drop("question without an answer worth keeping", origin, text)
        for post, _, answer, _ in given:
            if answer:
                tally.drop("answer without a question", f"{path}#{post.number}", answer)


def _best(file: BinaryIO, questions: dict[int, Post], path: str, tally: Tally) -> dict[int, list[Post]]:
    """Question -> answers: the accepted one, then by score."""
    best: dict[int, list[Post]] = {}
    for post in _posts(file):
        if post.is_question:
            continue
        origin = f"{path}#{post.number}"
        question = questions.get(post.question)
        if question is None:
            tally.drop("answer without a question", origin, "", post.size)
        elif post.score <= 0 and post.number != question.accepted:
            tally.drop("answer that nobody found useful", origin, "", post.size)
        else:
            chosen = best.setdefault(post.question, [])
            if any(post.number == other.number for other in chosen):
                tally.drop("post given twice", origin, "", post.size)
                continue
            chosen.append(post)
            chosen.sort(key=lambda one: (one.number != questions[one.question].accepted, -one.score, one.number))
            for worse in chosen[ANSWERS:]:
                tally.drop(f"answer after the best {ANSWERS}", f"{path}#{worse.number}", "", worse.size)
            del chosen[ANSWERS:]
    return best


def _posts(file: BinaryIO) -> Iterator[Post]:
    file.seek(0)
    while header := file.read(_HEADER.size):
        is_question, number, question, accepted, score, size = _HEADER.unpack(header)
        yield Post(is_question, number, question, accepted, score, file.tell(), size)
        file.seek(size, os.SEEK_CUR)


def _text(file: BinaryIO, post: Post, origin: str, tally: Tally) -> tuple[str, str, str]:
    """A post's title, text and date; one without text is counted."""
    file.seek(post.offset)
    title, body, date = json.loads(file.read(post.size))
    if reason := objection(body):
        tally.drop(reason, origin, body)
        return title, "", date
    try:
        text = plain(body)
    except markup.TooDeep:
        tally.drop(TOO_DEEP, origin, body)
        return title, "", date
    if not text:
        tally.drop("post without text", origin, body)
    return title, text, date
