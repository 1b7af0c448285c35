"""What commands read from a run's folder: a checkpoint's weights as a model, and the tokenizer they were trained with."""

import pathlib

import jax
import tokenizers

from teleflm_jax import checkpoint, mup
from teleflm_jax.cli.options import Run
from teleflm_jax.errors import UserError
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.tokenizer import load
from teleflm_jax.train.state import new_model, weights_of, with_weights

TOKENIZER = "tokenizer.json"


def choose_step(folder: pathlib.Path, step: int | None) -> int:
    """The given step, or the newest; raises a `UserError` if there is no such checkpoint."""
    return checkpoint.choose(folder / checkpoint.FOLDER, step)


def load_model(folder: pathlib.Path, run: Run, step: int, placed: jax.sharding.Sharding) -> Transformer:
    """Load the weights of a checkpoint; the optimizer's state is left on disk.

    Args:
        folder: the run's folder.
        run: its configuration.
        step: of the checkpoint, from `choose_step`.
        placed: where each weight lies.

    Raises:
        UserError: the checkpoint has another shape than the configuration's model.
    """
    model = jax.eval_shape(lambda: new_model(run.model, mup.at_width(run.mup, run.model.d_model), seed=0))
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=placed), weights_of(model))
    arrays, _ = checkpoint.restore(folder / checkpoint.FOLDER, step, {"model": shapes})
    return with_weights(model, arrays["model"])


def load_tokenizer(folder: pathlib.Path, vocab_size: int) -> tokenizers.Tokenizer:
    """The tokenizer of a run's folder.

    Raises:
        UserError: it is missing, not ours, or has ids that the model has no rows for.
    """
    tokenizer = load.load(folder / TOKENIZER)
    if tokenizer.get_vocab_size() > vocab_size:
        raise UserError(
            f"got {folder / TOKENIZER} with {tokenizer.get_vocab_size():,} ids for model.vocab_size={vocab_size:,}; "
            "allowed: at most as many; put back the tokenizer that the run was trained with"
        )
    return tokenizer
