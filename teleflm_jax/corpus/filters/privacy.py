"""Masking of personal data: e-mail addresses, telephone numbers, Chinese identity numbers and network addresses.

The kinds and patterns are our choice; the report says only that it addresses "private information disclosure". A number is masked only if
its form, its check digit or the surrounding words identify it, so that tables, versions and program text stay intact.
"""

import datetime
import ipaddress
import re
from collections.abc import Callable, Sequence

from teleflm_jax.errors import UserError

_FULL_WIDTH = {code: code - 0xFEE0 for code in (*b"0123456789", *b"@+-()._", *range(65, 91), *range(97, 123)) for code in [code + 0xFEE0]}
_HYPHENS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2043\u2212\ufe58\ufe63"), ord("-"))
_BLANKS = dict.fromkeys((0xA0, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000), ord(" "))
_PLAIN_FORMS = _FULL_WIDTH | _HYPHENS | _BLANKS
"""Character -> ASCII character that it replaces in numbers and addresses. The mapping is one to one, so positions stay the same."""
_ODD = re.compile(f"[{re.escape(''.join(map(chr, _PLAIN_FORMS)))}]")

_BEFORE = r"(?<![\da-fA-F].)(?<!\d[.-].)(?<!\D\d,.)(?<!0[xX].)"
"""Lookbehind: the first character (matched by `.`) does not continue a number or, as in hashes, its hexadecimal letters. It is checked
after the character is consumed, because a pattern that starts with a character class is found several times faster."""
_AFTER = r"(?![\da-fA-F]|[.-]\d)"
_AROUND = 200
"""Maximum context before a match, in characters: more than URLs have before their numbers, and a bound on the time."""
_WITHIN = 40
"""Characters before a network address that are searched for a word that identifies it."""

_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc cd cf cg ch ci ck "
    "cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga gd ge gf gg gh gi gl gm gn gp gq gr "
    "gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls "
    "lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg "
    "ph pk pl pm pn pr ps pt pw py qa re ro rs ru rw sa sb sc sd se sg sh si sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj "
    "tk tl tm tn to tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
_GENERIC = (
    "com net org edu gov mil int info biz name pro aero coop museum jobs mobi travel tel cat asia app dev xyz online site shop store "
    "club top vip wang ren email cloud tech blog live work life world today news media agency company group team network solutions "
    "services systems digital design studio art space website help support center global one fun icu ltd bank law health care academy "
    "school university church foundation africa berlin london nyc paris wien hamburg bayern swiss"
)
"""Top-level domains, out of 1,200, that people use for mail. Names of files and attributes end in most of the others."""
_LETTER = r"A-Za-z0-9\u00c0-\u024f"
_EMAIL = re.compile(
    rf"[{_LETTER}_](?<![{_LETTER}_%$].)(?<![{_LETTER}_][.%+'-].)[{_LETTER}._%+'-]{{0,63}}@(?!self\.|cls\.|this\.)"
    rf"(?:[{_LETTER}](?:[{_LETTER}-]{{0,61}}[{_LETTER}])?\.){{1,5}}(?i:{'|'.join((*_COUNTRIES.split(), *_GENERIC.split()))})"
    rf"(?:(?![{_LETTER}_]|-[{_LETTER}]|\.[{_LETTER}])|(?=E<))"  # Perl's documentation has E<gt> after an address
)
_LOGIN = re.compile(
    r":/{1,3}[^\s/?#]*\Z|(?:^|[$#|>&;(`\"'\u2502]) ?(?:sudo )?(?:ssh|scp|sftp|rsync|mosh) [^\n]*\Z"
    r"|(?<![A-Za-z])(?:ssh|scp|sftp|rsync|mosh) (?:-\S+ (?:[^\s-]\S* )?)*\Z|CVSROOT=[^\n]*\Z",
    re.MULTILINE,
)
"""Context before a login name: the scheme of a URL, or a command that takes a login, with options or at the start of a command."""
_REMOTE = re.compile(r":(?:[~/.]|\d{1,5}\b(?!\.\d)|[\w.~-]+/|[\w-]+\.git\b)")
"""Context after a host name: a path or a port."""
_ROBOTS = frozenset(("git", "hg", "svn", "gitolite"))

