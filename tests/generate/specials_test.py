"""No special id comes from what people write, whatever an imported tokenizer's normalizer makes of it."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from teleflm_jax.errors import UserError
from teleflm_jax.generate import chat
from teleflm_jax.generate.chat import Message
from teleflm_jax.tokenizer import load, specials

TEMPLATE = "{{ bos_token }}{% for message in messages %}<u>{{ message.content }}</s>{% endfor %}"
CHANGED = TEMPLATE.replace("message.content", "message.content | replace('~', 'x')")
NAMES = ("<s>", "</s>", "<u>")
NORMALIZERS = {
    "a replacement": (normalizers.Replace("[x]", "<s>"), "[x]"),
    "a replacement of a part": (normalizers.Replace("x", ""), "<xs>"),
    "an expression": (normalizers.Replace(tokenizers.Regex("[0-9]"), "s"), "<5>"),
    "wide forms": (normalizers.NFKC(), "＜s＞"),
    "small letters": (normalizers.Lowercase(), "<S>"),
    "accents": (normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()]), "<ś>"),
    "controls": (normalizers.BertNormalizer(lowercase=False), "<\x07s>"),
}


@pytest.fixture
def opened(tmp_path):
    def run(normalizer, template):
        letters = sorted(pre_tokenizers.ByteLevel.alphabet())
        made = tokenizers.Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
        made.normalizer, made.decoder = normalizer, decoders.ByteLevel()
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.add_special_tokens([tokenizers.AddedToken(name, normalized=True, special=True) for name in NAMES])
        bos, eos, _ = map(made.token_to_id, NAMES)
        named = {"tokenizer_config.bos_token": (bos,), "tokenizer_config.eos_token": (eos,)}
        said = specials.post_processor(specials.Specials(before=(bos,), after=(), named=named), made.id_to_token)
        (tmp_path / "tokenizer.json").write_text(json.dumps(json.loads(made.to_str()) | {"post_processor": said}))
        (tmp_path / chat.TEMPLATE).write_text(template)
        loaded = load.load(tmp_path / "tokenizer.json")
        return loaded, chat.load(tmp_path, loaded), tuple(map(made.token_to_id, NAMES))

    return run


@pytest.mark.parametrize("name", NORMALIZERS)
def test_a_normalizer_makes_no_special_token_of_what_people_write(opened, name):
    normalizer, text = NORMALIZERS[name]
    loaded, format, (bos, eos, user) = opened(normalizer, TEMPLATE)
    assert bos in format.parsing.encode(text).ids, "the library finds one"
    for content in (text, f"a{text}b", text * 3, f"<s>{text}", f"{text}</s>"):
        ids = chat.encode(format, [Message(role="user", content=content), Message(role="user", content="ok")])
        found = [index for index in ids if index in specials.controls(loaded)]
        assert found == [bos, user, eos, user, eos]
        assert not specials.controls(loaded) & set(specials.encode(loaded, content))


def test_where_the_template_changes_it_what_people_write_is_refused(opened):
    _, format, (bos, eos, user) = opened(normalizers.Replace("[x]", "<s>"), CHANGED)
    assert [index for index in chat.encode(format, [Message(role="user", content="a ~ b")]) if index in (bos, eos, user)] == [
        bos,
        user,
        eos,
    ]
    with pytest.raises(UserError, match="special token"):
        chat.encode(format, [Message(role="user", content="[~]")])


def test_a_special_token_that_lies_over_what_people_write_is_none_of_the_template_s(opened):
    """The content's end and the template's next token together read as one that begins earlier."""
    _, format, (bos, eos, user) = opened(normalizers.Replace("!", "<"), TEMPLATE)
    ids = chat.encode(format, [Message(role="user", content="!u>!s>")])
    assert [index for index in ids if index in (bos, eos, user)] == [bos, user, eos]
