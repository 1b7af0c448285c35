"""What the files of a model say of its tokenizer: names, chat templates, special tokens."""

import json
import os

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import tokenizer
from teleflm_jax.tokenizer import layout, load, specials, train
from tests.huggingface import makes


@pytest.fixture
def folder(tmp_path):
    """A folder with a byte-level tokenizer whose ends are two, and nothing beside it."""
    makes.byte_level("<b>", "<e>", "<x>").save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def put(folder, name, value):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def taken(folder, **ids):
    """The tokenizer that a run gets, and the lines for the user."""
    settings = tokenizer.settings(folder)
    content, notes = tokenizer.imported(folder / "tokenizer.json", settings, {f"config.{key}": value for key, value in ids.items()})
    put(folder, "run/tokenizer.json", content)
    return load.load(folder / "run" / "tokenizer.json"), notes


SEVERAL = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "listed"}]
TEMPLATES = {
    "one": ({"tokenizer_config.json": {"chat_template": "one"}}, "one", ""),
    "of a list the default": ({"tokenizer_config.json": {"chat_template": SEVERAL}}, "listed", "not tool_use"),
    "a list without a default": ({"tokenizer_config.json": {"chat_template": SEVERAL[:1]}}, None, "not tool_use"),
    "a file before a list": ({"tokenizer_config.json": {"chat_template": SEVERAL}, "chat_template.jinja": "file"}, "file", "not tool_use"),
    "files": ({"chat_template.jinja": "file", "additional_chat_templates/rag.jinja": "rag"}, "file", "not rag"),
    "a further file named default": (
        {"chat_template.jinja": "file", "additional_chat_templates/default.jinja": "further"},
        "further",
        "",
    ),
    "a further file alone": (
        {"tokenizer_config.json": {"chat_template": "one"}, "additional_chat_templates/rag.jinja": "rag"},
        "one",
        "not rag",
    ),
    "no text": (
        {"tokenizer_config.json": {"chat_template": [1, {"name": [], "template": "x"}, {"name": "default"}]}},
        None,
        "no templates",
    ),
    "a number": ({"tokenizer_config.json": {"chat_template": 1}}, None, "no templates"),
    "a number beside a text": ({"tokenizer_config.json": {"chat_template": [1, SEVERAL[1]]}}, "listed", "no templates"),
}


@pytest.mark.parametrize("case", TEMPLATES)
def test_of_several_chat_templates_the_default_is_taken(folder, case):
    files, wanted, told = TEMPLATES[case]
    for name, value in files.items():
        put(folder, name, value)
    found = tokenizer.settings(folder)
    assert found.template == wanted and len(found.notes) == bool(told) and told in "".join(found.notes)


def linked(folder, name):
    (folder / "elsewhere").write_text("secret", encoding="utf-8")
    (folder / "model" / name).symlink_to(folder / "elsewhere")


def linked_folder(folder, name):
    put(folder, f"elsewhere/{name}", "secret")
    (folder / "model" / tokenizer.TEMPLATES).symlink_to(folder / "elsewhere")


@pytest.mark.parametrize("token", [1, True, [], {"content": 1}, {}])
def test_a_named_token_that_is_no_text_is_refused(folder, token):
    put(folder, "tokenizer_config.json", {"bos_token": token})
    with pytest.raises(UserError, match="^got bos_token .*; allowed: a token's text, or null; correct tokenizer_config.json$"):
        tokenizer.settings(folder)


FURTHER = f"{tokenizer.TEMPLATES}/default.jinja"
NOT_OURS = {
    "a link out": (lambda folder: linked(folder, tokenizer.TEMPLATE), "which leaves the folder"),
    "a link to nothing": (lambda folder: (folder / "model" / tokenizer.TEMPLATE).symlink_to("gone/x"), "which leaves the folder"),
    "a FIFO": (lambda folder: os.mkfifo(folder / "model" / tokenizer.TEMPLATE), "which is not a plain file"),
    "a folder": (lambda folder: (folder / "model" / tokenizer.TEMPLATE).mkdir(), "which is not a plain file"),
    "a large file": (lambda folder: put(folder, f"model/{tokenizer.TEMPLATE}", "x" * (1 << 20) + "x"), "with more than 1,048,576 bytes"),
    "large settings": (
        lambda folder: put(folder, "model/tokenizer_config.json", {"chat_template": "x" * (1 << 20) + "x"}),
        "got a chat_template of 1,048,577 characters",
    ),
    "a further link out": (
        lambda folder: ((folder / "model" / tokenizer.TEMPLATES).mkdir(), linked(folder, FURTHER)),
        "which leaves the folder",
    ),
    "a folder of others": (lambda folder: linked_folder(folder, "default.jinja"), "which is a link"),
}


@pytest.mark.parametrize("case", NOT_OURS)
def test_a_chat_template_is_a_plain_file_of_the_models_own(tmp_path, case):
    make, message = NOT_OURS[case]
    (tmp_path / "model").mkdir()
    make(tmp_path)
    with pytest.raises(UserError, match=f"^got .*{message.removeprefix('got ')}"):
        tokenizer.settings(tmp_path / "model")


def test_a_template_that_links_out_of_a_run_is_not_exported(folder):
    made, _ = taken(folder, eos_token_id=(makes.byte_level("<b>", "<e>", "<x>").token_to_id("<e>"),))
    (folder / "secret").write_text("secret", encoding="utf-8")
    (folder / "run" / tokenizer.TEMPLATE).symlink_to(folder / "secret")
    with pytest.raises(UserError, match="which leaves the folder"):
        tokenizer.exported(folder / "run", specials.of(made), 32)


