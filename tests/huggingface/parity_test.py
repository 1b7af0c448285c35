"""Exports and imports against transformers' models and against TeleChat's equations, in PyTorch: code that none of us wrote."""

import dataclasses
import json
import math

import numpy as np
import pytest
from flax import nnx

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import mup
from teleflm_jax.evaluate import bpb
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.packing.records import HeldOut
from teleflm_jax.tokenizer import load
from teleflm_jax.train.state import weights_of, with_weights
from tests import tiny
from tests.huggingface import folders

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="PyTorch is installed on Python 3.11 only (requirements-parity.txt)")
transformers = pytest.importorskip("transformers")
save_file = pytest.importorskip("safetensors.torch").save_file

TOKENS = np.asarray(tiny.tokens(2, 30, vocab_size=folders.VOCABULARY))
TEXT = "the house of the time, a time of times: 你好 </s>\n" * 3


def close(ours, theirs, tolerance=1e-5):
    """Relative to the largest logit: both sum in float32, in other orders."""
    ours, theirs = np.asarray(ours, np.float32), theirs.detach().float().numpy()
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


@pytest.fixture(scope="module", params=["trained", "random, grouped heads", "random, output biases"])
def run(request, trained, tokenizer, tmp_path_factory):
    if request.param == "trained":
        return trained
    shape = folders.shape(output_biases=True) if "biases" in request.param else folders.shape(num_kv_heads=2)
    return folders.write(tmp_path_factory.mktemp("random") / "run", shape, folders.RATES, tokenizer, tiny.model(shape))


def exported(run, folder, dtype):
    assert folders.call("export", "--workdir", run, "--dtype", dtype, "--out", folder, "--shard_bytes", 40_000) == 0
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")


def test_an_export_gives_our_logits_in_transformers(run, tmp_path):
    model = folders.load(run)
    close(model(TOKENS), exported(run, tmp_path / "f32", "float32")(torch.tensor(TOKENS)).logits)
    rounded = exported(run, tmp_path / "bf16", "bfloat16")
    assert rounded.dtype == torch.bfloat16
    # each of some ten roundings in a row is by one part in 256 at most
    close(model(TOKENS), rounded.float()(torch.tensor(TOKENS)).logits, 10 / 256)
    gate = np.asarray(model.blocks.feed_forward.gate[...][1]).T
    theirs = rounded.model.layers[1].mlp.gate_proj.weight.detach()
    assert torch.equal(theirs, torch.tensor(gate).bfloat16().float())


def test_bits_per_byte_are_the_same_in_transformers(trained, tmp_path):
    peer, tokenizer = exported(trained, tmp_path / "out", "float32"), load.load(trained / "tokenizer.json")
    ids = tokenizer.encode(TEXT[:40]).ids
    document = HeldOut(tokens=np.array(ids, np.uint32), num_bytes=len(TEXT[:40].encode()))
    assert len(ids) <= 32
    layout = rules.layout(MeshConfig(zero=3), 32)
    model = layout.to_runtime(folders.load(trained))
    ours = bpb.measure(model, {"web": [document]}, batch_size=1, layout=layout, bos=1)["web"].bpb
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out", split_special_tokens=True)(TEXT[:40], return_tensors="pt")
    assert theirs["input_ids"].tolist() == [[1, *ids]]
    loss = peer(input_ids=theirs["input_ids"], labels=theirs["input_ids"]).loss.item()
    assert ours == pytest.approx(loss * len(ids) / math.log(2) / document.num_bytes, rel=1e-5)


def test_the_exported_tokenizer_puts_the_beginning_in_front_and_knows_chats(trained, tmp_path):
    exported(trained, tmp_path / "out", "bfloat16")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "out"), load.load(trained / "tokenizer.json")
    text = "the house\n  of 你好 2024_1"
    assert theirs(text)["input_ids"] == [1, *ours.encode(text).ids]
    assert (theirs.bos_token, theirs.eos_token, theirs.pad_token, theirs.unk_token) == ("<s>", "</s>", "<pad>", "<unk>")
    turns = [{"role": "user", "content": "the"}, {"role": "assistant", "content": "a"}, {"role": "user", "content": "time"}]
    ids = theirs.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    the, a, time = (ours.encode(word).ids for word in ("the", "a", "time"))
    assert ids == [1, 25, *the, 26, *a, 2, 27, 25, *time, 26]
    config = transformers.GenerationConfig.from_pretrained(tmp_path / "out")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 3)


