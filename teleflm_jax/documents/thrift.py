"""Parser of Thrift's compact protocol, for Parquet footers and page headers: returns the requested fields and skips the rest.

pyarrow aborts the process if a column's metadata contradict each other, so the fields that matter are parsed here first. Source: Apache
Thrift's specification of the compact protocol.
"""

from collections.abc import Mapping
from typing import Any

TRUE, FALSE, BYTE, DOUBLE, BINARY, LIST, SET, MAP, STRUCT = 1, 2, 3, 7, 8, 9, 10, 11, 12
DEEPEST = 32
"""Maximum nesting of structures; Parquet has six levels."""
LONGEST_INTEGER = 10
"""Bytes of a varint of 64 bits."""

Wanted = Mapping[int, "Wanted | None"]
"""Field number -> requested fields of a structure or of the structures of a list; None returns the value as it is."""


def struct(data: bytes, place: int, wanted: Wanted, depth: int = 0) -> tuple[dict[int, Any], int]:
    """Parse a structure.

    Returns:
        Field number -> value for the requested fields that are present, and the offset after the structure.

    Raises:
        ValueError: The bytes are not a structure.
    """
    if depth > DEEPEST:
        raise ValueError("structures nested too deeply")
    found, number = {}, 0
    while _byte(data, place):
        number, value, place = field(data, place, number, wanted, depth)
        if number in wanted:
            found[number] = value
    return found, place + 1


def field(data: bytes, place: int, before: int, wanted: Wanted, depth: int = 0) -> tuple[int, Any, int]:
    """Parse one field of a structure; `before` is the number of the previous field, or 0.

    Returns:
        Number, value, and the offset after the field.

    Raises:
        ValueError: The bytes are not a field.
    """
    head, place = _byte(data, place), place + 1
    number, kind = before + (head >> 4), head & 15
    if number == before:
        number, place = _integer(data, place)
    if kind in (TRUE, FALSE):
        return number, kind == TRUE, place
    value, place = _value(data, place, kind, wanted.get(number, {}), depth)
    return number, value, place


def _value(data: bytes, place: int, kind: int, wanted: Wanted | None, depth: int) -> tuple[Any, int]:
    if kind == STRUCT:
        return struct(data, place, wanted or {}, depth + 1)
    if kind in (LIST, SET):
        return _list(data, place, wanted, depth)
    if kind == MAP:
        return _map(data, place, depth)
    if kind == BINARY:
        size, place = _varint(data, place)
        if size > len(data) - place:
            raise ValueError("a string past the end of the data")
        return data[place : place + size], place + size
    if kind == DOUBLE:
        return data[place : place + 8], place + 8
    if kind in (TRUE, FALSE, BYTE):  # elements of a list
        return _byte(data, place), place + 1
    if kind > DOUBLE:
        raise ValueError(f"an unknown type {kind}")
    return _integer(data, place)


def _list(data: bytes, place: int, wanted: Wanted | None, depth: int) -> tuple[list | None, int]:
    head, place = _byte(data, place), place + 1
    count, kind = head >> 4, head & 15
    if count == 15:
        count, place = _varint(data, place)
    values = [] if wanted != {} else None  # an unwanted list takes no memory
    for _ in range(count):
        value, place = _value(data, place, kind, wanted, depth + 1)
        if values is not None:
            values.append(value)
    return values, place


def _map(data: bytes, place: int, depth: int) -> tuple[None, int]:
    count, place = _varint(data, place)
    kinds = _byte(data, place) if count else 0
    place += count > 0
    for _ in range(count):
        _, place = _value(data, place, kinds >> 4, {}, depth + 1)
        _, place = _value(data, place, kinds & 15, {}, depth + 1)
    return None, place


def _integer(data: bytes, place: int) -> tuple[int, int]:
    value, place = _varint(data, place)
    return value >> 1 ^ -(value & 1), place


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for number in range(LONGEST_INTEGER):
        byte = _byte(data, place + number)
        value |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            return value, place + number + 1
    raise ValueError("a number without an end byte")


def _byte(data: bytes, place: int) -> int:
    if place >= len(data):
        raise ValueError("truncated data")
    return data[place]
