"""Messages of plain values between two processes, one of which is untrusted.

A message is its length in four bytes and one JSON value. A type without a JSON form is an object with a single key, the type's name.
Decoding creates only builtin types and calls no code of the sender, so two values that compare equal here are equal. An instance of a
subclass arrives as its base class, any other value as an iterator over its items or as an `Opaque`.
"""

import json
import os
import sys
from typing import Any

LARGEST = 1 << 24
"""Largest message in bytes."""
_SMALL = 1 << 63
"""Larger integers are sent in base 16, which takes linear time."""


class Opaque:
    """Placeholder of a value that is not plain; it equals nothing else and has the truth value of the original."""

    def __init__(self, truth: bool):
        self._truth = truth

    def __bool__(self):
        return self._truth


def send(pipe: int, value: object) -> None:
    """Write a message of JSON's own types."""
    content = json.dumps(value, separators=(",", ":")).encode()
    rest = memoryview(len(content).to_bytes(4, "little") + content)
    while rest:
        rest = rest[os.write(pipe, rest) :]


def receive(pipe: int) -> Any:
    """Read a message of JSON's own types; raises a `ValueError` if there is none."""
    size = int.from_bytes(_read(pipe, 4), "little")
    if size > LARGEST:
        raise ValueError(f"a message of more than {LARGEST:,} bytes")
    return json.loads(_read(pipe, size))


def pack(value: Any) -> Any:
    """Encode a value in JSON's types."""
    if value is None or isinstance(value, bool | str | float):
        return value
    if isinstance(value, int):
        return value if -_SMALL < value < _SMALL else {"int": hex(value)}
    if isinstance(value, list):
        return [pack(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[pack(key), pack(item)] for key, item in value.items()]}
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [pack(item) for item in value]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, bytes | bytearray):
        return {"bytes" if isinstance(value, bytes) else "bytearray": value.hex()}
    if _is(value, "fractions", "Fraction"):
        return {"Fraction": [pack(value.numerator), pack(value.denominator)]}
    if _is(value, "decimal", "Decimal"):
        return {"Decimal": str(value)}
    try:
        items = iter(value)
    except TypeError:
        return {"opaque": bool(value)}
    return {"iterator": [pack(item) for item in items]}


def unpack(value: Any) -> Any:
    """Decode a packed value; raises a `ValueError`, `TypeError` or the like if it is invalid."""
    if isinstance(value, list):
        return [unpack(item) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, inside),) = value.items()
    return _KINDS[kind](inside)


def _is(value: object, module: str, name: str) -> bool:
    return module in sys.modules and isinstance(value, getattr(sys.modules[module], name))


def _fraction(inside: list) -> object:
    import fractions

    return fractions.Fraction(*unpack(inside))


def _decimal(inside: str) -> object:
    import decimal

    return decimal.Decimal(inside)


_KINDS = {
    "int": lambda inside: int(inside, 16),
    "dict": lambda inside: {unpack(key): unpack(item) for key, item in inside},
    "tuple": lambda inside: tuple(unpack(inside)),
    "set": lambda inside: set(unpack(inside)),
    "frozenset": lambda inside: frozenset(unpack(inside)),
    "complex": lambda inside: complex(*inside),
    "bytes": bytes.fromhex,
    "bytearray": bytearray.fromhex,
    "Fraction": _fraction,
    "Decimal": _decimal,
    "iterator": lambda inside: iter(unpack(inside)),
    "opaque": lambda inside: Opaque(inside is True),
}


def _read(pipe: int, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = os.read(pipe, min(size - len(content), 1 << 20))
        if not part:
            raise ValueError("it has ended")
        content += part
    return bytes(content)