_MOBILE = r"[3-9]\d(?:\d{8}|-(?!(?:19|20)\d\d[01]\d[0-3])\d{8}|-\d{4}-\d{4}| \d{4} \d{4}|-\d{3}-\d{5}| \d{3} \d{5}|\d-\d{3}-\d{4})"
"""Chinese mobile number after its 1, in the usual groups; eight digits after a hyphen may be a date."""
_AREA, _LINE = r"(?:10|2\d|[3-9]\d\d)", r"(?:\d{7,8}|\d{3,4}[ -]\d{4})(?:-\d{1,5})?"
"""Chinese fixed line: the area code after its 0, and the number with its extension."""
_US = r"[2-9]\d\d"
"""North American area codes and exchanges."""
_ABROAD = (
    r"(?:7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[124]|9[0-58]|21[12368]|2[2-6]\d|29[01789]|3[578]\d|42[013]|5[09]\d|67[02-9]|68[0-35-9]"
    r"|69[012]|80[08]|85[02356]|87[08]|88[0-368]|9[67]\d|99[2-68])"
    r"(?:(?:[ .()-]{1,3}\d{1,4}){2,6}|(?:[ .()-]{1,3}\d{1,4}){1,3}[ .)-]{1,2}\d{5,8}|[ -]?\d{7,12})"
)
"""Numbers of all countries except China and North America. Source: ITU-T E.164."""
_SIGNED = {
    "[+]": (
        rf"(?<!\w.)86[ -]?(?:1{_MOBILE}|(?:\(0\) ?)?{_AREA}[ -]?{_LINE})",
        rf"(?<!\w.)1[ .-]?(?:{_US}[ .-]?|\({_US}\)[ .-]?){_US}[ .-]?\d{{4}}",
        rf"(?<!\w.){_ABROAD}",
    ),
    "[(]": (
        rf"\+?86\)[ -]?(?:1{_MOBILE}|0?{_AREA}[ -]?{_LINE})",
        rf"\+?86[ -]{_AREA}\)[ -]?{_LINE}",
        rf"(?:\+?86[ -]?)?0{_AREA}\)[ -]?{_LINE}",
        r"0\d{1,2}\)[ -]?\d{3,4}[ -]\d{4}",
        rf"(?<!\w.){_US}\)[ -]?{_US}[-. ]\d{{4}}",
    ),
}
_UNSIGNED = {
    "0": (
        rf"086[ -]?(?:1{_MOBILE}|{_AREA}[ -]?{_LINE})",
        rf"(?:\d{{2,3}}-\d{{7,8}}(?:-\d{{1,5}})?|{_AREA}-{_LINE})",
        rf"(?<!\d .)(?:{_AREA} \d{{7,8}}|(?:10|2\d) \d{{4}}[ -]\d{{4}})(?! \d)",
        r"\d{1,3}-\d{3,4}-\d{3,4}",  # as in Hong Kong, Taiwan, Japan and Korea
    ),
    "1": (_MOBILE, rf"(?<!\w.)(?:-{_US}-{_US}-|\.{_US}\.{_US}\.|[ -]\({_US}\) ?{_US}-)\d{{4}}"),
    "8": (rf"6(?:[ -]?1{_MOBILE}|-{_AREA}-\d{{7,8}})",),
    "[2-9]": (rf"(?<![\w/].)\d\d(?:-{_US}-|\.{_US}\.)\d{{4}}(?!\w)",),
}
"""First character of a telephone number -> patterns of the rest."""
_PHONE = re.compile(
    "[+(0-9](?:"
    + "|".join(f"(?<={first}){form}(?!\\d)" for first, forms in _SIGNED.items() for form in forms)
    + f"|{_BEFORE}(?:"
    + "|".join(f"(?<={first}){form}" for first, forms in _UNSIGNED.items() for form in forms)
    + f"){_AFTER})",
    re.ASCII,
)
_PAGE, _CALLED = re.compile(r"(?:://|\bwww\.)[!-~]*\Z"), re.compile(r"(?:\b(?:phone|mobile|tel)\w*=\+?|/wa\.me/\+?)\Z", re.IGNORECASE)
"""Context of a number in a URL, and of a number that is a telephone number even in a URL."""

_IDENTITY_NUMBER = re.compile(rf"[1-9]{_BEFORE}\d{{5}}([ -]?)\d{{8}}\1\d{{3}}[\dXx]{_AFTER}", re.ASCII)
_IDENTITY_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_IDENTITY_CHECK = "10X98765432"

