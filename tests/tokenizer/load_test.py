import hashlib
import json

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import load


def test_missing_file_says_how_to_make_one(tmp_path):
    for read in (load.load, load.sha256):
        with pytest.raises(UserError, match="No such file.*tokenizer train"):
            read(tmp_path / "none.json")


@pytest.mark.parametrize("content", [b"{", b"\xff", b'{"version": "1.0"}', b"[]"])
def test_what_is_no_tokenizer_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a tokenizer.json"):
        load.load(path)


def test_foreign_layout_is_refused(path, tmp_path):
    foreign = json.loads(path.read_text(encoding="utf-8"))
    vocabulary = foreign["model"]["vocab"]
    vocabulary["A"], vocabulary["B"] = vocabulary["B"], vocabulary["A"]
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(foreign), encoding="utf-8")
    with pytest.raises(UserError, match="'A' has the id"):
        load.load(other)


def test_lone_surrogate_is_an_error_and_not_the_end(tokenizer):
    with pytest.raises((UnicodeEncodeError, TypeError)):
        tokenizer.encode("\ud800")
    assert tokenizer.decode(tokenizer.encode("after").ids) == "after"


def test_hash_is_of_the_bytes(path):
    assert load.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
