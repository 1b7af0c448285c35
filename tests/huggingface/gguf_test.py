"""GGUF files read back by the `gguf` package; llama_cpp_test.py runs them."""

import functools
import json
import shutil
import sys

import gguf
import numpy as np
import pytest
import tokenizers
from tokenizers import processors

from teleflm_jax import mup
from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import gguf_file, gguf_vocabulary, tensors, tokenizer
from teleflm_jax.tokenizer import layout, load, train, words
from tests import tiny
from tests.huggingface import folders

NORMAL, CONTROL, UNUSED = 1, 3, 5
SHAPE = folders.shape(num_kv_heads=2, vocab_size=folders.VOCABULARY + 6, output_biases=True)
"""Grouped heads, biases, and rows beyond the vocabulary; `folders.RATES` has multipliers that are no powers of two."""


@pytest.fixture(scope="module")
def run(qwen2_tokenizer, tmp_path_factory):
    """A run with all that a file can hold; to read only."""
    return folders.write(tmp_path_factory.mktemp("gguf") / "run", SHAPE, folders.RATES, qwen2_tokenizer, tiny.model(SHAPE))


@pytest.fixture
def export(run, tmp_path, capsys):
    """Export a run to tmp_path/model.gguf; returns exit code and stderr."""

    def call(*arguments, workdir=run, out="model.gguf"):
        code = folders.call("export", "--format", "gguf", "--workdir", workdir, "--out", tmp_path / out, *arguments)
        return code, capsys.readouterr().err

    return call


