"""What a training run measures on the way: bits per byte on held-out text, and benchmark tasks."""

import pathlib
import sys
from collections.abc import Callable

import jax

from sharding import rules
from teleflm_jax import mup
from teleflm_jax.cli import benchmarks, options
from teleflm_jax.data import loader
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import bpb, documents, suite
from teleflm_jax.foreign import printable
from teleflm_jax.generate import decoder
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.tokenizer import load, pieces, specials
from teleflm_jax.train.setup import Evaluator
from teleflm_jax.train.state import new_model


def of_run(run: options.Run, layout: rules.Layout, folder: pathlib.Path) -> Evaluator | None:
    """Everything that `train.eval_every` and `train.suite_every` ask for, each when it is due; None if there is nothing."""
    measure, ask = bits_per_byte(run, layout), tasks(run, layout, folder) if run.train.suite_every else None
    if measure is None and ask is None:
        return None

    def evaluate(step: int, model: Transformer, pause: Callable[[], None]) -> dict[str, float]:
        figures = {}
        if measure is not None and run.train.measures(step):
            figures |= measure(step, model, pause)
        if ask is not None and run.train.asks(step):
            figures |= ask(step, model, pause)
        return figures

    return evaluate


def bits_per_byte(run: options.Run, layout: rules.Layout) -> Evaluator | None:
    """Bits per byte on the packed held-out sets of the domains that have one; says which have none."""
    tokenizer, domains = load.load(run.data.tokenizer), run.evaluation.domains
    if not domains:
        has_text = {d: any(True for _ in loader.heldout(run.data, d, vocab_size=run.model.vocab_size)) for d in run.data.proportions}
        domains = tuple(domain for domain, found in has_text.items() if found)
        if without := [domain for domain, found in has_text.items() if not found]:
            print(f"not evaluated, for want of held-out text (pack.heldout_fraction): {printable(', '.join(without))}", file=sys.stderr)
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


def tasks(run: options.Run, layout: rules.Layout, folder: pathlib.Path) -> Evaluator:
    """Scores of the benchmark tasks, `suite/<task>`; every process asks them all.

    Raises:
        UserError: there are none, or one or its data is not to be had.
    """
    if not run.suite.tasks:
        raise UserError(
            f"got train.suite_every={run.train.suite_every} without suite.tasks; allowed: with tasks; "
            "add --gin_file configs/evals/evolution.gin, or set train.suite_every = 0"
        )
    work, tokenizer = suite.load(run.suite), load.load(run.data.tokenizer)
    if jax.process_index() == 0:
        for remark in work.remarks:
            print(printable(remark), file=sys.stderr)
    width = mup.at_width(run.mup, run.model.d_model)
    to_logical = layout.to_logical(layout.stored(jax.eval_shape(lambda: new_model(run.model, width, seed=0))))

    def ask(step: int, model: Transformer, pause: Callable[[], None]) -> dict[str, float]:
        laid_out = decoder.decoder(to_logical(model), layout)
        asked = benchmarks.model(f"{folder}, step {step:,}", laid_out, tokenizer, run.suite, folder)
        scores = suite.measure(work, asked, pause=pause)
        for remark in suite.remarks(scores) if jax.process_index() == 0 else ():
            print(printable(remark), file=sys.stderr)
        return {f"suite/{name}": score.value for name, score in scores.items()}

    return ask
