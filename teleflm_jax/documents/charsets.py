"""Character-set detection and decoding of bytes to text.

Sources: WHATWG's Encoding Standard for names and browser behavior; RFC 1468, RFC 1554 and RFC 2237 (ISO-2022-JP), RFC 1557
(ISO-2022-KR), RFC 1922 (ISO-2022-CN), RFC 1843 (HZ), JIS X 0213, GB 18030-2022.
"""

import codecs
import re
from collections.abc import Iterator

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

_DECLARED = re.compile(rb"<(?:meta[^>]{0,200}charset|\?xml[^>]{0,200}encoding)\s*=\s*[\"']?\s*([A-Za-z0-9_:.-]{2,30})", re.IGNORECASE)
_DECLARED_WITHIN = 4096
_MARKS = (
    (b"\xef\xbb\xbf", "utf-8"),
    (b"\xff\xfe\0\0", "utf-32-le"),
    (b"\0\0\xfe\xff", "utf-32-be"),
    (b"\xff\xfe", "utf-16-le"),
    (b"\xfe\xff", "utf-16-be"),
    (b"\x84\x31\x95\x33", "gb18030"),
)
_WIDER = {"gbk": "gb18030", "big5": "big5hkscs", "shift_jis": "cp932", "euc_kr": "cp949", "iso8859-11": "cp874"}
"""Python codecs that decode what browsers decode, for sets whose standard codec is narrower."""
_NUMBERED = re.compile(r"(?:x[-_]?)?(?:cp|ms|ibm|win|windows|dos|ansi|microsoft)?[-_]?(?:cp)?[-_]?(\d{3,4})")
_CODE_PAGES = {"932": "cp932", "936": "gb18030", "949": "cp949", "950": "big5hkscs", "1361": "johab"} | {
    number: f"cp{number}" for number in "437 720 737 775 850 852 855 857 858 860 861 862 863 864 865 866 869 874 1125".split()
}
_CODE_PAGES |= {str(number): f"cp{number}" for number in range(1250, 1259)}
_NAMES = {
    "latin-1": "cp1252",
    "gb-18030": "gb18030",
    "gb18030-2000": "gb18030",
    "gb18030-2005": "gb18030",
    "gb18030-2022": "gb18030",
    "euc-cn": "gb18030",
    "big5-eten": "big5hkscs",
    "big5-2003": "big5hkscs",
    "sjis-win": "cp932",
    "sjis-open": "cp932",
    "shift_jisx0213": "shift_jisx0213",
    "shift_jis-2004": "shift_jis_2004",
    "euc-jisx0213": "euc_jisx0213",
    "euc-jis-2004": "euc_jis_2004",
    "eucjp-ms": "euc_jp",
    "eucjp-win": "euc_jp",
    "cp51932": "euc_jp",
    "uhc": "cp949",
    "johab": "johab",
    "koi8-t": "koi8_t",
    "kz-1048": "kz1048",
    "ptcp154": "ptcp154",
    "x-mac-cyrillic": "mac_cyrillic",
    "x-mac-ukrainian": "mac_cyrillic",
    "x-mac-ce": "mac_latin2",
    "x-mac-greek": "mac_greek",
    "x-mac-turkish": "mac_turkish",
    "utf-32": "utf-32-le",
    "utf-32le": "utf-32-le",
    "utf-32be": "utf-32-be",
}
"""Names of character sets that browsers do not know."""
_REFUSED = re.compile(
    r"x-user-defined|(?:x-)?(?:unicode-\d-\d-)?utf-7(?:-imap)?|csunicode11utf7|(?:x-)?euc-?tw|(?:x-)?cns-?11643.*|big5-uao|viscii|(?:x-viet-)?tcvn.*"
    r"|(?:x-viet-)?vps|armscii-8a?|geostd8|tscii|tam|tab|(?:x-)?iscii.*|scsu|bocu-1|utf-ebcdic|ibm037|ebcdic.*"
)
"""Sets that Python lacks, or that no page should use: their bytes would be decoded as another set."""
_WINDOWS = {"iso8859-2": "cp1250", "iso8859-7": "cp1253", "iso8859-8": "cp1255", "iso8859-6": "cp1256", "iso8859-13": "cp1257"}
"""Sets with control characters at positions where the Windows variant has printable characters."""
_CONTROL = re.compile("[\x80-\x84\x86-\x9f]")
_NO_TEXT = re.compile("[\0-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufffd\uffff]")

