import argparse
import inspect
import random

import pytest

from teleflm_jax.tokenizer import load, train

VOCAB_SIZE = 1500


@pytest.fixture(scope="session")
def texts():
    lines = inspect.getsource(argparse).split("\n")
    code = ["\n".join(lines[start : start + 40]) for start in range(0, len(lines), 40)]
    han = [chr(0x4E00 + index) for index in range(200)]
    draw = random.Random(0)
    chinese = ["".join(draw.choices(han, k=60)) + "。在 2024 年，我们说 hello。</s><_user>😈" for _ in range(200)]
    return code + chinese


@pytest.fixture(scope="session")
def content(texts):
    return train.train(iter(texts), VOCAB_SIZE)


@pytest.fixture(scope="session")
def path(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(content, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def tokenizer(path):
    return load.load(path)
