import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from teleflm_jax import checkpoint, mup
from teleflm_jax.cli import main
from teleflm_jax.huggingface import importing, tensors
from teleflm_jax.runs import create
from teleflm_jax.tokenizer import load, specials
from teleflm_jax.train.state import new_model, weights_of
from tests.huggingface import folders


@pytest.fixture(scope="session")
def theirs(trained, tmp_path_factory):
    """A Llama folder; to read only."""
    folder = tmp_path_factory.mktemp("theirs") / "out"
    assert folders.call("export", "--workdir", trained, "--dtype", "float32", "--out", folder) == 0
    return folder


@pytest.fixture
def take(theirs, tmp_path, capsys):
    """Import a copy of the folder after a change to it; returns exit code and stderr."""

    def run(change=lambda folder: None, *arguments):
        folder = tmp_path / "theirs"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(theirs, folder)
        change(folder)
        code = folders.call("import", "--from", folder, "--workdir", tmp_path / "run", *arguments)
        return code, capsys.readouterr().err

    return run


def edited(**keys):
    def change(folder: pathlib.Path):
        found = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(found | keys))

    return change


def rewritten(change):
    """Write the weights again after a change to their dictionary of arrays."""

    def run(folder: pathlib.Path):
        arrays = {name: np.array(tensor.array()) for name, tensor in tensors.read_folder(folder).items()}
        change(arrays)
        entries = [tensors.Entry(name=name, dtype="F32", shape=array.shape) for name, array in arrays.items()]
        tensors.write(folder / tensors.SINGLE, entries, ([array] for array in arrays.values()))

    return run


def pickled(folder: pathlib.Path):
    (folder / tensors.SINGLE).rename(folder / "pytorch_model.bin")


def retold(*place_and_value):
    """Change a part of tokenizer.json."""

    def run(folder: pathlib.Path):
        *place, last, value = place_and_value
        found = inner = json.loads((folder / "tokenizer.json").read_text())
        for key in place:
            inner = inner[key]
        inner[last] = value
        (folder / "tokenizer.json").write_text(json.dumps(found))

    return run


def linked(name: str):
    def run(folder: pathlib.Path):
        (folder.parent / "outside").write_text("{}")
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("../outside")

    return run


def fifo(name: str):
    def run(folder: pathlib.Path):
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return run


NORM = "model.norm.weight"
UNKNOWN = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}}], "pair": [], "special_tokens": {}}
SLOW = {"type": "Split", "pattern": {"Regex": "a+a+a+b"}, "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    "stored, norm, named, expected, note",
    [
        ("F16", "F16", "float16", "float16", None),
        ("F16", "F16", None, "float16", "names no dtype; the model computes in float16, in which most"),
        ("BF16", "F32", None, "bfloat16", "names no dtype; the model computes in bfloat16, in which most"),
        ("F32", "F32", None, "float32", "names no dtype; the model computes in float32, in which most"),
        ("F32", "F32", "float16", "float16", "the model computes in float16, as "),
        ("F16", "F32", "bfloat16", "bfloat16", "most of its weights are stored in float16"),
    ],
)
def test_the_dtype_is_the_configuration_s_or_that_of_most_weights(theirs, tmp_path, stored, norm, named, expected, note):
    folder = tmp_path / "theirs"
    shutil.copytree(theirs, folder)
    found = json.loads((folder / "config.json").read_text())
    del found["teleflm_jax"], found["torch_dtype"]
    (folder / "config.json").write_text(json.dumps(found | ({"torch_dtype": named} if named else {})))
    arrays = {name: np.array(tensor.array()) for name, tensor in tensors.read_folder(folder).items()}
    dtypes = {name: norm if name == NORM else stored for name in arrays}
    entries = [tensors.Entry(name=name, dtype=dtypes[name], shape=array.shape) for name, array in arrays.items()]
    tensors.write(folder / tensors.SINGLE, entries, (tensors.blocks(array, dtypes[name], 1.0) for name, array in arrays.items()))
    source = importing.read(folder)
    assert source.description.model.compute_dtype == expected
    assert [note in told for told in source.notes] == [True] * (note is not None) if note else source.notes == ()


