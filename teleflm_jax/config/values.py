"""Conversion of Python values to the types that a dataclass declares, and to gin text."""

import math
import types
import typing

LARGEST_EXACT = 2**53
"""Largest float that identifies a whole number."""
LARGEST_INT = 2**63 - 1
"""Largest integer of arrays and files."""

WIDTH = 1_000
"""Largest length of a tuple on one line, characters; lines have a limit (`read.LONGEST_LINE`)."""


class MismatchError(Exception):
    """A value that its annotation does not allow; `name` identifies it, down to the item of a container."""

    def __init__(self, name: str, value: object, annotation: object):
        self.name, self.value, self.wanted = name, value, describe(annotation)
        if annotation is int and type(value) is float and value.is_integer():
            self.wanted += ", above 2^53 with all its digits"
        if type(value) is int and abs(value) > LARGEST_INT:
            self.wanted += ", below 2^63"


def convert(value: object, annotation: typing.Any, name: str) -> object:
    """Return the value in its annotation's type if that loses nothing; True is not a number."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for member in sorted(arguments, key=lambda member: member is not type(value)):
            try:
                return convert(value, member, name)
            except MismatchError:
                continue
    elif origin is tuple and isinstance(value, tuple | list):
        members = arguments[:1] * len(value) if arguments[1:] == (Ellipsis,) else arguments
        if len(members) == len(value):
            return tuple(convert(item, member, f"{name}[{i}]") for i, (item, member) in enumerate(zip(value, members, strict=True)))
    elif origin is dict and isinstance(value, dict):
        key_type, value_type = arguments
        return {convert(k, key_type, f"a key of {name}"): convert(v, value_type, f"{name}[{k!r}]") for k, v in value.items()}
    elif annotation is int and type(value) is float and value.is_integer() and abs(value) <= LARGEST_EXACT:
        return int(value)
    elif annotation is float and type(value) is int and abs(value) < 2**1023:
        return float(value)
    elif annotation is type(value) and not (isinstance(value, int) and abs(value) > LARGEST_INT):
        return value
    raise MismatchError(name, value, annotation)


_DESCRIPTIONS = {
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    str: "text in quotes",
    types.NoneType: "None",
}


def describe(annotation: typing.Any) -> str:
    """Return an annotation in words for the user."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(member) for member in arguments)
    if origin is tuple:
        return f"a list [{', '.join('...' if member is Ellipsis else describe(member) for member in arguments)}]"
    if origin is dict:
        return f"a dict {{{': '.join(describe(member) for member in arguments)}}}"
    return _DESCRIPTIONS[annotation]


def literal(value: object) -> str:
    """Gin text of a value; repr gives floats exactly."""
    if type(value) is float:
        if math.isnan(value):
            raise ValueError("gin has no way to write not-a-number")
        return repr(value).replace("inf", "1e999")
    if type(value) is tuple:
        items = [literal(item) + "," for item in value]
        return f"({' '.join(items)})" if sum(map(len, items)) <= WIDTH else "(" + "".join(f"\n    {item}" for item in items) + "\n)"
    if type(value) is dict:
        return "{" + "".join(f"\n    {literal(key)}: {literal(item)}," for key, item in value.items()) + ("\n}" if value else "}")
    if value is None or type(value) in (bool, int, str):
        return repr(value)
    raise TypeError(f"gin has no way to write {value!r}")


def short(value: object) -> str:
    """Return a value as text on one line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
