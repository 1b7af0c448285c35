import collections
import hashlib
import json
import pathlib
import random
import time

import pytest

from teleflm_jax.corpus.filters import privacy

ALL = tuple(privacy.MASKS)
LISTED = json.loads((pathlib.Path(__file__).parent / "personal_data.json").read_bytes())
"""Texts as they occur, each with the kind that it is about and the personal data in it; none where something only looks like it."""


def masked(text, kinds=ALL):
    return privacy.mask(text, kinds)[0]


def identity_number(first):
    """Add the check digit to 17: the number modulo 11, read in powers of 2, is to be 1 (ISO 7064)."""
    total = sum(int(digit) * 2 ** (17 - i) for i, digit in enumerate(first))
    check = (1 - total) % 11
    return first + ("X" if check == 10 else str(check))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Write to first.last+tag@mail.example.co.uk, please.", "Write to <email>, please."),
        ("请写信到wang_1@example.com。谢谢", "请写信到<email>。谢谢"),
        ("a@b.cn;c@d.cn", "<email>;<email>"),
        ("手机13812345678，谢谢", "手机<phone>，谢谢"),
        ("tel:138-1234-5678", "tel:<phone>"),
        ("+86 138 1234 5678.", "<phone>."),
        ("008613812345678", "<phone>"),
        ("电话：010-12345678 或 0755-1234567", "电话：<phone> 或 <phone>"),
        ("call +44 20 7946 0958 or +1 (212) 555-1234ext. 7", "call <phone> or <phone>ext. 7"),
        ("call (212) 555-1234.", "call <phone>."),
        ("from 8.8.8.8, 114.114.114.114:53", "from <network_address>, <network_address>:53"),
        ("The address is 8.8.4.4.", "The address is <network_address>."),
    ],
)
def test_personal_data_is_masked_and_nothing_around_it(text, wanted):
    assert masked(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "2023-01-15, 2023-01-15T10:00:00+08:00, 15/01/2023, 20230115103000",
        "$1,299.99 and 1 299,00 € and ￥13800.00 and 1.380.012.345",
        "127.0.0.1 10.0.0.1 192.168.1.1 169.254.0.1 0.0.0.0 255.255.255.255",
        "version 1.2.3, 1.2.3.4.5, 10.0.19041.1, 8.8.8.888, 8.8.8.1234, 256.1.1.1",
        "ISBN 978-7-302-12345-6, 7-302-12345-X, 9787302123456, 0-306-40615-2",
        "0x13812345678 1700000000000 0.13812345678 13812345678.25 138123456789 113812345678 12812345678",
        "order 1234-5678-9012-3456, GB 11643-1999, RFC 2822, 555-1234, (12) 34",
        "550e8400-e29b-41d4-a716-446655440000, 6f1cd139-1234-4567-8a6b-0242ac130003",
        "user@host, @name, a@b.c, mail@, foo@bar..com",
        "x = y + 12 34; +5; C++ 11 20",
        "11010519491231002 110105194912310021 110105194902300021",
    ],
)
def test_dates_prices_versions_and_other_numbers_stay(text):
    assert masked(text) == text


MISSED = {
    "email": ["bob (at) example (dot) com", "wang#example.com"],
    "phone": ["01 23 45 67 89", "030 / 1234567", "057112345678", "212 555 1234", "一三八一二三四五六七八"],
    "network_address": ["5.9.61.12", "17.58.98.4"],
}
"""What numbers in tables, prices and versions look like as well, or what is written so that programs do not find it."""


@pytest.mark.parametrize(("kind", "found"), [("email", 21), ("identity_number", 4), ("phone", 43), ("network_address", 13)])
def test_of_a_list_of_texts_nothing_else_is_masked_and_little_is_missed(kind, found):
    got, wanted = collections.Counter(), collections.Counter()
    for one in LISTED:
        got += collections.Counter(what for name, what in privacy.mask(one["text"], ALL)[1] if name == kind)
        wanted += collections.Counter(one["personal"] if one["kind"] == kind else ())
    assert (got - wanted, list(wanted - got), (got & wanted).total()) == ({}, MISSED.get(kind, []), found)


def test_what_is_masked_is_told_as_it_stands_in_the_text():
    text = "手机：１３８－１２３４－５６７８，邮箱ｗａｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ，（全角）"
    assert privacy.mask(text, ALL) == (
        "手机：<phone>，邮箱<email>，（全角）",
        [("email", "ｗａｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ"), ("phone", "１３８－１２３４－５６７８")],
    )
    assert masked("全角（１２３）——“破折号”　Ａ－Ｂ") == "全角（１２３）——“破折号”　Ａ－Ｂ"


def test_hashes_stay():
    for i in range(3000):
        digest = hashlib.sha256(b"%d" % i).hexdigest()
        assert masked(digest) == digest and masked(digest.upper()) == digest.upper()


def test_identity_numbers_are_masked_where_date_and_check_digit_are_right():
    draw, seen = random.Random(0), set()
    for _ in range(200):
        first = f"{draw.randrange(110000, 660000)}{draw.randrange(1900, 2024)}{draw.randrange(1, 13):02d}{draw.randrange(1, 29):02d}"
        number = identity_number(first + f"{draw.randrange(1000):03d}")
        seen.add(number[17])
        assert masked(f"身份证号{number}。") == "身份证号<identity_number>。" == masked(f"身份证号{number.lower()}。")
        wrong = number[:17] + draw.choice([digit for digit in "0123456789X" if digit != number[17]])
        assert masked(wrong) == wrong
        assert masked(f"1{number}") == f"1{number}"
    assert len(seen) == 11


@pytest.mark.parametrize("date", ["19990230", "20231301", "18991231", "21000101", "00000101"])
def test_an_identity_number_without_a_date_is_a_number(date):
    number = identity_number(f"110105{date}001")
    assert masked(number) == number
    assert masked(identity_number("11010519491231002")) == "<identity_number>"


def test_only_the_kinds_that_are_asked_for_are_masked_and_every_place_is_told():
    text = "a@b.cn 13812345678 114.114.114.114 c@d.cn"
    assert masked(text, ()) == text
    assert privacy.mask(text, ("phone",)) == ("a@b.cn <phone> 114.114.114.114 c@d.cn", [("phone", "13812345678")])
    assert privacy.mask(text, ("email", "network_address")) == (
        "<email> 13812345678 <network_address> <email>",
        [("email", "a@b.cn"), ("email", "c@d.cn"), ("network_address", "114.114.114.114")],
    )


def test_masked_text_stays_as_it_is():
    once = masked("a@b.cn, 13812345678, (212) 555-1234, 8.8.8.8")
    assert masked(once) == once


HOSTILE = (
    *("a@b.", "a'", "a@", "-.a", "@", "://", "://a@b.cn", "ssh a@b.cn ", "0755-1234-", "(010) "),
    *("+1 ", "+44 (", "1.2.3.4 ", "1.", "版本 8.8.8.8"),
)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "text",
    [
        *("a" * 200_000 + "@", "1" * 200_000, "a@" + "a." * 100_000, "0" * 200_000 + "-", "a@" + "a-" * 100_000 + ".", "１" * 200_000),
        *(part * (100_000 // len(part)) for part in HOSTILE),
    ],
    ids=lambda text: text[:12],
)
def test_hostile_text_takes_time_in_proportion_to_its_length(text, kind):
    start = time.process_time()
    masked(text, (kind,))
    assert time.process_time() - start < 2  # a tenth of a second; the square would be minutes
