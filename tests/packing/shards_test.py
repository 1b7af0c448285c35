import collections

import numpy as np
import pytest
from array_record.python import array_record_module
from hypothesis import given
from hypothesis import strategies as st

from teleflm_jax.packing import shards
from teleflm_jax.tokenizer import layout, load, specials


def undo(rows):
    """The stream that was cut into records."""
    tokens = np.concatenate([rows[0].tokens[:1], *(row.tokens[1:] for row in rows)])
    return tokens[: tokens.size - int((tokens == layout.PAD).sum())].tolist()


@given(st.lists(st.lists(st.integers(4, 90_000), max_size=30), min_size=1), st.integers(1, 9))
def test_records_hold_every_token_and_overlap_by_one(texts, sequence_length):
    arrays = [np.array([layout.BOS, *text, layout.EOS], np.uint32) for text in texts]
    rows = list(shards.cut_records(arrays, sequence_length, specials.OURS))
    assert undo(rows) == np.concatenate(arrays).tolist()
    assert {row.tokens.size for row in rows} == {sequence_length + 1}
    for row, following in zip(rows, rows[1:], strict=False):
        assert row.tokens[-1] == following.tokens[0]
    for row in rows:
        assert row.starts.tolist() == [i for i, token in enumerate(row.tokens) if token == layout.BOS]
        assert row.tokens[1] != layout.PAD, "a record of nothing but padding"


def test_records_by_hand():
    arrays = [np.array([1, 10, 11, 2], np.uint32), np.array([1, 12, 2], np.uint32)]
    rows = list(shards.cut_records(arrays, 4, specials.OURS))
    assert [row.tokens.tolist() for row in rows] == [[1, 10, 11, 2, 1], [1, 12, 2, 3, 3]]
    assert [row.starts.tolist() for row in rows] == [[0, 4], [0]]


@given(st.text(st.sampled_from("ab \n"), max_size=200), st.integers(1, 20))
def test_cut_loses_nothing_and_is_bounded(text, size):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CHUNK_CHARACTERS", size)
        ranges = shards.cut(text)
    assert "".join(ranges) == text and max(map(len, ranges)) <= size and (all(ranges) or not text)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.sampled_from(["<s>", "</s>", "<pad>"]), max_size=6))
def test_the_stream_gives_the_texts_back(tokenizer, texts):
    loaded = load.load(tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "CHUNK_CHARACTERS", 7)
        patch.setattr(shards, "BATCH_CHARACTERS", 20)
        tokens = [int(token) for array in shards.stream(loaded, texts) for token in array]
    assert collections.Counter(tokens)[layout.BOS] == len(texts)
    back, current = [], []
    for token in tokens:
        if token == layout.EOS:
            back.append(loaded.decode(current))
        current = [] if token in (layout.BOS, layout.EOS) else [*current, token]
    assert back == texts


def test_a_shard_stands_whole_or_not_at_all(tmp_path):
    def rows():
        yield b"one"
        raise KeyError("stop")

    with pytest.raises(KeyError):
        shards.write_shard(str(tmp_path / "a"), rows())
    assert not (tmp_path / "a").exists()
    assert shards.write_shard(str(tmp_path / "b"), []) == {"name": "b", "records": 0, "size": 0}
    assert not (tmp_path / "b").exists()
    entry = shards.write_shard(str(tmp_path / "c"), [b"one", b"two"])
    assert entry == {"name": "c", "records": 2, "size": (tmp_path / "c").stat().st_size}
    assert array_record_module.ArrayRecordReader(str(tmp_path / "c")).read_all() == [b"one", b"two"]


def test_a_writer_that_fails_is_an_operating_system_error(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        shards.write_shard(str(tmp_path / "nowhere" / "a"), [b"one"])
