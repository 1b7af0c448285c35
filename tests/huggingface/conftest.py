import pytest

from teleflm_jax.tokenizer import patterns, train
from tests.huggingface import folders


@pytest.fixture(scope="session")
def tokenizer():
    """Content of a tokenizer.json of ours."""
    return train.train(iter(["the time of the house", "a time of times"] * 9), folders.VOCABULARY)


@pytest.fixture(scope="session")
def qwen2_tokenizer():
    """Content of one that cuts text into words as llama.cpp can."""
    return train.train(iter(["the time of the house", "a time of times"] * 9), folders.VOCABULARY, pattern=patterns.QWEN2)


@pytest.fixture(scope="session")
def trained(tokenizer, tmp_path_factory):
    """A run's folder with weights that were trained for eight steps; to read only."""
    return folders.write(tmp_path_factory.mktemp("trained") / "run", folders.shape(), folders.RATES, tokenizer)
