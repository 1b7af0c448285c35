import time

import pytest

from teleflm_jax.documents import charsets

GERMAN = "Grüße aus der schönen Straße"
RUSSIAN = "Утром в гавани было тихо, и жители деревни разгружали лодки."
CHINESE = "今天早上港口很安静，随着潮水进来的船只正在由村里的人们卸货。"
TRADITIONAL = "今天早上港口很安靜，隨著潮水進來的船隻正在由村裡的人們卸貨。"
JAPANESE = "その朝の港は静かで、船から荷物を降ろしていました。"
KOREAN = "그날 아침 항구는 조용했고 마을 사람들은 배에서 짐을 내리고 있었다."
THAI = "เช้าวันนั้นท่าเรือเงียบสงบและชาวบ้านกำลังขนของลงจากเรือ"
GREEK = "Το πρωί το λιμάνι ήταν ήσυχο. Άλλοι είπαν: “έλα”."
CZECH = "Příliš žluťoučký kůň úpěl ďábelské ódy – Šťastný „žák“."
PAGE = "<html><head><title>{0}</title></head><body><p>{0}</p><p>{0}</p></body></html>"


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le"])
def test_a_byte_order_mark_says_what_follows(codec):
    mark = b"" if codec == "utf-8-sig" else "\ufeff".encode(codec)
    assert charsets.decode(mark + CHINESE.encode(codec), "gbk") == CHINESE


def test_utf8_is_taken_for_that_whatever_is_declared():
    text = f'<meta charset="gbk">{CHINESE}'
    assert charsets.decode(text.encode(), "iso-8859-1") == text and charsets.decode(b"", "gbk") == ""


@pytest.mark.parametrize(
    ("text", "codec", "name"),
    [
        (CHINESE, "gb2312", "gb2312"),
        (CHINESE + "朱镕基 €", "gb18030", "gb2312"),
        (CHINESE + "镕", "gbk", "GBK"),
        (CHINESE, "gbk", "cp936"),
        (TRADITIONAL, "big5", "big5"),
        (TRADITIONAL + "香港嘅", "big5hkscs", "Big5"),
        (RUSSIAN, "cp1251", "windows-1251"),
        (RUSSIAN, "koi8-r", "koi8-r"),
        (JAPANESE + "①", "cp932", "Shift_JIS"),
        (JAPANESE, "euc-jp", "euc-jp"),
        (KOREAN + "똠", "cp949", "euc-kr"),
        (GERMAN, "latin-1", "latin-1"),
        (GERMAN + " – “50 €”", "cp1252", "ISO-8859-1"),
        (GERMAN, "cp1252", "us-ascii"),
    ],
)
def test_what_server_or_page_say_is_believed_in_its_widest_sense(text, codec, name):
    assert charsets.decode(text.encode(codec), name) == text
    for head in (f'<meta charset="{name}">', f"<META content='text/html; charset={name}'>", f'<?xml version="1.0" encoding="{name}"?>'):
        assert charsets.decode((head + text).encode(codec), "") == head + text


def test_the_server_is_believed_before_the_page():
    page = f'<meta charset="koi8-r">{RUSSIAN}'
    assert charsets.decode(page.encode("cp1251"), "windows-1251") == page


@pytest.mark.parametrize("name", ["", "x-unknown", "hex", "rot13", "idna", "undefined", "unicode_escape", "é", "a\0b", "x" * 1000])
def test_an_unknown_name_is_passed_over(name):
    assert charsets.decode((GERMAN * 20).encode("latin-1"), name) == GERMAN * 20
    assert charsets.decode((RUSSIAN * 20).encode("cp1251"), name) == RUSSIAN * 20


def test_a_declaration_that_can_be_read_is_not_of_utf16():
    page = f'<meta charset="utf-16">{RUSSIAN * 20}'
    assert charsets.decode(page.encode("cp1251"), "") == charsets.decode(page.encode("cp1251"), "utf-16") == page


def test_a_page_cut_inside_a_character_is_read_and_noise_is_not():
    assert charsets.decode((CHINESE * 10).encode()[:-1], "utf-8") == (CHINESE * 10)[:-1] + "\ufffd"
    assert charsets.decode(bytes([0xFF, 0x81, 0x8D, 0x00]) * 50, "utf-8") is None


def page(text, name=""):
    declared = f'<meta http-equiv="Content-Type" content="text/html; charset={name}">' if name else ""
    return PAGE.format(text * 3).replace("<title>", declared + "<title>")


