import json
import os

import pytest

from teleflm_jax import mup
from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import config
from tests import tiny

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 400,
    "max_position_embeddings": 128,
}
TELECHAT = {
    "architectures": ["TelechatForCausalLM"],
    "hidden_size": 64,
    "n_layer": 2,
    "n_head": 4,
    "ffn_hidden_size": 96,
    "vocab_size": 400,
}


def read(folder, found):
    (folder / "config.json").write_text(json.dumps(found))
    return config.read(folder)


@pytest.mark.parametrize("scale, output, quotient", [(16, 0.5, 1 / 32), (32, 1.0, 1 / 32), (80, 2.0, 2 / 80), (3.7, 1.3, 1.3 / 3.7)])
def test_the_released_configurations_multiply_logits_by_their_quotient(tmp_path, scale, output, quotient):
    width = 20_480 if scale == 80 else 8_192
    released = {"use_mup": True, "mup_scale_factor": scale, "output_mult": output, "input_mult": 1.0, "hidden_size": width}
    found = read(tmp_path, LLAMA | released | {"architectures": ["TeleFLMForCausalLM"], "num_attention_heads": width // 128})
    assert mup.at_width(found.mup, width).output_multiplier == quotient
    assert found.model.head_size == 128


@pytest.mark.parametrize("base_width", [1, 7, 8, 11, 24, 32, 64])
def test_what_is_written_is_read_again(tmp_path, base_width):
    shape = tiny.config(num_kv_heads=2, norm_epsilon=1e-6, rope_theta=5e5, document_attention=True, loss_chunk_tokens=512)
    rates = mup.MupConfig(base_width=base_width, input_multiplier=3.0, output_multiplier=0.7)
    found = read(tmp_path, config.exported(shape, rates, "teleflm", "float32", {"bos_token_id": 1, "eos_token_id": 2}))
    assert found.model == shape and found.tied is False
    both = ("config", "generation_config")  # without a generation_config.json, transformers goes by config.json
    assert found.ids == {f"{file}.{key}": (index,) for file in both for key, index in (("bos_token_id", 1), ("eos_token_id", 2))}
    before, after = mup.at_width(rates, 32), mup.at_width(found.mup, 32)
    assert (before.input_multiplier, before.output_multiplier) == (after.input_multiplier, after.output_multiplier)


@pytest.mark.parametrize("base", [LLAMA, TELECHAT])
@pytest.mark.parametrize(
    "keys, expected",
    [
        ({"torch_dtype": "float16"}, "float16"),
        ({"dtype": "float16"}, "float16"),
        ({"dtype": "torch.float16"}, "float16"),
        ({"torch_dtype": "bfloat16"}, "bfloat16"),
        ({"torch_dtype": "float32"}, "float32"),
        ({"dtype": "float16", "torch_dtype": "float32"}, "float16"),
        ({"dtype": None, "torch_dtype": "float32"}, "float32"),
        ({"dtype": "auto", "torch_dtype": "float16"}, "float16"),
        ({"torch_dtype": "float16", "teleflm_jax": {"compute_dtype": "float32"}}, "float32"),
        ({"teleflm_jax": {"compute_dtype": "float16"}}, "float16"),
        ({"torch_dtype": "auto"}, None),
        ({"teleflm_jax": {"document_attention": True}}, None),
        ({}, None),
    ],
)
def test_the_model_computes_in_the_dtype_that_is_named(tmp_path, base, keys, expected):
    found = read(tmp_path, base | keys)
    assert (found.model.compute_dtype if found.names_dtype else None) == expected


@pytest.mark.parametrize("base_width", [8, 512, 4_096])
def test_rates_are_the_report_s_at_every_width(base_width):
    ours, report = (mup.at_width(rates, 8_192) for rates in (config.transferred(base_width), mup.MupConfig()))
    for role, rule in report.rules.items():
        assert vars(ours.rules[role]) == pytest.approx(vars(rule), rel=1e-12)


def test_telechat_has_output_biases_and_plain_positions(tmp_path):
    found = read(tmp_path, TELECHAT | {"training_seqlen": 8192, "auto_map": {"AutoModel": "modeling_telechat.X"}})
    assert found.model.output_biases and found.model.context_length == 8192 and found.model.rope_theta == 10_000
    assert found.tied is None and "which is not read" in found.notes[0]


@pytest.mark.parametrize(
    "base, change, message",
    [
        (LLAMA, {"attention_bias": True}, "got attention_bias=true in .*; allowed: false;"),
        (LLAMA, {"mlp_bias": True}, "mlp_bias"),
        (LLAMA, {"hidden_act": "gelu"}, 'hidden_act="gelu".*allowed: "silu"'),
        (LLAMA, {"head_dim": 32}, "head_dim=32 .*allowed: 16"),
        (LLAMA, {"num_attention_heads": 10**9}, "num_attention_heads=1000000000 .*allowed: a divisor of hidden_size, 64"),
        (LLAMA, {"rope_scaling": {"rope_type": "llama3", "factor": 8}}, "rope_scaling.*allowed: none, or the type default"),
        (LLAMA, {"rope_scaling": {"type": "linear", "factor": 8}}, "rope_scaling"),
        (LLAMA, {"rope_scaling": [1]}, "rope_scaling"),
        (LLAMA, {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters"),
        (LLAMA, {"rope_parameters": {"partial_rotary_factor": 0.5}}, "rope_parameters"),
        (LLAMA, {"quantization_config": {"bits": 4}}, "quantization_config"),
        (LLAMA, {"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000 .*a whole number from 1 to 10,000"),
        (LLAMA, {"num_hidden_layers": True}, "num_hidden_layers"),
        (LLAMA, {"hidden_size": 2**40}, "hidden_size"),
        (LLAMA, {"hidden_size": "64"}, "hidden_size"),
        (LLAMA, {"hidden_size": 60}, "heads of an even size"),
        (LLAMA, {"hidden_size": 66}, "num_attention_heads=4 .*allowed: a divisor of hidden_size, 66"),
        (LLAMA, {"num_key_value_heads": 3}, "a divisor of"),
        (LLAMA, {"vocab_size": None}, "vocab_size"),
        (LLAMA, {"rms_norm_eps": 10**400}, "rms_norm_eps"),
        (LLAMA, {"rope_theta": -1}, "rope_theta"),
        (LLAMA, {"tie_word_embeddings": 2}, "tie_word_embeddings"),
        (LLAMA, {"eos_token_id": [-1]}, "eos_token_id"),
        (LLAMA, {"eos_token_id": list(range(17))}, "allowed: an id, none, or as eos_token_id up to 16"),
        (LLAMA, {"eos_token_id": [True]}, "eos_token_id"),
        (LLAMA, {"bos_token_id": [1, 2]}, "bos_token_id"),
        (LLAMA, {"pad_token_id": "0"}, "pad_token_id"),
        (LLAMA, {"teleflm_jax": {"compute_dtype": "int8"}}, "teleflm_jax"),
        (LLAMA, {"teleflm_jax": {"compute_dtype": ["x"]}}, "teleflm_jax"),
        (LLAMA, {"dtype": "float64"}, 'got dtype="float64" in .*; allowed: float32, bfloat16, float16;'),
        (LLAMA, {"torch_dtype": "int8"}, "torch_dtype"),
        (LLAMA, {"torch_dtype": ["float16"]}, "torch_dtype"),
        (TELECHAT, {"torch_dtype": 16}, "torch_dtype=16"),
        (LLAMA, {"architectures": ["MistralForCausalLM"]}, "LlamaForCausalLM, TeleFLMForCausalLM"),
        (
            LLAMA,
            {"architectures": ["Qwen2ForCausalLM"]},
            "LlamaForCausalLM, TeleFLMForCausalLM",
        ),  # it has biases on queries, keys and values
        (LLAMA, {"architectures": [{}]}, "architectures"),
        (TELECHAT, {"training_seqlen": 32768}, "training_seqlen=32768 .*at most 8,192"),
        (TELECHAT, {"embed_layernorm": True}, "embed_layernorm"),
        (TELECHAT, {"logn": True}, "logn"),
        (TELECHAT, {"num_key_value_heads": 2}, "num_key_value_heads"),
    ],
)
def test_what_is_not_computed_here_is_refused_by_its_key(tmp_path, base, change, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, base | change)


def test_ids_of_both_files_are_kept_apart_and_what_is_missing_stays_missing(tmp_path):
    said = {"eos_token_id": [7, 2, 7], "temperature": 0.6, "top_p": 0.9, "_from_model_config": True, "transformers_version": "5.0"}
    (tmp_path / "generation_config.json").write_text(json.dumps(said))
    found = read(tmp_path, LLAMA | {"bos_token_id": None, "eos_token_id": 2, "pad_token_id": -1})
    assert found.ids == {"config.eos_token_id": (2,), "generation_config.eos_token_id": (7, 2)}
    assert len(found.notes) == 1 and "also says temperature, top_p, which is not taken over" in found.notes[0]
    written = config.exported(found.model, found.mup, "llama", "float32", {"eos_token_id": 2})
    assert (written["bos_token_id"], written["eos_token_id"], written["pad_token_id"]) == (None, 2, None)
    for wrong in ('{"eos_token_id": "x"}', "{"):
        (tmp_path / "generation_config.json").write_text(wrong)
        with pytest.raises(UserError, match="generation_config.json"):
            read(tmp_path, LLAMA)


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000, b" " * (1 << 20) + b"{}"])
def test_what_is_no_configuration_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError):
        config.read(tmp_path)


def test_the_teleflm_format_has_no_biases():
    with pytest.raises(UserError, match="change --format to llama"):
        config.exported(tiny.config(output_biases=True), mup.MupConfig(), "teleflm", "float32", {})


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("kind", ["fifo", "link", "deep", "surrogate", "twice"])
def test_files_that_are_no_plain_json_are_refused(tmp_path, name, kind):
    (tmp_path / "model").mkdir()
    read(tmp_path / "model", LLAMA)
    path = tmp_path / "model" / name
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "link":
        (tmp_path / "outside.json").write_text(json.dumps(LLAMA))
        path.symlink_to("../outside.json")
    else:
        path.write_text({"deep": '{"a":' * 9_999 + "1" + "}" * 9_999, "surrogate": '{"a": "\\ud800"}', "twice": '{"a": 1, "a": 1}'}[kind])
    with pytest.raises(UserError, match="plain file|leaves the folder|not JSON"):
        config.read(tmp_path / "model")


@pytest.mark.parametrize("value", [[], {}, ["float32"], 5])
def test_a_dtype_of_ours_of_another_type_is_refused(tmp_path, value):
    with pytest.raises(UserError, match="got teleflm_jax="):
        read(tmp_path, LLAMA | {"teleflm_jax": {"compute_dtype": value}})


def test_ids_that_the_model_has_no_row_for_are_left_out_with_a_note(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [399, 400, 2**31 - 1], "pad_token_id": 400}))
    found = read(tmp_path, LLAMA | {"eos_token_id": 2**31 - 1, "bos_token_id": 1})
    assert found.ids == {"config.bos_token_id": (1,), "generation_config.eos_token_id": (399,)}
    assert [note.partition(" says ")[2] for note in found.notes] == [
        "eos_token_id=2147483647, which is no id of the model (vocab_size): left out",
        "eos_token_id=400, which is no id of the model (vocab_size): left out",
        "pad_token_id=400, which is no id of the model (vocab_size): left out",
    ]
