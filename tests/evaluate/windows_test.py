import numpy as np
import pytest

from teleflm_jax.evaluate import windows
from teleflm_jax.tokenizer import layout

BOS = layout.BOS


def described(num_tokens, context):
    """(inputs, scored targets) of each window of the tokens 100, 101, …"""
    cut = windows.cut(np.arange(100, 100 + num_tokens, dtype=np.uint32), context, bos=BOS)
    return [(w.tokens[:-1].tolist(), w.tokens[len(w.tokens) - w.num_new :].tolist()) for w in cut]


@pytest.mark.parametrize(
    "num_tokens, context, expected",
    [
        (0, 4, []),
        (1, 4, [([BOS], [100])]),
        (3, 4, [([BOS, 100, 101], [100, 101, 102])]),
        (4, 4, [([BOS, 100, 101, 102], [100, 101, 102, 103])]),
        # the last window goes back until it is full, and scores what is left
        (6, 4, [([BOS, 100, 101, 102], [100, 101, 102, 103]), ([101, 102, 103, 104], [104, 105])]),
        (8, 4, [([BOS, 100, 101, 102], [100, 101, 102, 103]), ([103, 104, 105, 106], [104, 105, 106, 107])]),
        (2, 1, [([BOS], [100]), ([100], [101])]),
    ],
)
def test_windows_by_hand(num_tokens, context, expected):
    assert described(num_tokens, context) == expected


@pytest.mark.parametrize("context", [1, 2, 7, 64])
def test_every_token_is_scored_once_with_all_the_context_there_is(context):
    for num_tokens in range(1, 4 * context + 2):
        found = described(num_tokens, context)
        assert [token for _, scored in found for token in scored] == list(range(100, 100 + num_tokens))
        for inputs, scored in found:
            assert len(inputs) == min(context, scored[-1] - 99)
            assert inputs[-1] == (scored[-1] - 1 if scored[-1] > 100 else BOS)


def test_lengths_halve():
    assert windows.lengths(4096) == [512, 1024, 2048, 4096]
    assert windows.lengths(3) == [1, 2, 3]


@pytest.mark.parametrize("multiple", [1, 8])
def test_batches_hold_every_window_once_in_few_shapes(multiple):
    rng = np.random.default_rng(0)
    cut = [window for i in range(50) for window in windows.cut(rng.integers(100, 200, rng.integers(1, 40)), 16, owner=i, bos=BOS)]
    made = windows.batches(cut, 16, batch_size=3, multiple=multiple)
    assert {batch.tokens_BT.shape[1] for batch in made} <= {2, 4, 8, 16}
    assert len({batch.tokens_BT.shape for batch in made}) <= 4
    assert all(batch.tokens_BT.shape[0] % multiple == 0 for batch in made)
    # without padding, a batch has as many tokens whatever its length
    assert multiple > 1 or {batch.tokens_BT.size for batch in made} == {48}
    rows = [
        (int(owner), inputs[: np.flatnonzero(count)[-1] + 1].tolist(), targets[count].tolist())
        for batch in made
        for owner, inputs, targets, count in zip(batch.owners_B, batch.tokens_BT, batch.targets_BT, batch.counts_BT, strict=True)
        if count.any()
    ]
    assert sorted(rows) == sorted((w.owner, w.tokens[:-1].tolist(), w.tokens[len(w.tokens) - w.num_new :].tolist()) for w in cut)