_ESCAPED = re.compile(rb"\x1b(?:\$[@AB]|\$[()*+][@-Z]|\(I)")
"""Escape sequences that designate a set larger than ASCII; terminal escape sequences do not match."""
_SWITCH = re.compile(rb"(\x1b\$[()*+]?[@-Z]|\x1b[(.][@-Z]|\x1bN[\x20-\x7f]|[\x0e\x0f\n])")
_EIGHTH_BIT = bytes(i | 0x80 if 0x20 < i < 0x7F else i for i in range(256))
_PAIR = re.compile(rb"[\xa1-\xfe]{2}")
_JIS, _JIS_1990, _JIS_2004, _JIS_2004_2 = (b"", "euc_jp"), (b"\x8f", "euc_jp"), (b"", "euc_jis_2004"), (b"\x8f", "euc_jis_2004")
_SETS = {
    b"$@": _JIS,
    b"$B": _JIS,
    b"$(@": _JIS,
    b"$(B": _JIS,
    b"$(D": _JIS_1990,
    b"$(O": _JIS_2004,
    b"$(Q": _JIS_2004,
    b"$(P": _JIS_2004_2,
} | {
    b"$A": (b"", "gb2312"),
    b"$(A": (b"", "gb2312"),
    b"$(C": (b"", "euc_kr"),
    b"(I": (b"", "cp932"),
    b"(J": (b"", "iso2022_jp"),
}
"""Designation (after ESC) -> prefix of a character in EUC, and the Python codec."""
_SHIFTED = {b"$)C": (b"", "euc_kr"), b"$)A": (b"", "gb2312")}
"""Sets that SO and SI switch between. Python has no codec for those of ISO-2022-CN with traditional characters."""
_SINGLE = {b".A": "latin-1", b".F": "iso8859-7"}
_HZ = re.compile(rb"~\{((?:[\x21-\x77][\x21-\x7e])+)~\}")
_HZ_CHARACTERS = 10
"""Minimum number of Chinese characters (and few others) between such brackets; Lisp format strings contain similar brackets."""
_CHINESE = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uff60]")
_UTF7 = re.compile(rb"\+[A-Za-z0-9/+]{2,}-?")
_UTF7_CHARACTERS = 10
_OF_WORDS = re.compile(
    "[\u00a0-\u024f\u0370-\u052f\u0590-\u06ff\u0e00-\u0e7f\u2010-\u2030\u20ac\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uffef]*"
)
_IN_WORDS = re.compile("[a-z](?:(?![\xad\xb7\u2019])[^\\w\\s\0-\x7f]|[À-ÖØ-ÞŠŽŸ])[a-z]")
"""Symbols and capitals in places where another set, such as MacRoman or DOS, has letters."""
_LOOKED_AT = 1 << 16
_NOT_HANGUL = re.compile("[^\0-\x7f\uac00-\ud7a3]")
_STANDARD_FORMS = dict(
    zip(
        (*range(0xE78D, 0xE797), 0xE81E, 0xE826, 0xE82B, 0xE82C, 0xE832, 0xE843, 0xE854, 0xE864),
        (0xFE10, 0xFE12, 0xFE11, *range(0xFE13, 0xFE1A), *range(0x9FB4, 0x9FBC)),
        strict=True,
    )
)
"""Private-use characters of Python's GB 18030 codec -> their code points since 2022."""
_PRIVATE = re.compile("[\ue78d-\ue796\ue81e-\ue864]")