@pytest.mark.parametrize(
    ("text", "codec", "names"),
    [
        (JAPANESE, "iso2022_jp", ["iso-2022-jp", "ISO-2022-JP", "csISO2022JP", "utf-8", "shift_jis", ""]),
        (JAPANESE + "¥100 ‾", "iso2022_jp", ["iso-2022-jp", ""]),
        (JAPANESE + "丂侄", "iso2022_jp_1", ["iso-2022-jp-1", ""]),
        (JAPANESE + CHINESE + "é Ω" + KOREAN.replace("까", ""), "iso2022_jp_2", ["iso-2022-jp-2", ""]),
        (JAPANESE + "ｱｲｳﾟ 丂", "iso2022_jp_ext", ["iso-2022-jp-ext", ""]),
        (JAPANESE + "①㈱俱𠀋", "iso2022_jp_2004", ["iso-2022-jp-2004", ""]),
        (JAPANESE + "①㈱", "iso2022_jp_3", ["iso-2022-jp-3", ""]),
        (KOREAN, "iso2022_kr", ["iso-2022-kr", "csISO2022KR", "euc-kr", ""]),
        (CHINESE + " ~ ASCII, too", "hz", ["hz-gb-2312", "HZ", "gb2312", ""]),
    ],
)
def test_sets_that_escape_from_ascii_are_read_whatever_is_declared(text, codec, names):
    for name in names:
        assert charsets.decode(page(text).encode(codec), name) == page(text)
        assert charsets.decode(page(text, name).encode(codec), "") == page(text, name)
        assert charsets.decode((text + "\n" + text).encode(codec), name) == text + "\n" + text


def test_characters_of_nec_are_read_in_every_japanese_set():
    text = JAPANESE + "①㈱髙ⅳ"
    escaped = JAPANESE.encode("iso2022_jp")[:-3] + b"\x2d\x21\x2d\x6a\x7c\x62\x7c\x74\x1b(B."
    assert charsets.decode(escaped, "iso-2022-jp") == text.replace("ⅳ", "ⅳ") + "."
    extended = JAPANESE.encode("euc_jp") + b"\xad\xa1\xad\xea\xfc\xe2\xfc\xf4"
    assert charsets.decode(extended, "euc-jp") == charsets.decode(extended, "eucJP-ms") == text
    assert charsets.decode(text.encode("cp932"), "x-sjis") == charsets.decode(text.encode("cp932"), "windows-932") == text


def test_simplified_chinese_of_iso_2022_cn_is_read_and_traditional_is_none():
    run = bytes(byte & 0x7F for byte in CHINESE.encode("gb2312"))
    assert charsets.decode(b"<p>\x1b$)A\x0e" + run + b"\x0f</p>", "iso-2022-cn") == f"<p>{CHINESE}</p>"
    for designation in (b"$)G", b"$)E", b"$*H", b"$+I"):
        assert charsets.decode(b"<p>\x1b" + designation + b"\x0e" + run + b"\x0f</p>", "iso-2022-cn") is None


@pytest.mark.parametrize("name", ["", "utf-8", "iso-2022-jp", "hz-gb-2312", "utf-7"])
@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m \x1b(B\x1b[m and more",
        '(format t "~{~a~^, ~} ~{ab~}" list)',
        "Fig.~{}\\ref~{a} and ~user, 1 + 1 = 2",
        "a+b+c",
        "~{=qLlTgIO8[?Z:\\02>2~} is HZ, as is ~{=qLlTgIO8[?Z~}; ~user is none",
        GERMAN,
    ],
)
def test_other_escapes_brackets_and_signs_stay(text, name):
    if "~" not in text or not name.startswith("hz"):  # where it is declared that is believed
        assert charsets.decode(text.encode(), name) == text


REFUSED = ["utf-7", "unicode-1-1-utf-7", "x-user-defined", "euc-tw", "x-euc-tw", "big5-uao", "viscii", "tcvn-5712", "tscii"]


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_none_and_no_other_text(name):
    encoded = RUSSIAN.encode("utf-7") if "utf-7" in name else bytes(range(0xA1, 0xFF)) * 3
    assert charsets.decode(encoded, name) is None
    assert charsets.decode(f'<meta charset="{name}">'.encode() + encoded, "") is None
    assert charsets.decode(RUSSIAN.encode(), name) == RUSSIAN and charsets.decode(b"plain", name) == "plain"


def test_damaged_escapes_are_none():
    escaped = JAPANESE.encode("iso2022_jp")
    assert charsets.decode(escaped.replace(b"\x1b$B", b"\x1b$B!"), "iso-2022-jp") is None
    assert charsets.decode((JAPANESE * 9).encode("iso2022_jp")[:-4], "iso-2022-jp") == (JAPANESE * 9)[:-1] + "\ufffd"