_NETWORK_ADDRESS = re.compile(
    r"\d(?<![\w.].)(?<![A-Za-z]-.)\d{0,2}(?:\.\d{1,3}){3}(?:(?=\.in-addr)|(?!\.?\w|-[A-Za-z]|-\d+(?![\d.])))", re.ASCII
)
_VERSIONED = re.compile(
    r"(?:(?:^|[\s\"'(;])[A-Za-z][\w.+]*/|(?:\b(?:version|ver|v|release|revision|rev|build|firmware|driver|kernel|patch|section|sec|chapter"
    r"|clause|figure|fig|table|appendix|annex|article|rule)s?|§|版本|版本号|版|第|章|节)[\s\"'.:=(\u00a7#：＝（号为是]{0,3})\Z",
    re.IGNORECASE,
)
"""Context before four numbers that are the version of a program or the number of a section."""
_NETWORKED = re.compile(
    r"\b(?:ip(?:v4)?|IP(?:v4)?s?|[Aa]ddr(?:ess(?:es)?)?|hosts?|hostname|server|nameserver|dns|DNS|ping|PING|traceroute|nslookup|dig|whois|gateway"
    r"|router|proxy|client|peer|telnet|ssh|curl|listen|connect\w*)\b|地址|主机|服务器|网关|域名|//\Z|@\Z|\bfrom \Z",
    re.ASCII,
)
_PORT = re.compile(r":\d{2,5}(?!\d)|/(?:[89]|[12]\d|3[0-2])(?!\d)|\.in-addr")
_SMALL_FIRST, _SMALL = 32, 100
"""Four numbers below these limits are more often a version or a section; only 1 % of host addresses are below them."""


def _is_email(match: re.Match) -> bool:
    """Return True for a mail address, and False for a login on a machine, as used by version control and remote copying."""
    text, start, end = match.string, match.start(), match.end()
    if match[0].partition("@")[0].lower() in _ROBOTS or _REMOTE.match(text, end):
        return False
    return not _LOGIN.search(text[max(0, start - _AROUND) : start])


def _is_phone(match: re.Match) -> bool:
    """Return True if the number of digits fits, the number is not round, and it is not part of a URL."""
    digits = re.sub(r"\D", "", match[0])
    if (match[0][0] == "+" and not 8 <= len(digits) <= 15) or (match[0][0] != "1" and "000000" in digits):
        return False
    before = match.string[max(0, match.start() - _AROUND) : match.start()]
    return not _PAGE.search(before) or bool(_CALLED.search(before))


def _is_identity(match: re.Match) -> bool:
    """Return True if the seventh to fourteenth digits are a date and the check digit is right. Source: GB 11643-1999."""
    number = re.sub("[ -]", "", match[0])
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * weight for digit, weight in zip(number[:17], _IDENTITY_WEIGHTS, strict=True))
    return 1900 <= int(number[6:10]) < 2100 and _IDENTITY_CHECK[total % 11] == number[17].upper()


def _is_public_address(match: re.Match) -> bool:
    """Return True for the address of a public host; four small numbers need a port or a word that identifies them."""
    try:
        address = ipaddress.IPv4Address(match[0])
    except ValueError:
        return False
    if not address.is_global or address.is_multicast:
        return False
    text, start, end = match.string, match.start(), match.end()
    first, *others = map(int, match[0].split("."))
    before = text[max(0, start - _WITHIN) : start]
    if _VERSIONED.search(before):
        return False
    has_port = bool(_PORT.match(text, end))
    if others[-1] == 0 and not has_port:  # a network or a version
        return False
    return first >= _SMALL_FIRST or max(others) >= _SMALL or has_port or bool(_NETWORKED.search(before))


MASKS: dict[str, tuple[re.Pattern[str], Callable[[re.Match], bool]]] = {
    "email": (_EMAIL, _is_email),
    "identity_number": (_IDENTITY_NUMBER, _is_identity),
    "phone": (_PHONE, _is_phone),
    "network_address": (_NETWORK_ADDRESS, _is_public_address),
}
"""Kind -> pattern, and a check of each match. Matches are replaced by their kind in angle brackets."""


def mask(text: str, kinds: tuple[str, ...]) -> tuple[str, list[tuple[str, str]]]:
    """Replace personal data; return the text, and each replacement as (kind, original text)."""
    found: list[tuple[str, str]] = []
    if not kinds:
        return text, found
    plain = text.translate(_PLAIN_FORMS) if not text.isascii() and _ODD.search(text) else text
    for kind in kinds:
        pattern, is_valid = MASKS[kind]
        spans = [match.span() for match in pattern.finditer(plain) if is_valid(match)]
        if spans:
            found.extend((kind, text[start:end]) for start, end in spans)
            text, plain = _replaced(text, spans, f"<{kind}>"), _replaced(plain, spans, f"<{kind}>")
    return text, found


def _replaced(text: str, spans: Sequence[tuple[int, int]], by: str) -> str:
    ends, starts = [0, *(end for _, end in spans)], [*(start for start, _ in spans), len(text)]
    return by.join(text[end:start] for end, start in zip(ends, starts, strict=True))


def refuse_unknown(kinds: tuple[str, ...]) -> None:
    """Refuse unknown kinds of personal data.

    Raises:
        UserError: A kind is unknown.
    """
    for kind in kinds:
        if kind not in MASKS:
            raise UserError(f"got {kind!r} in clean.mask; allowed: {', '.join(MASKS)}; change clean.mask")