@pytest.mark.parametrize(
    "tied, num_kv_heads, dtype", [(False, 4, "float32"), (True, 2, "float32"), (False, 1, "bfloat16"), (True, 4, "float16")]
)
def test_an_imported_llama_gives_transformers_logits(tokenizer, tmp_path, tied, num_kv_heads, dtype):
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=folders.VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=64,
        rms_norm_eps=1e-4,
        rope_parameters={"rope_type": "default", "rope_theta": 700.0},
        tie_word_embeddings=tied,
        initializer_range=0.3,
    )
    peer = transformers.LlamaForCausalLM(config).to(getattr(torch, dtype))
    peer.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    (tmp_path / "theirs" / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    assert folders.call("import", "--from", tmp_path / "theirs", "--workdir", tmp_path / "run") == 0
    model = folders.load(tmp_path / "run")
    assert model.config.compute_dtype == dtype and model.config.norm_epsilon == 1e-4 and model.config.rope_theta == 700.0
    loaded = {name: transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "theirs", dtype=name) for name in (dtype, "float32")}
    exact, rounded = (loaded[name](torch.tensor(TOKENS)).logits.detach().float() for name in ("float32", dtype))
    if dtype == "float32":
        close(model(TOKENS), exact)
        return
    wide = Transformer(dataclasses.replace(model.config, compute_dtype="float32"), mup.at_width(tiny.WIDE, 32), rngs=nnx.Rngs(0))
    close(with_weights(wide, weights_of(model))(TOKENS), exact)
    errors = [np.linalg.norm(np.asarray(logits) - exact.numpy()) for logits in (model(TOKENS), rounded)]
    assert errors[0] < 2 * errors[1], "both round to 16 bits, in other places"
    if dtype == "float16":
        coarse = Transformer(dataclasses.replace(model.config, compute_dtype="bfloat16"), mup.at_width(tiny.WIDE, 32), rngs=nnx.Rngs(0))
        coarse_error = np.linalg.norm(np.asarray(with_weights(coarse, weights_of(model))(TOKENS)) - exact.numpy())
        assert errors[0] < coarse_error / 4, "float16 has three bits more than bfloat16"


def telechat(weights, config, tokens):
    """TeleChat's forward pass as its layout defines it, up to `training_seqlen` tokens, where rotary positions are plain."""
    heads, head = config["n_head"], config["hidden_size"] // config["n_head"]
    half = torch.arange(0, head, 2).float() / head
    angle = torch.outer(torch.arange(tokens.shape[1]).float(), 10_000.0**-half)
    cos, sin = (torch.cat([f(angle)] * 2, -1)[:, None] for f in (torch.cos, torch.sin))

    def norm(x, name):
        return weights[name] * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + config["layer_norm_epsilon"])

    def turned(x):
        return x * cos + torch.cat([-x[..., head // 2 :], x[..., : head // 2]], -1) * sin

    x = weights["word_embeddings.weight"][tokens]
    for layer in range(config["n_layer"]):
        w = {name.removeprefix(f"h.{layer}."): value for name, value in weights.items() if name.startswith(f"h.{layer}.")}
        y = norm(x, f"h.{layer}.input_layernorm.weight")
        q = turned((y @ w["self_attention.query.weight"].T).unflatten(-1, (heads, head)))
        both = (y @ w["self_attention.key_value.weight"].T).unflatten(-1, (heads, 2 * head))
        k, v = turned(both[..., :head]), both[..., head:]
        scores = torch.einsum("bqnh,bknh->bnqk", q, k) / math.sqrt(head)
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf).softmax(-1)
        y = torch.einsum("bnqk,bknh->bqnh", scores, v).flatten(-2)
        x = x + y @ w["self_attention.dense.weight"].T + w["self_attention.dense.bias"]
        y = norm(x, f"h.{layer}.post_attention_layernorm.weight")
        y = torch.nn.functional.silu(y @ w["mlp.gate_proj.weight"].T) * (y @ w["mlp.up_proj.weight"].T)
        x = x + y @ w["mlp.down_proj.weight"].T + w["mlp.down_proj.bias"]
    head_weight = weights.get("lm_head.weight", weights["word_embeddings.weight"])
    return norm(x, "ln_f.weight") @ head_weight.T


@pytest.mark.parametrize("tied", [False, True])
def test_an_imported_telechat_gives_its_equations_logits(tokenizer, tmp_path, tied):
    config = {"architectures": ["TelechatForCausalLM"], "model_type": "telechat", "hidden_size": 32, "n_layer": 2, "n_head": 4}
    config |= {"ffn_hidden_size": 48, "vocab_size": folders.VOCABULARY, "layer_norm_epsilon": 1e-5, "training_seqlen": 64}
    config |= {"embed_layernorm": False, "torch_dtype": "float32", "auto_map": {"AutoModel": "modeling_telechat.X"}, "eos_token_id": 2}
    shapes = {"word_embeddings.weight": (folders.VOCABULARY, 32), "ln_f.weight": (32,)}
    for i in range(2):
        square = {f"h.{i}.self_attention.{name}.weight": (32, 32) for name in ("query", "dense")}
        shapes |= square | {f"h.{i}.self_attention.key_value.weight": (64, 32), f"h.{i}.self_attention.dense.bias": (32,)}
        shapes |= {f"h.{i}.mlp.{name}_proj.weight": (48, 32) for name in ("gate", "up")}
        shapes |= {f"h.{i}.mlp.down_proj.weight": (32, 48), f"h.{i}.mlp.down_proj.bias": (32,)}
        shapes |= {f"h.{i}.{name}_layernorm.weight": (32,) for name in ("input", "post_attention")}
    if not tied:
        shapes["lm_head.weight"] = (folders.VOCABULARY, 32)
    torch.manual_seed(1)
    weights = {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}
    (tmp_path / "theirs").mkdir()
    prefixed = {name if name == "lm_head.weight" else f"transformer.{name}": value for name, value in weights.items()}
    save_file(prefixed if tied else weights, tmp_path / "theirs" / "model.safetensors")
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config))
    (tmp_path / "theirs" / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    assert folders.call("import", "--from", tmp_path / "theirs", "--workdir", tmp_path / "run") == 0
    model = folders.load(tmp_path / "run")
    close(model(TOKENS), telechat(weights, config, torch.tensor(TOKENS)))
    # and from here on to whatever serves a Llama
    peer = exported(tmp_path / "run", tmp_path / "llama", "float32")
    close(model(TOKENS), peer(torch.tensor(TOKENS)).logits)
