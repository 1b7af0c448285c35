"""Windows of documents at the model's context length, and their batches of few shapes; numpy only.

The windows are those of lm-evaluation-harness's rolling log-likelihood with a context of one token: `<s>` comes before each document,
windows have the context's length and share no scored token, and the last one is moved left to full length, where only tokens that no
other window scored count. A document shorter than the context is one short window.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

SHORTER = 3
"""Number of halvings of the context that batches come in: each length costs a compilation and saves padding."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Window:
    """A piece of a document."""

    tokens: np.ndarray
    """int32 [n + 1]: n inputs, each predicting the token after it."""
    num_new: int
    """Number of final targets that are scored."""
    owner: int
    """Number of the domain."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Windows padded on the right to one length, followed by rows of padding only."""

    tokens_BT: np.ndarray
    targets_BT: np.ndarray
    counts_BT: np.ndarray
    """bool: True if the target is scored."""
    owners_B: np.ndarray


def cut(tokens: np.ndarray | Sequence[int], context: int, owner: int = 0, *, bos: int) -> list[Window]:
    """Cut one document, without `<s>` and `</s>`, into windows of at most `context` inputs; `bos` is the tokenizer's `<s>`."""
    text = np.concatenate([[bos], np.asarray(tokens)]).astype(np.int32)
    windows = []
    for scored in range(0, len(text) - 1, context):
        end = min(scored + context, len(text) - 1)
        windows.append(Window(tokens=text[max(0, end - context) : end + 1], num_new=end - scored, owner=owner))
    return windows


def lengths(context: int, multiple: int = 1) -> list[int]:
    """Return the lengths of batches, ascending: the context and its halvings, rounded up to multiples of `multiple`."""
    return sorted({-(-context // 2**halvings // multiple) * multiple for halvings in range(SHORTER + 1)})


def batches(windows: Sequence[Window], context: int, batch_size: int, multiple: int = 1, length_multiple: int = 1) -> list[Batch]:
    """Sort windows into batches by length.

    Args:
        windows: in any order.
        context: longest window.
        batch_size: windows of the context length in a batch; batches of shorter windows have the same number of tokens.
        multiple: rows of a batch are rounded up to a multiple of this, so that devices can share them.
        length_multiple: likewise of their lengths.
    """
    made, shorter = [], 0
    for length in lengths(context, length_multiple):
        fitting = [window for window in windows if shorter < len(window.tokens) - 1 <= length]
        num_rows = -(-batch_size * context // length // multiple) * multiple
        made += [_stack(fitting[i : i + num_rows], num_rows, length) for i in range(0, len(fitting), num_rows)]
        shorter = length
    return made


def _stack(windows: Sequence[Window], num_rows: int, length: int) -> Batch:
    tokens_BT = np.zeros((num_rows, length + 1), np.int32)  # where nothing is scored, any id will do
    counts_BT = np.zeros((num_rows, length), bool)
    owners_B = np.zeros(num_rows, np.int32)
    for i, window in enumerate(windows):
        end = len(window.tokens) - 1
        tokens_BT[i, : end + 1] = window.tokens
        counts_BT[i, end - window.num_new : end] = True
        owners_B[i] = window.owner
    return Batch(tokens_BT=tokens_BT[:, :-1], targets_BT=tokens_BT[:, 1:], counts_BT=counts_BT, owners_B=owners_B)
