"""Evaluating checkpoints: bits per byte on texts and held-out sets, and scores on benchmark tasks, as plain values."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tokenizers

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import bpb, documents, suite, weights
from teleflm_jax.packing import shards
from teleflm_jax.packing.records import HeldOut
from teleflm_jax.runs.evaluators import suite_model
from teleflm_jax.runs.folder import TOKENIZER
from teleflm_jax.runs.load import Checkpoint, load_model
from teleflm_jax.tokenizer import specials
from teleflm_jax.tokenizer.pieces import piece_bytes

Watch = Callable[[Sequence], Iterable]
"""Takes all batches and yields them one by one, such as a progress bar."""
NO_TEXTS: Mapping[str, str] = {}


def bits_per_byte(
    checkpoint: Checkpoint, texts: Mapping[str, str] = NO_TEXTS, *, packed: bool = False, watch: Watch = iter
) -> dict[str, Any]:
    """Measure one checkpoint; arguments, result and errors are those of `compare`."""
    return compare([checkpoint], texts, packed=packed, watch=watch)[0]


def compare(
    checkpoints: Sequence[Checkpoint], texts: Mapping[str, str] = NO_TEXTS, *, packed: bool = False, watch: Watch = iter
) -> list[dict[str, Any]]:
    """Measure checkpoints in bits per byte on the same text, each in its own tokens.

    Args:
        checkpoints: the first one's configuration names the held-out sets.
        texts: name -> text, each measured as one document.
        packed: measure the packed held-out sets too; without texts they are always measured.
        watch: shows the progress.

    Returns:
        For each checkpoint its `run`, `step`, `tokens` of training, `domains` (name -> bpb, loss, tokens, bytes), and `weighted` means.

    Raises:
        UserError: there is nothing to measure, or a text has the name of a domain.
    """
    first, use_packed = checkpoints[0], packed or not texts
    if use_packed and first.config.data is None:
        raise UserError(
            f"got {first.folder}, which names no packed text (data.*), as an imported model does not; allowed: --text NAME=FILE, or a gin "
            "file with data.*; add one, such as --text readme=README.md"
        )
    tokenizer = first.tokenizer()
    held_out = packed_documents(first, tokenizer) if use_packed else {}
    if both := sorted(held_out.keys() & texts.keys()):
        raise UserError(f"got the text {both[0]}, whose name is also a packed domain; allowed: another name; rename the text")
    return [_measure(checkpoint, held_out, texts, tokenizer, watch) for checkpoint in checkpoints]


def benchmarks(
    checkpoints: Sequence[Checkpoint], *, watch: Watch = iter, log: Callable[[str], None] = lambda message: None
) -> list[dict[str, Any]]:
    """Score checkpoints on the benchmark tasks of the first one's configuration.

    Returns:
        For each checkpoint its `run`, `step`, `tokens` of training, and `tasks` (name -> the fields of `suite.TaskScore`).
    """
    work = suite.load(checkpoints[0].config.suite)
    for remark in work.remarks:
        log(remark)
    return [_describe(checkpoint, _ask(work, checkpoint, watch, log)) for checkpoint in checkpoints]


def packed_documents(checkpoint: Checkpoint, tokenizer: tokenizers.Tokenizer) -> dict[str, list[HeldOut]]:
    """Return the run's held-out sets, which must have been packed with the tokenizer of its folder."""
    run = checkpoint.config
    data = dataclasses.replace(run.data, tokenizer=str(checkpoint.folder / TOKENIZER))
    return documents.heldout(
        data,
        run.evaluation.domains,
        vocab_size=run.model.vocab_size,
        max_bytes=run.evaluation.max_bytes,
        pieces=piece_bytes(tokenizer),
    )


def encode(tokenizer: tokenizers.Tokenizer, content: str) -> HeldOut:
    """Return a text as one document, with the tokens that packing it would give."""
    tokens = np.concatenate(list(shards.encode(tokenizer, shards.cut(content))))
    return HeldOut(tokens=tokens, num_bytes=len(content.encode()))


def describe(step: int, scores: Mapping[str, bpb.BitsPerByte], proportions: Mapping[str, float]) -> dict[str, Any]:
    """Return scores and their weighted means as plain values."""
    domains = {
        name: {"bpb": score.bpb, "loss": score.loss, "tokens": score.tokens, "bytes": score.num_bytes} for name, score in scores.items()
    }
    return {"step": step, "domains": domains, "weighted": weights.aggregates(domains, proportions)}


def _measure(
    checkpoint: Checkpoint, packed: bpb.Documents, texts: Mapping[str, str], first: tokenizers.Tokenizer, watch: Watch
) -> dict[str, Any]:
    """Measure a checkpoint on documents that are packed with the first one's tokenizer, and on texts."""
    own, run = checkpoint.tokenizer(), checkpoint.config
    if own.to_str() != first.to_str():
        again = {name: [first.decode(document.tokens.tolist()) for document in held_out] for name, held_out in packed.items()}
        packed = {name: [encode(own, content) for content in contents] for name, contents in again.items()}
    all_documents = dict(packed) | {name: [encode(own, content)] for name, content in texts.items()}
    layout = rules.layout(MeshConfig(zero=3), run.model.d_model)  # over all devices here, whatever mesh it was trained on
    model = layout.to_runtime(load_model(checkpoint.folder, run, checkpoint.step, layout.stored))
    bos = specials.of(own).bos
    scores = bpb.measure(model, all_documents, batch_size=run.evaluation.batch_size, layout=layout, bos=bos, watch=watch)
    found = describe(checkpoint.step, scores, run.data.proportions if run.data else {})
    return {"run": str(checkpoint.folder), "tokens": checkpoint.tokens} | found


def _ask(work: suite.Suite, checkpoint: Checkpoint, watch: Watch, log: Callable[[str], None]) -> dict[str, suite.TaskScore]:
    model = suite_model(checkpoint.name, checkpoint.decoder(), checkpoint.tokenizer(), checkpoint.config.suite, checkpoint.folder)
    scores = suite.measure(work, model, watch, log=log)
    for remark in suite.remarks(scores):
        log(f"{checkpoint.name}: {remark}")
    return scores


def _describe(checkpoint: Checkpoint, scores: Mapping[str, suite.TaskScore]) -> dict[str, Any]:
    tasks = {name: dataclasses.asdict(score) for name, score in scores.items()}
    return {"run": str(checkpoint.folder), "step": checkpoint.step, "tokens": checkpoint.tokens, "tasks": tasks}
