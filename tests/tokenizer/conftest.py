import argparse
import inspect
import json
import random

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from teleflm_jax.tokenizer import load, specials, train

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


def _imported(model, pre_tokenizer=None, normalizer=None, decoder=None):
    """Content of a tokenizer.json that is none of ours and says what its ids are for."""
    made = tokenizers.Tokenizer(model)
    if pre_tokenizer:
        made.pre_tokenizer = pre_tokenizer
    if normalizer:
        made.normalizer = normalizer
    made.decoder = decoder
    made.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in ("<unk>", "<|begin|>", "<|end|>")])
    made.add_tokens([tokenizers.AddedToken("<tool>", special=False, normalized=False)])
    begin, end = made.token_to_id("<|begin|>"), made.token_to_id("<|end|>")
    named = {"tokenizer_config.bos_token": (begin,), "config.bos_token_id": (begin,), "config.eos_token_id": (end,)}
    said = specials.post_processor(specials.Specials(before=(begin,), after=(), named=named), made.id_to_token)
    return json.dumps(json.loads(made.to_str()) | {"post_processor": said})


@pytest.fixture(scope="session", params=["byte-level", "byte fallback"])
def imported(request, texts, tmp_path_factory):
    """Path of a tokenizer.json as `import` leaves one, of each kind."""
    path = tmp_path_factory.mktemp("imported") / "tokenizer.json"
    if request.param == "byte-level":
        bare = tokenizers.Tokenizer(models.BPE())
        bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
        bare.train_from_iterator(texts, trainer)
        made = _imported(bare.model, pre_tokenizer=bare.pre_tokenizer, decoder=decoders.ByteLevel())
    else:
        pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab"]
        model = models.BPE(
            {piece: i for i, piece in enumerate(pieces)}, [("a", "b"), ("▁", "ab")], unk_token="<unk>", fuse_unk=True, byte_fallback=True
        )
        spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        back = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        made = _imported(model, normalizer=spaces, decoder=back)
    path.write_text(made, encoding="utf-8")
    return path
