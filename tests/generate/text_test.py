import pytest

from teleflm_jax.generate import text
from teleflm_jax.tokenizer import layout, load, train
from teleflm_jax.tokenizer.pieces import piece_bytes

SAMPLE = "déjà vu 12_34 你好，世界 \U0001f600 e\u0301\n"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train.train(iter([f"the {word} and the {word}s " for word in ("time", "house", "water")] * 5), 395), encoding="utf-8")
    return load.load(path)


def written(tokenizer, ids, stop=()):
    """What each id adds, and the end."""
    detokenizer = text.Detokenizer(pieces=piece_bytes(tokenizer), stop=stop)
    return [*(detokenizer.add(index) for index in ids), detokenizer.finish()]


def test_what_is_added_joins_to_the_text_and_holds_whole_characters(tokenizer):
    ids = tokenizer.encode(SAMPLE).ids
    added = written(tokenizer, ids)
    assert "".join(added) == SAMPLE == text.decode(ids, piece_bytes(tokenizer))
    assert all(text.REPLACEMENT not in each for each in added)


def test_a_character_appears_with_its_last_byte(tokenizer):
    assert written(tokenizer, [layout.byte_id(byte) for byte in "你".encode()]) == ["", "", "你", ""]


@pytest.mark.parametrize("raw", [b"ab\xe4\xbd", b"\xff\xfeab", b"\xe4\xbdab\xf0\x9f\x98", b"\xed\xa0\x80"])
def test_broken_utf_8_becomes_what_the_tokenizer_makes_of_it(tokenizer, raw):
    ids = [layout.byte_id(byte) for byte in raw]
    assert "".join(written(tokenizer, ids)) == tokenizer.decode(ids)


def test_control_ids_and_ids_beyond_the_vocabulary_are_silent(tokenizer):
    ids = [layout.BOS, layout.byte_id(ord("a")), layout.PAD, 10_000, layout.byte_id(ord("b")), layout.EOS]
    assert "".join(written(tokenizer, ids)) == "ab"


def test_what_may_begin_a_stop_string_waits_until_it_is_known(tokenizer):
    ids = [layout.byte_id(ord(character)) for character in "xaabaac"]
    assert written(tokenizer, ids, stop=("aac", "bb")) == ["x", "", "", "aa", "b", "", "", ""]
    assert written(tokenizer, ids[:-1], stop=("aac", "bb")) == ["x", "", "", "aa", "b", "", "aa"]


def test_the_first_of_several_stop_strings_ends_the_text(tokenizer):
    detokenizer = text.Detokenizer(pieces=[b"one END two STOP"], stop=("STOP", "END"))
    assert detokenizer.add(0) == "one " and detokenizer.stopped


def test_pieces_of_any_text_join_to_its_bytes(tokenizer):
    pieces = piece_bytes(tokenizer)
    for sample in (SAMPLE, "</s><_user>", "the times, the houses"):
        assert b"".join(pieces[index] for index in tokenizer.encode(sample).ids) == sample.encode()
    assert len(pieces) == 395 and pieces[layout.EOS] == b"" and pieces[layout.FIRST_DIGIT + 7] == b"7"


def test_nothing_drives_the_terminal():
    drawn = text.printable("\x1b[31mred\x07\r\x9b2J \u202eevil\x7f\tok\n你\u200d好")
    assert drawn == "�[31mred���2J �evil�\tok\n你\u200d好"
