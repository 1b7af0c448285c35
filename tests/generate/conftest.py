import pytest

from teleflm_jax.tokenizer import load, train


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """A tokenizer of ours with 390 ids."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(train.train(iter(["the time of the house", "a time of times"] * 9), 390), encoding="utf-8")
    return load.load(path)
