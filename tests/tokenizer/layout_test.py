from tokenizers import pre_tokenizers

from teleflm_jax.tokenizer import config, layout


def test_ids_are_those_of_the_released_tokenizer():
    controls, alphabet = layout.controls(), layout.alphabet()
    assert [controls[name] for name in ("<unk>", "<s>", "</s>", "<pad>")] == [0, 1, 2, 3]
    assert [alphabet[digit] for digit in "0123456789"] == list(range(4, 14))
    assert [controls[name] for name in ("<teacher_1F608>", "<teacher_1F621>")] == [14, 15]
    assert [controls[f"<reserved_{index}>"] for index in range(16, 24)] == list(range(16, 24))
    assert alphabet["_"] == 24
    assert [controls[name] for name in ("<_user>", "<_bot>", "<_end>", "<_system>")] == [25, 26, 27, 28]
    assert [controls[f"<reserved_{index}>"] for index in range(29, 125)] == list(range(29, 125))
    assert (alphabet["!"], alphabet["A"], alphabet["Ġ"]) == (125 + 0x21, 125 + 0x41, 125 + 0x20)


def test_every_fixed_id_is_named_once():
    controls, alphabet = layout.controls(), layout.alphabet()
    assert sorted([*controls.values(), *alphabet.values()]) == list(range(layout.FIRST_PIECE))
    assert not controls.keys() & alphabet.keys()
    assert len(alphabet) == 256 and layout.FIRST_PIECE == config.SMALLEST_VOCABULARY == 381


def test_digits_and_underscore_leave_their_byte_ids_dead():
    dead = {layout.FIRST_BYTE + ord(character) for character in "0123456789_"}
    assert dead < set(layout.controls().values())


def test_characters_of_bytes_are_those_of_the_library():
    assert set(layout.alphabet()) == set(pre_tokenizers.ByteLevel.alphabet())
    assert layout.byte_character(0) == "Ā" and layout.byte_character(0x20) == "Ġ" and layout.byte_character(0xAD) == "Ń"
