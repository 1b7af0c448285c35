import pytest

from teleflm_jax.generate.engine import CHUNK, Engine
from teleflm_jax.generate.programs import Programs
from teleflm_jax.tokenizer import load, train


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A tokenizer of ours with 390 ids."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train.train(iter(["the time of the house", "a time of times"] * 9), 390), encoding="utf-8")
    return load.load(path)


@pytest.fixture(scope="module")
def shared(tokenizer):
    """Make engines; those of one decoder and chunk share their compiled programs."""
    made = {}

    def make(decoder, *, slots, chunk=CHUNK, compiled=None, **settings):
        if compiled is None:
            compiled = made.setdefault((id(decoder), chunk), Programs(decoder, chunk=chunk))  # which keep the decoder
        return Engine(decoder, tokenizer, slots=slots, chunk=chunk, compiled=compiled, **settings)

    return make