def decode(content: bytes, charset: str) -> str | None:
    """Decode bytes; return None if no character set fits.

    Tried in order: a byte order mark, escapes from ASCII, UTF-8 (which other text almost never matches by chance), the set that the
    server or the page declares, and detection. Invalid characters become U+FFFD unless they are more than 1 % of the text.
    """
    for mark, name in _MARKS:
        if content.startswith(mark):
            return _text(content[len(mark) :], name)
    if b"\0" in content[:_DECLARED_WITHIN] and (name := _utf16_without_mark(content, charset)):
        return _text(content, name)
    if content.isascii():
        return _of_seven_bits(content, charset) if b"\x1b" in content or b"+" in content or b"~{" in content else content.decode("ascii")
    try:
        return content.decode()
    except UnicodeDecodeError:
        pass
    names, is_readable = _named(content, charset)
    for i, name in enumerate(_candidates(content, names)):
        if not name or (is_readable and name.startswith(("utf-16", "utf-32"))):
            continue
        if name == "refused":
            return None
        text = _text(content, name)
        if _is_read(text) and (i < len(names) or not _is_of_another(text)):
            return text
    return None


def _is_of_another(text: str) -> bool:
    """Return True if 20 % of the non-ASCII characters are symbols or capitals inside words, so that the guessed set is wrong."""
    return len(_IN_WORDS.findall(text)) * 5 > len(text) - len(text.encode("ascii", "ignore"))


def _named(content: bytes, charset: str) -> tuple[list[str], bool]:
    """Return the declared sets of server and page, and True if the page's own bytes declare one, which UTF-16 text could not."""
    declared = _DECLARED.search(content[:_DECLARED_WITHIN])
    names = (charset, declared[1].decode() if declared else "")
    return [name.strip(" \t\"'").lower() for name in names if name], bool(declared)


def _candidates(content: bytes, names: list[str]) -> Iterator[str]:
    """Yield Python codec names, the most likely first; empty for unknown sets."""
    for name in names:
        yield "refused" if _REFUSED.fullmatch(name) else _codec(name)
    yield "cp949" if _is_korean(content) else _codec(detect_encoding(content) or "")
    yield "utf-8"


def _codec(name: str) -> str:
    """Return the Python codec of a set. Other codecs are not used, because some take time quadratic in the page's length."""
    numbered = _NUMBERED.fullmatch(name)
    if found := _NAMES.get(name) or (numbered and _CODE_PAGES.get(numbered[1])):
        return found
    name = map_encoding_to_html5(name, fallback_utf8=False) or ""
    # the content has non-ASCII bytes, so it is not in ISO-2022, which is ASCII
    return "" if name.startswith("iso2022") else _WIDER.get(name, name)


def _text(content: bytes, name: str) -> str:
    text = content.decode(name, _ROWS_OF_NEC if name == "euc_jp" else "replace")
    if name in _WINDOWS and _CONTROL.search(text):
        return content.decode(_WINDOWS[name], "replace")
    return text.translate(_STANDARD_FORMS) if name == "gb18030" and _PRIVATE.search(text) else text


def _is_read(text: str) -> bool:
    return text.count("\ufffd") <= len(text) // 100 and text.count("\0") <= max(1, len(text) // 100)