def read(path) -> tuple[dict, dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    kinds = {"F32": np.float32, "F16": np.float16, "BF16": tensors.DTYPES["BF16"]}
    arrays = {t.name: t.data.view(kinds[t.tensor_type.name]).reshape(t.shape[::-1].tolist()) for t in reader.tensors}
    return fields, arrays


def test_the_file_says_how_the_model_computes(export, tmp_path):
    assert export()[0] == 0
    fields, _ = read(tmp_path / "model.gguf")
    expected = {
        "general.architecture": "llama",
        "general.name": "model",
        "llama.vocab_size": 396,
        "llama.context_length": 32,
        "llama.embedding_length": 32,
        "llama.block_count": 2,
        "llama.feed_forward_length": 48,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 8,
        "llama.attention.value_length": 8,
        "llama.rope.dimension_count": 8,
        "llama.rope.freq_base": 10_000.0,
        "llama.attention.layer_norm_rms_epsilon": np.float32(1e-5),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 3,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }
    assert {name: fields[name] for name in expected} == expected
    assert "<_user>" in fields["tokenizer.chat_template"]


def with_ids(folder, content, **ids):
    """A run whose files name these ids, as an imported one's may."""
    (folder / "theirs.json").write_text(content, encoding="utf-8")
    text, _ = tokenizer.imported(folder / "theirs.json", tokenizer.settings(folder), {f"config.{key}": value for key, value in ids.items()})
    return folders.write(folder / "run", SHAPE, folders.RATES, text, tiny.model(SHAPE))


def test_all_ends_that_the_format_can_name_are_named_and_the_rest_is_told(export, qwen2_tokenizer, tmp_path):
    run = with_ids(tmp_path, qwen2_tokenizer, bos_token_id=(1,), eos_token_id=(2, 7, 8, 9))
    code, said = export(workdir=run)
    fields, _ = read(tmp_path / "model.gguf")
    assert code == 0 and "does not end a text at the ids 9;" in said
    assert [fields[f"tokenizer.ggml.{name}_token_id"] for name in ("eos", "eot", "eom")] == [2, 7, 8]
    assert "tokenizer.ggml.padding_token_id" not in fields


@pytest.mark.parametrize(
    ("around", "puts"), [("$A", [False, False]), ("<s> $A", [True, False]), ("$A </s>", [False, True]), ("<s> $A </s>", [True, True])]
)
def test_what_stands_around_a_text_by_itself_is_said(export, qwen2_tokenizer, tmp_path, around, puts):
    loaded = tokenizers.Tokenizer.from_str(qwen2_tokenizer)
    loaded.post_processor = processors.TemplateProcessing(single=around, special_tokens=[("<s>", 1), ("</s>", 2)])
    run = with_ids(tmp_path, loaded.to_str(), bos_token_id=(1,), eos_token_id=(2,))
    assert export(workdir=run)[0] == 0
    fields, _ = read(tmp_path / "model.gguf")
    assert [fields[f"tokenizer.ggml.add_{name}_token"] for name in ("bos", "eos")] == puts


def test_what_llama_cpp_cannot_put_around_a_text_is_refused(export, qwen2_tokenizer, tmp_path):
    loaded = tokenizers.Tokenizer.from_str(qwen2_tokenizer)
    loaded.post_processor = processors.TemplateProcessing(single="<s> </s> $A", special_tokens=[("<s>", 1), ("</s>", 2)])
    run = with_ids(tmp_path, loaded.to_str(), bos_token_id=(1,), eos_token_id=(2,))
    code, said = export(workdir=run)
    assert code == 2 and "adds the ids [1, 2] before" in said and not (tmp_path / "model.gguf").exists()


def test_every_row_of_the_embedding_has_a_token_of_its_kind(export, run, tmp_path):
    assert export()[0] == 0
    fields, arrays = read(tmp_path / "model.gguf")
    names, kinds = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    loaded = load.load(run / "tokenizer.json")
    assert len(names) == len(kinds) == len(arrays["token_embd.weight"]) == folders.VOCABULARY + 6
    assert names[: folders.VOCABULARY] == [loaded.id_to_token(index) for index in range(folders.VOCABULARY)]
    assert names[folders.VOCABULARY :] == [f"[PAD{index}]" for index in range(390, 396)] and kinds[390:] == [UNUSED] * 6
    controls = set(layout.controls().values())
    assert kinds[:390] == [CONTROL if index in controls else NORMAL for index in range(390)]
    content = json.loads((run / "tokenizer.json").read_text())
    assert fields["tokenizer.ggml.merges"] == [" ".join(pair) for pair in content["model"]["merges"]]


@pytest.mark.parametrize(("dtype", "code", "kind"), [("float32", 0, np.float32), ("bfloat16", 32, "bfloat16"), ("float16", 1, np.float16)])
def test_weights_are_those_of_the_folder_with_heads_interleaved(export, run, tmp_path, dtype, code, kind):
    assert export("--dtype", dtype)[0] == 0
    fields, found = read(tmp_path / "model.gguf")
    assert fields["general.file_type"] == code
    assert folders.call("export", "--workdir", run, "--dtype", "float32", "--out", tmp_path / "folder") == 0
    folder = {name: tensor.array() for name, tensor in tensors.read_folder(tmp_path / "folder").items()}
    named = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    assert {named.get_name(name, (".weight", ".bias")) for name in folder} == found.keys() and len(found) == 3 + 2 * (9 + 7)
    assert np.any(found["blk.1.attn_output.bias"]) and np.any(found["blk.1.ffn_down.bias"])
    for name, wanted in folder.items():
        ours = found[named.get_name(name, (".weight", ".bias"))]
        if "q_proj" in name or "k_proj" in name:
            # row 2i of a head is the i-th of the first half, 2i + 1 of the second
            order = np.array([head * 8 + half * 4 + i for head in range(len(wanted) // 8) for i in range(4) for half in range(2)])
            wanted = wanted[order]
        single = wanted.ndim == 1 or (dtype == "float16" and name == "lm_head.weight")
        assert ours.dtype == (np.float32 if single else kind), name
        np.testing.assert_array_equal(ours, wanted.astype(ours.dtype))


def test_where_ids_may_differ_is_told(export):
    code, told = export("--dtype", "float32")
    assert code == 0 and told.startswith("note: llama.cpp knows Unicode 15") and told.count("note:") == 1


def test_what_cannot_be_exported_is_one_line_and_leaves_nothing(export, tokenizer, tmp_path, tmp_path_factory, monkeypatch):
    default = folders.write(tmp_path_factory.mktemp("default") / "run", SHAPE, folders.RATES, tokenizer, tiny.model(SHAPE))
    wrong = [
        (export(workdir=default), "cuts text into words by a pattern that llama.cpp does not have"),
        (export(out="model.bin"), "allowed: an unused name that ends in .gguf"),
        (export("--shard_bytes", "5"), "got --shard_bytes 5 with --format gguf"),
        (export("--step", "3"), "got step 3; allowed: 5"),
    ]
    monkeypatch.setitem(sys.modules, "gguf", None)
    wrong.append((export(), "pip install -r requirements-gguf.txt"))
    for (code, told), reason in wrong:
        lines = [line for line in told.splitlines() if not line.startswith("note: ")]
        assert code == 2 and len(lines) == 1 and reason in lines[0]
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_there_stays(export, tmp_path):
    (tmp_path / "model.gguf").write_text("mine")
    code, told = export()
    assert code == 2 and "which exists already" in told and (tmp_path / "model.gguf").read_text() == "mine"


def test_a_stop_and_a_damaged_weight_leave_nothing(export, run, tmp_path, monkeypatch):
    shutil.copytree(run, tmp_path / "run")
    data = max((tmp_path / "run" / "checkpoints" / "5" / "model").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[::97] = bytes(byte ^ 1 for byte in content[::97])
    data.write_bytes(content)
    code, told = export(workdir=tmp_path / "run")
    assert code == 2 and "damaged checkpoint" in told
    monkeypatch.setattr(tensors, "blocks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert export()[0] == 130
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_disk_too_small_is_told_before_anything_is_written(export, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000}))
    code, told = export()
    assert code == 2 and "got 0.0 MB of free disk" in told and not list(tmp_path.iterdir())


def test_a_weight_beyond_float16_is_told(qwen2_tokenizer, export, tmp_path):
    model = tiny.model(SHAPE)
    model.embedding[...] = model.embedding[...].at[7, 7].set(30_000.0)  # times 3
    rates = mup.MupConfig(base_width=8, input_multiplier=3.0)
    run = folders.write(tmp_path / "run", SHAPE, rates, qwen2_tokenizer, model)
    code, told = export("--dtype", "float16", workdir=run)
    assert code == 2 and "embed_tokens.weight with a weight beyond float16's range" in told
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert export("--dtype", "bfloat16", workdir=run)[0] == 0


def content(name="qwen2", **changes):
    """A small tokenizer as `tokenizers` writes it, after changes to its parts."""
    found = json.loads(train.train(iter(["the time of the house"] * 9), folders.VOCABULARY))
    cut = next(known.cut for known in gguf_vocabulary.KNOWN if known.name == name)
    found["pre_tokenizer"] = json.loads(json.dumps(cut).replace('"ByteLevel"', '"ByteLevel", "trim_offsets": true'))
    for path, value in changes.items():
        *way, last = path.split("__")
        functools.reduce(dict.__getitem__, way, found)[last] = value
    return json.loads(tokenizers.Tokenizer.from_str(json.dumps(found)).to_str())


SPACED = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True}
WORD = {"id": 389, "content": "Ġ[x]", "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}
REFUSED = {
    "a normalizer": ({"normalizer": {"type": "Lowercase"}}, "changes text before cutting it into words"),
    "merging, where Llama 3's takes words as they are": ({"name": "llama-bpe"}, "has ignore_merges=False"),
    "words as they are, where Qwen2's are merged": ({"model__ignore_merges": True}, "has ignore_merges=True"),
    "a space in front": ({"pre_tokenizer__pretokenizers": [SPACED]}, "cuts text into words by"),
    "no cut at all": ({"pre_tokenizer": None}, "cuts text into words by"),
    "a word that is taken out of text": ({"added_tokens": [WORD]}, "takes 'Ġ[x]' out of any text"),
    "an end of words": ({"model__end_of_word_suffix": "</w>"}, "has end_of_word_suffix='</w>'"),
    "dropout": ({"model__dropout": 0.5}, "has dropout=0.5"),
    "bytes to fall back on": ({"model__byte_fallback": True}, "has no byte-level BPE"),
}


@pytest.mark.parametrize(("changes", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_llama_cpp_would_pass_over_is_refused(changes, reason):
    with pytest.raises(UserError, match="got --format gguf for a tokenizer that .*; allowed: .*; change") as caught:
        gguf_vocabulary.read(content(**changes), folders.VOCABULARY)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "pre", "told"),
    [
        ({}, "qwen2", []),
        ({"normalizer": {"type": "NFC"}}, "qwen2", ["compose characters"]),
        ({"name": "llama-bpe", "model__ignore_merges": True}, "llama-bpe", ["long s"]),
        ({"name": "gpt-2"}, "gpt-2", []),
        ({"name": "smollm"}, "smollm", []),
    ],
)
def test_what_llama_cpp_has_keeps_its_name_and_differences_are_told(changes, pre, told):
    found = gguf_vocabulary.read(content(**changes), folders.VOCABULARY)
    assert found.pre == pre and "Unicode 15" in found.notes[0]
    assert len(found.notes) == 1 + len(told) and all(part in note for part, note in zip(told, found.notes[1:], strict=True))


def test_the_note_on_the_long_s_is_right():
    for known in gguf_vocabulary.KNOWN:
        if known.cut["type"] == "Sequence" and known.cut["pretokenizers"][0]["type"] == "Split":
            found = words.splitter(known.cut["pretokenizers"][0]["pattern"]["Regex"]).pre_tokenize_str("'ſound")
            assert [word for word, _ in found] == (["'ſ", "ound"] if known.long_s else ["'ſound"])


def test_interleaving_keeps_the_angle_of_every_pair():
    rows = np.arange(2 * 8 * 3).reshape(16, 3)
    found = gguf_file.interleaved(rows, 8)
    for head in range(2):
        for i in range(4):
            np.testing.assert_array_equal(found[head * 8 + 2 * i], rows[head * 8 + i])
            np.testing.assert_array_equal(found[head * 8 + 2 * i + 1], rows[head * 8 + 4 + i])
