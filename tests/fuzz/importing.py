"""Entries of a stranger's model: bytes stand for one of its files; anything raised is a fault."""

import pathlib
import tempfile

from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import config, tensors
from teleflm_jax.tokenizer import load, pieces, specials

TEXTS = ("a", "the <s> time </s> [x] 你好 <0x41>\n\n  ", "a" * 3_000, " " * 3_000 + "b", "ａ＜ｓ＞" * 100)
"""Plain text; runs of one character are what expressions go back and forth over."""


def tokenizer(content: bytes) -> None:
    """Take a tokenizer.json: it is refused, or encodes texts without special ids."""
    try:
        made = load.parse(content.decode())
        made.encode_special_tokens = True
        pieces.piece_bytes(made)
    except (ValueError, UserError):
        return
    for text in TEXTS:
        try:
            ids = specials.encode(made, text)
        except UserError:
            continue
        assert not specials.controls(made) & set(ids)


def safetensors(content: bytes) -> None:
    """Take a file of weights: it is refused, or its tensors lie in it."""
    _in_a_folder(tensors.SINGLE, content, lambda folder: [each.shape for each in tensors.read_folder(folder).values()])


def configuration(content: bytes) -> None:
    """Take a config.json: it is refused, or describes a model."""
    _in_a_folder(config.FILE, content, config.read)


def _in_a_folder(name: str, content: bytes, read) -> None:
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, name).write_bytes(content)
        try:
            read(pathlib.Path(folder))
        except UserError:
            return


ENTRIES = {"tokenizer": tokenizer, "safetensors": safetensors, "configuration": configuration}
