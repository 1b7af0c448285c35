"""What commands read from a run's folder: its configuration, a checkpoint's weights as a model, the tokenizer they were trained with."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence

import jax
import tokenizers

from sharding import decoding
from teleflm_jax import checkpoint, config, mup
from teleflm_jax.cli import options
from teleflm_jax.errors import UserError
from teleflm_jax.generate import decoder
from teleflm_jax.model.attention import refuse_absent
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.tokenizer import load, specials
from teleflm_jax.train.state import new_model, weights_of, with_weights

TOKENIZER = "tokenizer.json"
FREE = {
    "model": ("remat", "attention", "loss_chunk_tokens"),
    "data": ("tokenizer", "packed", "sources", "max_epochs", "proportions", "change_proportions"),
    "train": ("steps", "microbatch_size", "eval_every", "suite_every", "eval_bytes")
    + ("checkpoint_every", "keep_last", "keep_every", "keep_best"),
}
"""Fields that may change when a run goes on (of the tokenizer its path, not its content; proportions if `change_proportions` says so).
A run goes on with its own copy of the tokenizer."""
BRANCH_FREE = {
    **FREE,
    "optimizer": tuple(field.name for field in dataclasses.fields(OptimizerConfig)),
    "mup": ("learning_rate", "matrix_learning_rate", "minimum_learning_rate", "matrix_minimum_learning_rate"),
    "train": (*FREE["train"], "init_from", "init_optimizer", "seed"),
}
"""Fields in which a branch (`train.init_optimizer`) may differ from its parent; the seed made the parent's initial weights."""
NEW_RUN = (
    "start a new run in another --workdir (train.init_from takes over the weights, and with train.init_optimizer = True a branch goes on "
    "under other optimizer.* settings)"
)
"""Remedy for a setting that may not change in a run's own folder."""
NO_BRANCH = "remove train.init_optimizer to start with a new optimizer"
"""Remedy for a setting that may not change in a branch."""


def configuration(folder: pathlib.Path) -> options.Run:
    """What a run was trained with; of an imported model without `data` and `train`.

    Raises:
        UserError: the saved configuration is damaged.
    """
    saved = str(folder / options.SAVED_CONFIG)
    found = config.parse([saved], [], options.SECTIONS, ("data", "train"), withhold=options.WITHHOLD, saved=saved)
    return options.Run(**options.absolute(found))


def refuse_change(
    folder: pathlib.Path, sections: Mapping[str, object], free: Mapping[str, Sequence[str]] = FREE, otherwise: str = NEW_RUN
) -> None:
    """Hold sections of a configuration against those that the run was trained with.

    Args:
        folder: the run's folder, with its saved configuration.
        sections: by name; those that say nothing of the numbers, such as `mesh`, are not compared.
        free: fields that may differ, by section.
        otherwise: what to do instead of changing the field back.

    Raises:
        UserError: a field differs that is not in `free`.
    """
    saved = configuration(folder)
    for section in sections.keys() & {"model", "mup", "optimizer", "data", "train"}:
        for field in dataclasses.fields(sections[section]):
            old, new = getattr(getattr(saved, section), field.name), getattr(sections[section], field.name)
            if _compared(field.name, old) != _compared(field.name, new) and field.name not in free.get(section, ()):
                raise UserError(
                    f"got {section}.{field.name}={new!r}, where the run in {folder} has {old!r}; allowed: the same as it was trained with; "
                    f"change it back, or {otherwise}"
                )


def _compared(field: str, value: object) -> object:
    """Reduce a field to the part that must stay.

    The parent of `train.init_from` is not read any more and may have moved: of its path, the name and the step must stay.
    """
    return pathlib.PurePath(value).name if field == "init_from" and value else value


def identity(model: ModelConfig, tokenizer: pathlib.Path) -> dict[str, object]:
    """What a checkpoint's arrays belong to: numbers of the model that no shape shows, and the meaning of its ids."""
    shape = {f"model.{field.name}": getattr(model, field.name) for field in dataclasses.fields(model) if field.name not in FREE["model"]}
    return shape | {"tokenizer": load.sha256(str(tokenizer))}


def choose_step(folder: pathlib.Path, step: int | None) -> int:
    """The given step, or the newest; raises a `UserError` if there is no such checkpoint."""
    return checkpoint.choose(folder / checkpoint.FOLDER, step)


def read_record(folder: pathlib.Path, run: options.Run, step: int) -> checkpoint.Record:
    """A checkpoint's record.

    Raises:
        UserError: it is of a model of other numbers, or of another tokenizer, than the run's folder has.
    """
    record = checkpoint.read(folder / checkpoint.FOLDER, step)
    for name, wanted in identity(run.model, folder / TOKENIZER).items():
        if record.identity.get(name, wanted) != wanted:
            raise UserError(
                f"got step {step} of {folder}, which is of {name}={record.identity[name]!r}, with {wanted!r}; allowed: what it was trained "
                f"with; put back the folder's own {options.SAVED_CONFIG} and {TOKENIZER}"
            )
    return record


def load_model(folder: pathlib.Path, run: options.Run, step: int, place: Callable[[Transformer], Transformer]) -> Transformer:
    """Load the weights of a checkpoint; the optimizer's state is left on disk.

    Args:
        folder: the run's folder.
        run: its configuration.
        step: of the checkpoint, from `choose_step`.
        place: gives the weights' shapes the shardings to load them with.

    Raises:
        UserError: the configuration's model is not the one that was trained, or the checkpoint has another shape.
    """
    refuse_absent(run.model)
    refuse_change(folder, {"model": run.model, "mup": run.mup})
    model = jax.eval_shape(lambda: new_model(run.model, mup.at_width(run.mup, run.model.d_model), seed=0))
    belongs = identity(run.model, folder / TOKENIZER)
    arrays, _ = checkpoint.restore(folder / checkpoint.FOLDER, step, {"model": weights_of(place(model))}, belongs)
    return with_weights(model, arrays["model"])


def load_decoder(folder: pathlib.Path, run: options.Run, step: int) -> decoder.Decoder:
    """A checkpoint's weights laid out for decoding over all devices that are here; arguments and errors as of `load_model`."""
    layout = decoding.layout(run.model.d_model, run.model.num_kv_heads)
    return decoder.decoder(load_model(folder, run, step, layout.stored), layout, release=True)


def load_tokenizer(folder: pathlib.Path, vocab_size: int) -> tokenizers.Tokenizer:
    """The tokenizer of a run's folder.

    Raises:
        UserError: it is missing, not ours, or has ids that the model has no rows for.
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
