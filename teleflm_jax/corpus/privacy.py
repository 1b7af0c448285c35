"""Masks personal data: addresses of e-mail, telephone numbers, Chinese identity numbers, network addresses.

Our choice of what and how; the report says that "private information disclosure" was addressed. Numbers are masked only where their form
or their check digit says what they are, so that tables and program text stay whole.
"""

import datetime
import ipaddress
import re
from collections.abc import Callable

from teleflm_jax.errors import UserError

_NO_DIGIT_BEFORE, _NO_DIGIT_BEHIND = r"(?<![\da-fA-F.])(?<!0[xX])", r"(?![\da-fA-F]|\.\d)"
"""Neither the rest of a number nor, as hashes have them, its hexadecimal letters."""
_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_IDENTITY_CHECK = "10X98765432"


def _is_identity(number: str) -> bool:
    """Whether the eleventh to fourteenth digit make a date, and the check digit is right. Source: GB 11643-1999."""
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], _IDENTITY_WEIGHTS, strict=True))
    return 1900 <= int(number[6:10]) < 2100 and _IDENTITY_CHECK[total % 11] == number[17].upper()


def _is_public_address(text: str) -> bool:
    try:
        return ipaddress.IPv4Address(text).is_global
    except ValueError:
        return False


def _always(_: str) -> bool:
    return True


MASKS: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "email": (re.compile(r"[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,5}[A-Za-z]{2,24}(?![A-Za-z0-9])"), _always),
    "identity_number": (re.compile(rf"{_NO_DIGIT_BEFORE}[1-9]\d{{16}}[\dXx]{_NO_DIGIT_BEHIND}", re.ASCII), _is_identity),
    "phone": (
        re.compile(
            rf"{_NO_DIGIT_BEFORE}(?:(?:\+|00)86[ -]?)?1[3-9]\d(?:\d{{8}}|[ -]\d{{4}}[ -]\d{{4}}){_NO_DIGIT_BEHIND}"  # a Chinese mobile
            rf"|{_NO_DIGIT_BEFORE}0\d{{2,3}}-\d{{7,8}}{_NO_DIGIT_BEHIND}"  # a Chinese line
            rf"|(?<!\w)\+[1-9]\d{{0,2}}(?:[ .()-]{{1,2}}\d{{2,4}}){{2,5}}(?!\d)"  # international
            rf"|(?<!\w)\([2-9]\d{{2}}\) ?[2-9]\d{{2}}-\d{{4}}(?!\d)",  # North American
            re.ASCII,
        ),
        _always,
    ),
    "network_address": (re.compile(rf"{_NO_DIGIT_BEFORE}(?:\d{{1,3}}\.){{3}}\d{{1,3}}(?!\.?\d)", re.ASCII), _is_public_address),
}
"""Kind -> pattern, and what a match must be besides. Each is replaced by its kind in angle brackets."""


def mask(text: str, kinds: tuple[str, ...]) -> tuple[str, list[tuple[str, str]]]:
    """Replace personal data; returns the text, and each place as (kind, what stood there)."""
    found: list[tuple[str, str]] = []
    for kind in kinds:
        pattern, is_meant = MASKS[kind]

        def replace(match: re.Match, kind: str = kind, is_meant: Callable[[str], bool] = is_meant) -> str:
            if not is_meant(match[0]):
                return match[0]
            found.append((kind, match[0]))
            return f"<{kind}>"

        text = pattern.sub(replace, text)
    return text, found


def refuse_unknown(kinds: tuple[str, ...]) -> None:
    """Hold kinds of personal data against those that there are.

    Raises:
        UserError: one is not known.
    """
    for kind in kinds:
        if kind not in MASKS:
            raise UserError(f"got {kind!r} in clean.mask; allowed: {', '.join(MASKS)}; change clean.mask")