def _utf16_without_mark(content: bytes, charset: str) -> str:
    """Detect UTF-16 by zeros: return the byte order if one byte of each pair is often zero (or ever, if declared) and the other is not."""
    head = content[: min(_DECLARED_WITHIN, len(content) & ~1)]
    zeros = head[::2].count(0), head[1::2].count(0)
    is_declared = charset.strip().lower().startswith("utf-16")
    if min(zeros) * 20 > max(zeros) or max(zeros) < (1 if is_declared else max(8, len(head) // 16)):
        return ""
    name = "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"
    return "" if _NO_TEXT.search(head.decode(name, "replace").rstrip("\ufffd")) else name


def _is_korean(content: bytes) -> bool:
    """Return True for EUC-KR: over 90 % of the non-ASCII characters are Hangul; Chinese text decoded so has three fifths."""
    text = content[:_LOOKED_AT].decode("euc_kr", "replace")
    return len(_NOT_HANGUL.findall(text)) * 10 < len(text) - len(text.encode("ascii", "ignore"))


def _of_seven_bits(content: bytes, charset: str) -> str | None:
    """Decode ASCII with escapes: the ISO-2022 family and HZ. UTF-7 is refused, as browsers do."""
    names, _ = _named(content, charset)
    if _ESCAPED.search(content):
        text = "".join(_without_escapes(content))
        return text if _is_read(text) and "\x1b$" not in text else None
    is_utf7 = any(_REFUSED.fullmatch(name) and "7" in name for name in names) and re.search(rb"\+[A-Za-z0-9/]{3}", content)
    if is_utf7 or _is_utf7(content):
        return None
    if b"~{" in content and (any(name.startswith("hz") for name in names) or _is_hz(content)):
        text = content.decode("hz", "replace")
        return text if _is_read(text) else None
    return content.decode("ascii")


def _is_utf7(content: bytes) -> bool:
    """Return True if nearly everything after plus signs is UTF-7 of word characters, and there is too much of it to be chance."""
    good = bad = 0
    for found in _UTF7.finditer(content):
        text = found[0].decode("utf-7", "replace")
        if _OF_WORDS.fullmatch(text):
            good += len(text)
        else:
            bad += 1
        if bad > 2 + good // 20:
            return False
    return good >= _UTF7_CHARACTERS * (1 + bad)


def _without_escapes(content: bytes) -> Iterator[str]:
    """Decode ISO-2022-JP, -KR and simplified -CN: between escapes, up to a line end, all bytes are in one set."""
    designated: tuple[bytes, str] | None = None
    shifted: tuple[bytes, str] | None = None
    single, is_shifted = "latin-1", False
    for i, part in enumerate(_SWITCH.split(content)):
        if i % 2 == 0:
            now = shifted if is_shifted else designated
            yield _of_set(part, *now) if now else part.decode("ascii")
        elif part in (b"\x0e", b"\x0f"):
            is_shifted = part == b"\x0e"
        elif part == b"\n":
            designated, is_shifted = None, False
            yield "\n"
        elif part.startswith(b"\x1bN"):
            yield part[2:].translate(_EIGHTH_BIT).decode(single, "replace")
        elif part[1:] in _SHIFTED:
            shifted = _SHIFTED[part[1:]]
        elif part[1:] in _SINGLE:
            single = _SINGLE[part[1:]]
        elif part[1:2] == b"(" or part[1:] in _SETS:
            designated = _SETS.get(part[1:])
        else:
            yield part.decode("ascii")


def _of_set(part: bytes, before: bytes, name: str) -> str:
    if name == "iso2022_jp":  # JIS X 0201 Roman: ASCII except for ¥ and ‾
        return (b"\x1b(J" + part).decode(name, "replace")
    part = part.translate(_EIGHTH_BIT)
    return _text(_PAIR.sub(lambda pair: before + pair[0], part) if before else part, name)


def _is_hz(content: bytes) -> bool:
    """Return True if there are Chinese characters between HZ brackets and no other tilde; a literal tilde is doubled."""
    if b"~" in _HZ.sub(b"", content).replace(b"~~", b"").replace(b"~\n", b""):
        return False
    characters = "".join(found.translate(_EIGHTH_BIT).decode("gb2312", "replace") for found in _HZ.findall(content))
    return len(_CHINESE.findall(characters)) >= max(_HZ_CHARACTERS, len(characters) * 3 // 4)


def _row_of_nec(error: UnicodeError) -> tuple[str, int]:
    """Decode the NEC and IBM extensions of EUC-JP, such as ①, through Windows' Shift_JIS; other bytes become U+FFFD."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    pair = error.object[error.start : error.start + 2]
    if len(pair) == 2 and min(pair) > 0xA0:
        row, cell = pair[0] & 0x7F, pair[1] & 0x7F
        first = ((row + 1) >> 1) + (0x70 if row < 0x5F else 0xB0)
        second = cell + (0x7E if row % 2 == 0 else 0x1F if cell < 0x60 else 0x20)
        found = bytes((first, second)).decode("cp932", "replace")
        if found != "\ufffd":
            return found, error.start + 2
    return "\ufffd", error.end


_ROWS_OF_NEC = "teleflm_jax.rows_of_nec"
codecs.register_error(_ROWS_OF_NEC, _row_of_nec)