@pytest.mark.parametrize(
    ("text", "codec", "names"),
    [
        (CHINESE + "ḿ︐龴", "gb18030", ["gb18030", "GB18030-2022", "gb-18030", "euc-cn", "x-gbk", "windows-936", "ms936"]),
        (TRADITIONAL + "碁銹裏", "big5hkscs", ["big5", "big5-hkscs", "big5-eten", "cp950", "windows-950", "ms950"]),
        (TRADITIONAL + "嘅喺咗", "big5hkscs", ["big5-hkscs", "big5"]),
        (JAPANESE + "①～", "cp932", ["shift_jis", "windows-31j", "ms932", "sjis-win", "x-ms-cp932", "shift-jis"]),
        (JAPANESE + "𠀋", "shift_jis_2004", ["shift_jis-2004"]),
        (JAPANESE + "𠀋", "shift_jisx0213", ["shift_jisx0213"]),
        (JAPANESE + "𠀋", "euc_jis_2004", ["euc-jis-2004"]),
        (JAPANESE + "丂侄", "euc_jp", ["euc-jp", "x-euc-jp", "cp51932"]),
        (KOREAN + "똠", "cp949", ["ks_c_5601-1987", "uhc", "windows-949", "cp949", "ms949"]),
        (KOREAN + "똠", "johab", ["johab", "cp1361"]),
        (RUSSIAN, "koi8_r", ["koi8-r", "koi8", "cskoi8r"]),
        (RUSSIAN + " їжак", "koi8_u", ["koi8-u", "koi8-ru"]),
        (RUSSIAN + " Ҷ", "koi8_t", ["koi8-t"]),
        (RUSSIAN, "cp1251", ["windows-1251", "win-1251", "win1251", "cp-1251", "1251", "x-cp1251", "ansi-1251", "windows-cp1251"]),
        (RUSSIAN, "cp866", ["ibm866", "cp866", "dos-866", "866"]),
        (RUSSIAN, "mac_cyrillic", ["x-mac-cyrillic"]),
        (RUSSIAN, "iso8859-5", ["iso-8859-5"]),
        (CZECH, "cp1250", ["windows-1250", "cp1250", "iso-8859-2"]),
        (GREEK, "cp1253", ["windows-1253", "iso-8859-7"]),
        (THAI + "“€”", "cp874", ["tis-620", "windows-874", "iso-8859-11", "cp874"]),
        ("Günaydın, şehirde ağaç “€”", "cp1254", ["windows-1254", "iso-8859-9"]),
        ("שלום לכולם “€”", "cp1255", ["windows-1255", "iso-8859-8", "iso-8859-8-i"]),
        ("كان الميناء هادئا – “€”", "cp1256", ["windows-1256", "cp1256"]),
        ("Rīta agrumā osta bija klusa “€”", "cp1257", ["windows-1257", "iso-8859-13"]),
        ("Buổi sáng ở cảng".replace("ổ", "ô").replace("ở", "ơ").replace("ả", "a"), "cp1258", ["windows-1258"]),
        (GERMAN, "cp437", ["cp437", "ibm437"]),
        (GERMAN, "mac_roman", ["macintosh", "x-mac-roman"]),
        (RUSSIAN, "utf-16-le", ["utf-16", "utf-16le"]),
        (RUSSIAN, "utf-16-be", ["utf-16be"]),
    ],
)
def test_every_name_of_a_set_is_known(text, codec, names):
    for name in names:
        assert charsets.decode((text * 3).encode(codec), name) == text * 3
        if "utf-16" not in codec:
            assert charsets.decode(page(text, name).encode(codec), "x-unknown") == page(text, name)


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        *((CHINESE, codec) for codec in ("gb18030", "utf-16-le", "utf-16-be")),
        *((JAPANESE, codec) for codec in ("cp932", "euc_jp", "iso2022_jp", "iso2022_jp_2004", "utf-16-le")),
        *((KOREAN, codec) for codec in ("cp949", "iso2022_kr", "utf-16-be")),
        *((RUSSIAN, codec) for codec in ("cp1251", "koi8_r", "iso8859-5", "cp866", "utf-16-le")),
        *((TRADITIONAL, "big5hkscs"), (THAI, "cp874"), (GREEK, "cp1253"), (CZECH, "cp1250"), (GERMAN, "cp1252"), (GERMAN, "utf-16-le")),
    ],
)
def test_without_a_declaration_a_set_is_told_by_its_bytes(text, codec):
    assert charsets.decode(page(text).encode(codec), "") == page(text)


NOT_TOLD = {"johab": KOREAN, "mac_cyrillic": RUSSIAN, "utf-32-le": GERMAN, "mac_roman": GERMAN, "cp850": GERMAN, "utf-7": GERMAN}


@pytest.mark.parametrize("codec", NOT_TOLD)
def test_without_a_declaration_what_is_not_told_is_none(codec):
    assert charsets.decode(page(NOT_TOLD[codec]).encode(codec), "") is None
    assert charsets.decode(page(RUSSIAN).encode("utf-7"), "") is charsets.decode(page(CHINESE).encode("utf-7"), "") is None


def test_text_with_plus_signs_is_none_of_utf_7():
    text = "C++ and A+B, +8613812345678, base64: TWFu+IGlz/IGRpc3Rpbmd1aXNoZWQ+LCBub3Q, a+=bc; x +AB"
    assert charsets.decode(text.encode(), "") == text


HOSTILE = [
    *(b"\x1b$B", b"\x1b$B!!", b"\x1b$(I", b"\x0e", b"\x1b$)C\x0e!", b"\x1bN!", b"+AAA", b"~{", b"~{!!", b"~{0!~}"),
    *(b"\xad\xa1", b"\xa4", b"\0a", b"\xff"),
]


@pytest.mark.parametrize("part", HOSTILE)
@pytest.mark.parametrize("name", ["", "euc-jp", "hz", "utf-7"])
def test_hostile_bytes_take_time_in_proportion_to_their_length(part, name):
    start = time.process_time()
    charsets.decode(part * (300_000 // len(part)), name)
    assert time.process_time() - start < 3
