import pytest

from teleflm_jax.tokenizer import train


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory):
    """Path of a tokenizer of 400 pieces."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    words = [f"the {word} of a {word}s and {word}ing" for word in ("time", "house", "water", "stone", "paper", "light", "music")]
    path.write_text(train.train(iter(words * 5), 400), encoding="utf-8")
    return str(path)
