"""What the small models show, at 340 million parameters and 512 tokens: sums are longer, files are many."""

import jax
import numpy as np
import pytest
from flax import nnx

from teleflm_jax import checkpoint, mup
from teleflm_jax.model.transformer import Transformer
from tests.huggingface import folders
from tests.huggingface.parity_test import close, torch, transformers

pytestmark = [pytest.mark.slow, pytest.mark.parity]

SHAPE = folders.shape(
    num_layers=16, d_model=1024, num_heads=16, num_kv_heads=8, d_ff=2816, vocab_size=32_000, context_length=512, compute_dtype="float32"
)
RATES = mup.MupConfig()


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    model = jax.jit(lambda: Transformer(SHAPE, mup.at_width(RATES, SHAPE.d_model), rngs=nnx.Rngs(0)))()
    return folders.write(tmp_path_factory.mktemp("large") / "run", SHAPE, RATES, tokenizer, model)


def export(run, folder, *more):
    assert folders.call("export", "--workdir", run, "--dtype", "float32", "--shard_bytes", 200_000_000, "--out", folder, *more) == 0
    return folder


def test_transformers_computes_our_logits(run, tmp_path):
    peer = transformers.AutoModelForCausalLM.from_pretrained(export(run, tmp_path / "out"), dtype=torch.float32)
    tokens = np.random.default_rng(0).integers(0, SHAPE.vocab_size, (1, SHAPE.context_length))
    with torch.inference_mode():
        close(folders.load(run)(tokens), peer(torch.tensor(tokens)).logits)


@pytest.mark.parametrize("form", ["llama", "teleflm"])
def test_out_and_in_again_is_the_same_to_the_bit(run, tmp_path, form):
    theirs = export(run, tmp_path / "out", "--format", form)
    assert len(list(theirs.glob("*.safetensors"))) > 5
    assert folders.call("import", "--from", theirs, "--workdir", tmp_path / "again") == 0
    again = export(tmp_path / "again", tmp_path / "twice", "--format", form)
    for file in theirs.glob("*.safetensors"):
        assert file.read_bytes() == (again / file.name).read_bytes()
    if form == "teleflm":
        assert checkpoint.read(tmp_path / "again" / "checkpoints", 0).arrays == checkpoint.read(run / "checkpoints", 5).arrays
