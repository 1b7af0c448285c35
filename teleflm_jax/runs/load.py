"""Loading a run: a checkpoint's weights as a model or a decoder, and the tokenizer that they were trained with."""

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Callable

import jax
import tokenizers

from sharding import decoding
from teleflm_jax import checkpoint as checkpoints
from teleflm_jax import mup
from teleflm_jax.checkpoint.record import Record
from teleflm_jax.errors import UserError
from teleflm_jax.generate import decoder, engine
from teleflm_jax.generate.request import Request
from teleflm_jax.generate.sampling import Sampling
from teleflm_jax.model.attention import refuse_absent
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.runs.config import SAVED_CONFIG, RunConfig, refuse_no_run, saved_config
from teleflm_jax.runs.folder import TOKENIZER, identity, refuse_change
from teleflm_jax.tokenizer import load, specials
from teleflm_jax.train.state import new_model, weights_of, with_weights


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint of a run; from `checkpoint`."""

    folder: pathlib.Path
    config: RunConfig
    step: int

    @property
    def name(self) -> str:
        """The run's folder and the step, for people."""
        return f"{self.folder}, step {self.step:,}"

    @property
    def tokens(self) -> int | None:
        """Tokens that the model was trained on; None if unknown, as for an imported model."""
        with contextlib.suppress(checkpoints.Damaged):
            return checkpoints.read(self.folder / checkpoints.FOLDER, self.step).counters.get("tokens") or None
        return None

    def tokenizer(self) -> tokenizers.Tokenizer:
        """Load the tokenizer that the model was trained with."""
        return load_tokenizer(self.folder, self.config.model.vocab_size)

    def decoder(self) -> decoder.Decoder:
        """Load the weights for decoding, split over all devices."""
        return load_decoder(self.folder, self.config, self.step)

    def complete(self, prompt: str, max_tokens: int = 128, sampling: Sampling | None = None, seed: int = 0) -> str:
        """Load the weights and return the text that the model continues a prompt with."""
        tokenizer = self.tokenizer()
        request = Request(
            prompt=tuple(specials.prompt(tokenizer, prompt)),
            max_tokens=max_tokens,
            sampling=sampling or Sampling(),
            seed=seed,
            stop_ids=specials.of(tokenizer).ends,
        )
        (piece,) = engine.complete(self.decoder(), tokenizer, [request], slots=1)
        return piece.text


def checkpoint(folder: str | os.PathLike[str], step: int | None = None) -> Checkpoint:
    """Find a checkpoint of a run, by default the newest.

    Raises:
        UserError: the folder is not a run's, or has no such checkpoint.
    """
    folder = pathlib.Path(folder)
    refuse_no_run(folder)
    return Checkpoint(folder=folder, config=saved_config(folder), step=choose_step(folder, step))


def choose_step(folder: pathlib.Path, step: int | None) -> int:
    """Return the given step, or the newest; raise a `UserError` if there is no such checkpoint."""
    return checkpoints.choose(folder / checkpoints.FOLDER, step)


def read_record(folder: pathlib.Path, run: RunConfig, step: int) -> Record:
    """Read a checkpoint's record.

    Raises:
        UserError: the checkpoint belongs to another model or tokenizer than the run's folder holds.
    """
    record = checkpoints.read(folder / checkpoints.FOLDER, step)
    for name, wanted in identity(run.model, folder / TOKENIZER).items():
        if record.identity.get(name, wanted) != wanted:
            raise UserError(
                f"got step {step} of {folder}, which is of {name}={record.identity[name]!r}, with {wanted!r}; allowed: what it was trained "
                f"with; put back the folder's own {SAVED_CONFIG} and {TOKENIZER}"
            )
    return record


def load_model(folder: pathlib.Path, run: RunConfig, step: int, place: Callable[[Transformer], Transformer]) -> Transformer:
    """Load the weights of a checkpoint, without the optimizer state.

    Args:
        folder: the run's folder.
        run: its configuration.
        step: from `choose_step`.
        place: adds the shardings to load with to the weights' shapes.

    Raises:
        UserError: the configuration's model is not the one that was trained, or the checkpoint has another shape.
    """
    refuse_absent(run.model)
    refuse_change(folder, {"model": run.model, "mup": run.mup})
    model = jax.eval_shape(lambda: new_model(run.model, mup.at_width(run.mup, run.model.d_model), seed=0))
    belongs = identity(run.model, folder / TOKENIZER)
    arrays, _ = checkpoints.restore(folder / checkpoints.FOLDER, step, {"model": weights_of(place(model))}, belongs)
    return with_weights(model, arrays["model"])


def load_decoder(folder: pathlib.Path, run: RunConfig, step: int) -> decoder.Decoder:
    """Load a checkpoint's weights for decoding, split over all devices; arguments and errors are those of `load_model`."""
    layout = decoding.layout(run.model.d_model, run.model.num_kv_heads)
    return decoder.decoder(load_model(folder, run, step, layout.stored), layout, release=True)


def load_tokenizer(folder: pathlib.Path, vocab_size: int) -> tokenizers.Tokenizer:
    """Load the tokenizer of a run's folder.

    Raises:
        UserError: the file is missing, was not made by `tokenizer train` or `import`, or has ids for which the model has no rows.
    """
    tokenizer = load.load(folder / TOKENIZER)
    around = specials.of(tokenizer)
    ids = [*tokenizer.get_vocab(with_added_tokens=True).values(), *around.before, *around.after, *around.ends, around.bos, around.pad]
    if max(ids) >= vocab_size:
        raise UserError(
            f"got {folder / TOKENIZER} with {max(ids) + 1:,} ids for model.vocab_size={vocab_size:,}; "
            "allowed: at most as many; put back the tokenizer that the run was trained with"
        )
    return tokenizer