WRONG = {
    "a tensor less": (rewritten(lambda a: a.pop(NORM)), f"{NORM} is missing"),
    "a tensor more": (rewritten(lambda a: a.update(extra=a[NORM])), "extra is no weight of this model"),
    "a shape": (rewritten(lambda a: a.update({NORM: a[NORM][:8]})), f"{NORM} is [8] and not [32]"),
    "many": (edited(num_hidden_layers=4), "and 8 more"),
    "not finite": (rewritten(lambda a: a[NORM].fill(np.nan)), "not all finite"),
    "biases": (edited(attention_bias=True), "attention_bias=true"),
    "a pickle": (pickled, "runs the code in it"),
    "one value that is not finite": (rewritten(lambda a: a["lm_head.weight"].__setitem__((-1, -1), np.nan)), "not all finite"),
    "a chat template that is no text": (lambda folder: (folder / "chat_template.jinja").write_bytes(b"\xff"), "which is not UTF-8"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "without a config.json"),
    "no tokenizer": (lambda folder: (folder / "tokenizer.json").unlink(), "add --tokenizer FILE"),
    "a tokenizer that is none": (lambda folder: (folder / "tokenizer.json").write_text("{"), "which is not a tokenizer.json"),
    "a name that steers the terminal": (
        rewritten(lambda a: a.update({"\x1b]0;title\x07": a[NORM]})),
        "\\u001b]0;title\\u0007 is no weight of this model",
    ),
    "a post-processor of unknown tokens": (retold("post_processor", UNKNOWN), "is not in its table"),
    "a piece with a large id": (retold("model", "vocab", "Ā", 200_000_000), "unique ids below 2,097,152"),
    "an expression that goes back and forth": (retold("pre_tokenizer", SLOW), "an expression that may retry a run"),
    "a link to another folder's tokenizer": (linked("tokenizer_config.json"), "leaves the folder"),
    "a FIFO": (fifo("special_tokens_map.json"), "not a plain file"),
    "weights that are a FIFO": (fifo("model.safetensors"), "not a plain file"),
    "fewer rows than ids": (
        lambda folder: (edited(vocab_size=80)(folder), rewritten(_cut)(folder)),
        "with 390 ids for model.vocab_size=80",
    ),
}


def _cut(arrays):
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        arrays[name] = arrays[name][:80].copy()


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_whole_is_refused_and_leaves_no_run(take, tmp_path, name):
    change, message = WRONG[name]
    code, told = take(change)
    assert code == 2 and message in told and told.count("\n") == 1
    assert not list(tmp_path.glob("run*"))
    assert take()[0] == 0


def test_names_of_a_model_steer_no_terminal(take):
    code, told = take(lambda folder: (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 2, "\x1b[2J": 1, "\r": 2})))
    assert code == 0 and "also says \\r, \\u001b[2J, which is not taken over" in told


