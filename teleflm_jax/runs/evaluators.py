"""Evaluations during training: bits per byte on held-out text, and benchmark tasks."""

import pathlib
from collections.abc import Callable

import jax

from sharding import rules
from teleflm_jax import mup
from teleflm_jax.data import loader
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import bpb, documents, suite
from teleflm_jax.evaluate.config import SuiteConfig
from teleflm_jax.evaluate.model import Model
from teleflm_jax.foreign import printable
from teleflm_jax.generate import chat, decoder
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.tokenizer import load, pieces, specials
from teleflm_jax.train.setup import Evaluator
from teleflm_jax.train.state import new_model

Log = Callable[[str], None]


def of_run(run: RunConfig, layout: rules.Layout, folder: pathlib.Path, log: Log) -> Evaluator | None:
    """Return the evaluations that `train.eval_every` and `train.suite_every` ask for as one evaluator; None if there are none."""
    measure, ask = bits_per_byte(run, layout, log), tasks(run, layout, folder, log) if run.train.suite_every else None
    if measure is None and ask is None:
        return None

    def evaluate(step: int, model: Transformer, pause: Callable[[], None]) -> dict[str, float]:
        figures = {}
        if measure is not None and run.train.evaluates_text(step):
            figures |= measure(step, model, pause)
        if ask is not None and run.train.evaluates_tasks(step):
            figures |= ask(step, model, pause)
        return figures

    return evaluate


def bits_per_byte(run: RunConfig, layout: rules.Layout, log: Log) -> Evaluator | None:
    """Return an evaluator on the packed held-out sets; log the domains that have none."""
    tokenizer, domains = load.load(run.data.tokenizer), run.evaluation.domains
    if not domains:
        has_text = {d: any(True for _ in loader.heldout(run.data, d, vocab_size=run.model.vocab_size)) for d in run.data.proportions}
        domains = tuple(domain for domain, found in has_text.items() if found)
        if without := [domain for domain, found in has_text.items() if not found]:
            log(f"not evaluated, because they have no held-out text (pack.heldout_fraction): {printable(', '.join(without))}")
        if not domains:
            return None
    chosen = documents.heldout(
        run.data, domains, vocab_size=run.model.vocab_size, max_bytes=run.train.eval_bytes, pieces=pieces.piece_bytes(tokenizer)
    )
    return bpb.evaluator(
        chosen,
        run.data.proportions,
        context_length=run.model.context_length,
        batch_size=run.evaluation.batch_size,
        layout=layout,
        bos=specials.of(tokenizer).bos,
    )


def tasks(run: RunConfig, layout: rules.Layout, folder: pathlib.Path, log: Log) -> Evaluator:
    """Return an evaluator on the benchmark tasks, with scores by `suite/<task>`; every process computes all of them.

    Raises:
        UserError: there are no tasks, or a task or its data is not available.
    """
    if not run.suite.tasks:
        raise UserError(
            f"got train.suite_every={run.train.suite_every} without suite.tasks; allowed: with tasks; "
            "add --gin_file configs/evals/evolution.gin, or set train.suite_every = 0"
        )
    work, tokenizer = suite.load(run.suite), load.load(run.data.tokenizer)
    for remark in work.remarks:
        log(printable(remark))
    width = mup.at_width(run.mup, run.model.d_model)
    to_canonical = layout.to_canonical(layout.stored(jax.eval_shape(lambda: new_model(run.model, width, seed=0))))

    def ask(step: int, model: Transformer, pause: Callable[[], None]) -> dict[str, float]:
        laid_out = decoder.decoder(to_canonical(model), layout)
        asked = suite_model(f"{folder}, step {step:,}", laid_out, tokenizer, run.suite, folder)
        scores = suite.measure(work, asked, pause=pause, log=log)
        for remark in suite.remarks(scores):
            log(printable(remark))
        return {f"suite/{name}": score.value for name, score in scores.items()}

    return ask


def suite_model(name: str, decoder: decoder.Decoder, tokenizer, config: SuiteConfig, folder: pathlib.Path) -> Model:
    """Return a model with the settings that the benchmark tasks are asked with."""
    return Model(
        name=name,
        decoder=decoder,
        tokenizer=tokenizer,
        format=chat.load(folder, tokenizer) if config.chat else None,
        bos=config.bos,
        batch_size=config.batch_size,
        max_tokens=config.max_tokens,
        seed=config.seed,
    )