def test_links_of_a_snapshot_are_its_own(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "1"
    (tmp_path / "models--a--b" / "blobs").mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs" / "f00").write_text("own", encoding="utf-8")
    (snapshot / tokenizer.TEMPLATES).mkdir(parents=True)
    (snapshot / FURTHER).symlink_to("../../../blobs/f00")
    assert tokenizer.settings(snapshot).template == "own"


@pytest.mark.parity
@pytest.mark.parametrize("case", [name for name, (*_, told) in TEMPLATES.items() if "no templates" not in told])
def test_the_chat_template_is_the_one_that_transformers_takes(folder, case):
    transformers = pytest.importorskip("transformers", reason="requirements-parity.txt is not installed")
    for name, value in TEMPLATES[case][0].items():
        put(folder, name, value)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    if case in ("a list without a default", "a further file alone"):  # there transformers has none to take
        with pytest.raises(ValueError, match="no default"):
            theirs.get_chat_template()
    else:
        assert theirs.get_chat_template() == tokenizer.settings(folder).template


def test_names_come_from_the_settings_and_else_from_the_model_s_ids(folder):
    ids = {name: makes.byte_level("<b>", "<e>", "<x>").token_to_id(name) for name in ("<b>", "<e>", "<x>")}
    bare, _ = taken(folder, bos_token_id=(ids["<b>"],), eos_token_id=(ids["<e>"], ids["<x>"]))
    assert specials.of(bare).names(bare) == {"bos_token": "<b>", "eos_token": "<e>"}
    put(folder, "special_tokens_map.json", {"bos_token": "<x>", "eos_token": {"content": "<e>", "lstrip": False}, "unk_token": None})
    mapped, _ = taken(folder, bos_token_id=(ids["<b>"],), eos_token_id=(ids["<e>"],))
    assert specials.of(mapped).names(mapped) == {"bos_token": "<x>", "eos_token": "<e>"}
    put(folder, "tokenizer_config.json", {"eos_token": "<x>", "bos_token": None, "added_tokens_decoder": {}})
    named, _ = taken(folder, bos_token_id=(ids["<b>"],), eos_token_id=(ids["<e>"], ids["<x>"]))
    assert specials.of(named).names(named) == {"eos_token": "<x>"} and specials.of(named).eos == ids["<x>"]
    assert specials.of(named).before == () and specials.of(named).ids("config") == {
        "bos_token_id": ids["<b>"],
        "eos_token_id": [ids["<e>"], ids["<x>"]],
    }


def test_a_token_with_a_name_is_special_and_one_that_is_not_there_is_told(folder):
    made = makes.byte_level("<e>")
    made.add_tokens(["<b>", "<turn>"])
    made.save(str(folder / "tokenizer.json"))
    settings = {"bos_token": "<b>", "eos_token": "<e>", "pad_token": "[PAD]", "additional_special_tokens": ["<turn>"]}
    put(folder, "tokenizer_config.json", settings)
    found, notes = taken(folder, eos_token_id=(made.token_to_id("<e>"),))
    assert specials.controls(found) == {made.token_to_id(name) for name in ("<b>", "<e>", "<turn>")}
    assert notes == (f"{folder / 'tokenizer.json'} has no [PAD]: left out",) and "pad_token" not in specials.of(found).names(found)
    assert specials.of(found).bos == made.token_to_id("<b>")
    assert specials.prompt(found, "<b><turn>") == makes.byte_level().encode("<b><turn>").ids


def test_a_model_without_an_end_and_a_post_processor_that_changes_texts_are_refused(folder):
    with pytest.raises(UserError, match="no eos_token_id of it"):
        taken(folder)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    pieces = [{"Sequence": {"id": name, "type_id": 0}} for name in "AAB"]
    content["post_processor"] = {"type": "TemplateProcessing", "single": pieces[:2], "pair": pieces[1:], "special_tokens": {}}
    put(folder, "tokenizer.json", content)
    with pytest.raises(UserError, match="'a' .* wraps a text and is no special token"):
        taken(folder, eos_token_id=(makes.byte_level("<b>", "<e>", "<x>").token_to_id("<e>"),))


@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
@pytest.mark.parametrize("content", ["{", "[1]", "[" * 99_999])
def test_settings_that_are_none_are_refused_by_their_file(folder, name, content):
    put(folder, name, content)
    with pytest.raises(UserError, match=f"{name}, which is not a {name}"):
        tokenizer.settings(folder)


def test_our_own_tokenizer_stays_as_it_is_unless_other_ids_end_a_text(tmp_path):
    own = train.train(iter(["the time of the house"] * 9), 390)
    put(tmp_path, "run/tokenizer.json", own)
    for name, text in tokenizer.exported(tmp_path / "run", specials.OURS, 64).items():
        put(tmp_path, name, text)
    same, notes = taken(tmp_path, bos_token_id=(layout.BOS,), eos_token_id=(layout.EOS,))
    assert (tmp_path / "run" / "tokenizer.json").read_text(encoding="utf-8") == own and notes == ()
    more, _ = taken(tmp_path, bos_token_id=(layout.BOS,), eos_token_id=(layout.EOS, layout.END))
    found = specials.of(more)
    assert found.ends == (layout.EOS, layout.END) and (found.bos, found.eos, found.pad) == (layout.BOS, layout.EOS, layout.PAD)
    assert specials.prompt(more, "the") == specials.prompt(same, "the") == [layout.BOS, *same.encode("the", add_special_tokens=False).ids]
    assert found.names(more) == specials.OURS.names(same)