def test_buffers_and_code_that_follow_from_the_configuration_are_not_read(take):
    inv_freq = {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    change = rewritten(lambda arrays: arrays.update(inv_freq))
    code, told = take(lambda folder: (change(folder), edited(auto_map={"AutoModel": "evil.Model"})(folder)))
    assert code == 0 and "names Python code (auto_map), which is not read" in told


def test_a_head_that_is_the_embedding_becomes_a_weight_of_its_own(take, tmp_path):
    untie = rewritten(lambda arrays: arrays.pop("lm_head.weight"))
    code, told = take(lambda folder: (untie(folder), edited(tie_word_embeddings=True)(folder)))
    model = folders.load(tmp_path / "run")
    assert code == 0 and "(tied)" in told
    np.testing.assert_array_equal(model.head[...], model.embedding[...].T)


def test_an_import_that_was_stopped_leaves_nothing_and_is_begun_again(take, tmp_path, monkeypatch):
    def stopped(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(create, "_save", stopped)
        assert take()[0] == 130
    assert not list(tmp_path.glob("run*"))
    (tmp_path / "run.partial").mkdir()
    (tmp_path / "run.partial" / create.MARK).touch()  # as one that was killed leaves it
    assert take()[0] == 0
    assert not (tmp_path / "run.partial").exists() and checkpoint.verify(tmp_path / "run" / "checkpoints", 0).counters["updates"] == 0


def test_folders_that_are_there_are_left_alone(take, tmp_path):
    (tmp_path / "run.partial").mkdir()
    assert "which no import left behind" in take()[1]
    (tmp_path / "run.partial").rmdir()
    (tmp_path / "run").mkdir()
    assert "exists already" in take()[1]


def test_an_imported_model_is_measured_and_sampled_and_not_trained_on_in_place(take, theirs, tmp_path, capsys):
    assert take()[0] == 0
    (tmp_path / "a.txt").write_text("the time of a house", encoding="utf-8")
    assert main.script("eval", ["--workdir", str(tmp_path / "run"), "--text", f"a={tmp_path / 'a.txt'}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["domains"]["a"]["bpb"] > 0
    assert folders.call("generate", "--workdir", tmp_path / "run", "--prompt", "the", "--max_tokens", 3) == 0


def test_another_tokenizer_in_the_folder_is_noticed_on_export(take, tmp_path, capsys):
    assert take()[0] == 0
    path = tmp_path / "run" / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b" ")
    assert folders.call("export", "--workdir", tmp_path / "run", "--out", tmp_path / "again") == 2
    assert "which is of tokenizer=" in capsys.readouterr().err and not (tmp_path / "again").exists()


def foreign(folder: pathlib.Path, *, bos: str | None, eos: str) -> None:
    """Put another byte-level tokenizer there, which says nothing of what wraps a text, and its ids into config.json."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = sorted({name for name in (bos, eos) if name})
    trainer = trainers.BpeTrainer(
        vocab_size=380, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special, show_progress=False
    )
    made.train_from_iterator(["the time of the house"] * 9, trainer)
    made.enable_truncation(4)
    (folder / "tokenizer.json").write_text(made.to_str(), encoding="utf-8")
    for name in ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"):
        (folder / name).unlink()
    edited(bos_token_id=bos and made.token_to_id(bos), eos_token_id=[made.token_to_id(eos)])(folder)


def test_a_foreign_tokenizer_learns_to_say_what_wraps_a_text_and_keeps_it(take, tmp_path):
    assert take(lambda folder: foreign(folder, bos="<|begin|>", eos="<|end|>"))[0] == 0
    stored = (tmp_path / "run" / "tokenizer.json").read_bytes()
    loaded = load.load(tmp_path / "run" / "tokenizer.json")
    found = specials.of(loaded)
    assert (found.bos, found.eos, found.ends, found.before) == (0, 1, (1,), ())
    assert len(loaded.encode("the time of a house</s>", add_special_tokens=False).ids) > 4
    assert folders.call("export", "--workdir", tmp_path / "run", "--out", tmp_path / "again") == 0
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert theirs.encode("the").ids == loaded.encode("the", add_special_tokens=False).ids
    assert not (tmp_path / "again" / "chat_template.jinja").exists()
    assert folders.call("import", "--from", tmp_path / "again", "--workdir", tmp_path / "back") == 0
    assert (tmp_path / "back" / "tokenizer.json").read_bytes() == stored


def test_where_nothing_begins_a_text_what_ends_one_does(take, tmp_path):
    assert take(lambda folder: foreign(folder, bos=None, eos="<|end|>"))[0] == 0
    found = specials.of(load.load(tmp_path / "run" / "tokenizer.json"))
    assert (found.bos, found.eos) == (0, 0)


def test_an_end_that_text_could_yield_is_refused(take):
    code, told = take(lambda folder: (foreign(folder, bos=None, eos="<|end|>"), edited(eos_token_id=[70])(folder)))
    assert code == 2 and "wraps a text and is no special token" in told


def test_a_chat_template_comes_along_from_either_place(take, tmp_path):
    settings = {"chat_template": "{{ messages }}"}
    drop = lambda folder: ((folder / "chat_template.jinja").unlink(), (folder / "tokenizer_config.json").write_text(json.dumps(settings)))  # noqa: E731
    assert take(drop)[0] == 0
    assert (tmp_path / "run" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_weight_of_many_layers_is_read_with_one_file_open(theirs, monkeypatch):
    """With one a layer, deep models would pass the usual limit of open files."""
    found, held, real = importing.read(theirs), [], tensors.Tensor.array

    def count(tensor):
        links = [link for link in pathlib.Path("/proc/self/fd").iterdir() if link.is_symlink()]
        held.append(sum(str(link.readlink()).endswith(".safetensors") for link in links))
        return real(tensor)

    monkeypatch.setattr(tensors.Tensor, "array", count)
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    model = jax.eval_shape(lambda: new_model(found.description.model, mup.at_width(found.description.mup, 32), seed=0))
    shapes = {"blocks": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), weights_of(model)["blocks"])}
    importing.arrays(found, shapes)
    assert len(held) > 2 and set(held) == {0}
