"""What tokenizers of many makes and their models say of themselves, against transformers: ids of prompts and chats, ends of texts."""

import json
import math

import pytest

from teleflm_jax.cli import main
from teleflm_jax.generate import chat
from teleflm_jax.huggingface import config, tokenizer
from teleflm_jax.runs.config import saved_config
from teleflm_jax.runs.load import load_tokenizer
from teleflm_jax.serve import protocol, served_model
from teleflm_jax.tokenizer import load, specials
from tests.huggingface import folders, makes

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="PyTorch is installed on Python 3.11 only (requirements-parity.txt)")
transformers = pytest.importorskip("transformers")
save_file = pytest.importorskip("safetensors.torch").save_file

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
SHAPE |= {"vocab_size": 400, "max_position_embeddings": 64}
PROMPTS = ["the time", " of\n你好 é12", "a  house\n\n", "e\N{COMBINING ACUTE ACCENT} \N{THINKING FACE}"]
TURNS = [("user", "the time?"), ("assistant", "a time"), ("user", " of the house\n")]


def taken(folder):
    """Import what a folder says, without weights; the tokenizer.json is written beside."""
    described, settings = config.read(folder), tokenizer.settings(folder)
    content, notes = tokenizer.imported(folder / "tokenizer.json", settings, described.ids)
    run = folder.with_name(f"{folder.name}-run")
    run.mkdir()
    (run / "tokenizer.json").write_text(content, encoding="utf-8")
    if settings.template is not None:
        (run / "chat_template.jinja").write_text(settings.template, encoding="utf-8")
    return run, (*described.notes, *settings.notes, *notes)


def put_out(run, folder):
    around = specials.of(load.load(run / "tokenizer.json"))
    shape = config.read(run.with_name(run.name.removesuffix("-run"))).model
    folder.mkdir()
    files = tokenizer.exported(run, around, 64)
    files["config.json"] = json.dumps(config.exported(shape, config.transferred(32), "llama", "float32", around.ids("config")))
    files["generation_config.json"] = json.dumps(around.ids("generation_config"))
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def conversations(theirs):
    """Ids of conversations by transformers; nothing where there is no template."""
    chats = [[{"role": role, "content": content} for role, content in TURNS[:end]] for end in (1, 3)]
    return [theirs.apply_chat_template(c, add_generation_prompt=True, return_dict=False) for c in chats] if theirs.chat_template else []


@pytest.mark.parametrize("make", makes.MAKES)
def test_ids_of_prompts_and_chats_are_transformers_s_before_and_after_an_export(make, tmp_path):
    makes.write(tmp_path / "theirs", make, **SHAPE)
    run, _ = taken(tmp_path / "theirs")
    ours = load.load(run / "tokenizer.json")
    put_out(run, tmp_path / "out")
    for folder in ("theirs", "out"):
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / folder)
        assert [specials.prompt(ours, text) for text in PROMPTS] == theirs(PROMPTS)["input_ids"]
        if wanted := conversations(theirs):
            format = chat.load(run, ours)
            said = [chat.Message(role=role, content=content) for role, content in TURNS]
            assert [list(chat.encode(format, said[:end])) for end in (1, 3)] == wanted
    names = [transformers.AutoTokenizer.from_pretrained(tmp_path / folder).special_tokens_map for folder in ("theirs", "out")]
    assert names[0] == names[1]
    back, _ = taken(tmp_path / "out")
    assert (back / "tokenizer.json").read_bytes() == (run / "tokenizer.json").read_bytes()


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("make", makes.MAKES)
def test_what_the_settings_say_against_the_tokenizer_json_is_told_and_passed_over_as_in_transformers(make, said, tmp_path):
    made = makes.write(tmp_path / "theirs", make, **SHAPE)
    path = tmp_path / "theirs/tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": said, "add_eos_token": said}))
    run, notes = taken(tmp_path / "theirs")
    ours = load.load(run / "tokenizer.json")
    assert specials.prompt(ours, "the time") == transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")("the time")["input_ids"]
    wrapped = made.encode("the time").ids
    there = {"add_bos_token": wrapped[0] in specials.controls(made), "add_eos_token": wrapped[-1] in specials.controls(made)}
    for key, value in there.items():
        assert any(f"says {key}={json.dumps(said)}, tokenizer.json does otherwise" in note for note in notes) == (value != said)


@pytest.mark.parametrize("make", makes.MAKES)
def test_ids_of_a_model_s_files_come_out_as_they_went_in(make, tmp_path):
    makes.write(tmp_path / "theirs", make, **SHAPE)
    run, _ = taken(tmp_path / "theirs")
    put_out(run, tmp_path / "out")
    read = lambda folder, name: json.loads((tmp_path / folder / name).read_text())  # noqa: E731
    before = read("theirs", "config.json")
    assert {key: read("out", "config.json")[key] for key in specials.IDS} == {key: before.get(key) for key in specials.IDS}
    wanted = read("theirs", "generation_config.json") if (tmp_path / "theirs/generation_config.json").exists() else before
    assert read("out", "generation_config.json") == {key: wanted[key] for key in specials.IDS if key in wanted}
    ends = specials.of(load.load(run / "tokenizer.json")).ends
    both = [
        end
        for each in (before, wanted)
        for end in (each["eos_token_id"] if isinstance(each["eos_token_id"], list) else [each["eos_token_id"]])
    ]
    assert ends == tuple(dict.fromkeys(both))


TIED = {"Llama 3": True, "Qwen 2": False}
FULL = SHAPE | {"num_key_value_heads": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "dtype": "float32"}
NEW = 16


def greedy(folder, ids, **settings):
    """New ids by transformers, with the folder's own ends."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    found = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids)), max_new_tokens=NEW, do_sample=False, **settings)
    return found[0, len(ids) :].tolist()


@pytest.fixture(scope="module", params=TIED)
def full(request, tmp_path_factory):
    """A folder with random weights, of which one end, an ordinary id, is what the model soon writes; and the run that is made of it."""
    root = tmp_path_factory.mktemp("full")
    tied = TIED[request.param]
    made = makes.write(root / "theirs", request.param, **FULL, tie_word_embeddings=tied, initializer_range=0.4)
    torch.manual_seed(4)
    model = transformers.LlamaForCausalLM(transformers.AutoConfig.from_pretrained(root / "theirs"))
    own = {name: x.contiguous() for name, x in model.state_dict().items() if not (tied and name == "lm_head.weight")}
    save_file(own, root / "theirs/model.safetensors")
    path = root / "theirs/generation_config.json"
    said = json.loads(path.read_text())
    written = greedy(root / "theirs", made.encode("the time").ids, eos_token_id=[399], pad_token_id=0)
    said["eos_token_id"].append(next(token for token in written[3:] if token not in written[:3]))
    path.write_text(json.dumps(said))
    assert folders.call("import", "--from", root / "theirs", "--workdir", root / "run") == 0
    return root


def test_greedy_texts_end_where_transformers_s_do(full, capsys):
    theirs = transformers.AutoTokenizer.from_pretrained(full / "theirs")
    capsys.readouterr()
    asked = ["--prompt", "the time", "--temperature", 0, "--max_tokens", NEW, "--logprobs", 0, "--json"]
    assert folders.call("generate", "--workdir", full / "run", *asked) == 0
    (done,) = json.loads(capsys.readouterr().out)["completions"]
    ids = theirs("the time")["input_ids"]
    wanted = greedy(full / "theirs", ids)
    assert [token["id"] for token in done["logprobs"]] == wanted and done["finish"] == "stop" and 3 < len(wanted) < NEW
    assert theirs.decode(ids + wanted[:-1], skip_special_tokens=True) == "the time" + done["text"]

    run = saved_config(full / "run")
    ours = load_tokenizer(full / "run", run.model.vocab_size)
    served = served_model.load("m", full / "run", ours, context_length=run.model.context_length, vocab_size=run.model.vocab_size)
    (completion,) = protocol.parse_completion({"model": "m", "prompt": "the time"}, served, max_choices=1).requests
    assert list(completion.prompt) == ids and completion.stop_ids == specials.of(ours).ends
    body = {"model": "m", "messages": [{"role": role, "content": content} for role, content in TURNS]}
    (answer,) = protocol.parse_chat(body, served, max_choices=1).requests
    assert list(answer.prompt) == conversations(theirs)[1] and answer.stop_ids[: len(served.ends)] == served.ends


def test_out_and_in_again_says_the_same_and_writes_the_same(full, tmp_path):
    assert folders.call("export", "--workdir", full / "run", "--dtype", "float32", "--out", tmp_path / "out") == 0
    for name in ("config.json", "generation_config.json"):
        before, after = (json.loads((folder / name).read_text()) for folder in (full / "theirs", tmp_path / "out"))
        assert {key: after.get(key) for key in specials.IDS} == {key: before.get(key) for key in specials.IDS}
    ids = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("the time")["input_ids"]
    assert greedy(tmp_path / "out", ids) == greedy(full / "theirs", ids)
    assert folders.call("import", "--from", tmp_path / "out", "--workdir", tmp_path / "back") == 0
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (tmp_path / "back" / name).read_bytes() == (full / "run" / name).read_bytes()


def test_a_text_is_scored_behind_what_begins_one_or_else_what_ends_one(full, tmp_path, capsys):
    theirs = transformers.AutoTokenizer.from_pretrained(full / "theirs")
    (tmp_path / "a.txt").write_text(PROMPTS[1], encoding="utf-8")
    assert main.script("eval", ["--workdir", str(full / "run"), "--text", f"a={tmp_path / 'a.txt'}", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["domains"]["a"]
    first = theirs.eos_token_id if theirs.bos_token_id is None else theirs.bos_token_id  # lm-evaluation-harness's rule
    ids = torch.tensor([[first, *theirs(PROMPTS[1], add_special_tokens=False)["input_ids"]]])
    model = transformers.AutoModelForCausalLM.from_pretrained(full / "theirs")
    loss = model(input_ids=ids, labels=ids).loss.item()
    assert found["loss"] == pytest.approx(loss, rel=1e-5) and found["tokens"] == ids.shape[1] - 1
    assert found["bpb"] == pytest.approx(loss * found["tokens"] / math.log(2) / len(PROMPTS[1].encode()), rel=1e-5)
