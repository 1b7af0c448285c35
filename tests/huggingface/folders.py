"""A run's folder as training leaves it, for what is exported from it and imported into one."""

import pathlib

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import checkpoint, checksum, config, mup
from teleflm_jax.cli import main as commands
from teleflm_jax.cli import options
from teleflm_jax.data.config import DataConfig
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.model.transformer import Transformer
from teleflm_jax.runs.config import SAVED_CONFIG, SECTIONS, saved_config
from teleflm_jax.runs.folder import TOKENIZER, identity
from teleflm_jax.runs.load import choose_step, load_model
from teleflm_jax.train import loop
from teleflm_jax.train.config import TrainConfig
from teleflm_jax.train.state import weights_of
from tests import tiny
from tests.train import runs

VOCABULARY = 390
RATES = mup.MupConfig(base_width=8, std=0.3, matrix_std=0.4, input_multiplier=3.0, output_multiplier=2.0, learning_rate=1e-2)
"""Multipliers that are no powers of two, and a base width that is not the model's."""


def shape(**changes) -> ModelConfig:
    return tiny.config(**{"vocab_size": VOCABULARY, "context_length": 32, "loss_chunk_tokens": ModelConfig.loss_chunk_tokens} | changes)


def write(folder: pathlib.Path, shape: ModelConfig, rates: mup.MupConfig, tokenizer: str, model: Transformer | None = None) -> pathlib.Path:
    """Make the folder, with the model's weights at step 5; without a model, weights that were trained for 8 steps."""
    folder.mkdir(parents=True)
    given = {"model": shape, "mup": rates, "train": TrainConfig(steps=8, batch_size=24)}
    given["data"] = DataConfig(tokenizer="gone.json", packed="gone", proportions={"web": 1.0})
    rest = {name: cls() for name, cls in SECTIONS.items() if name not in given}
    (folder / SAVED_CONFIG).write_text(config.dump(given | rest), encoding="utf-8")
    (folder / TOKENIZER).write_text(tokenizer, encoding="utf-8")
    if model is None:
        loop.train(runs.plan(folder, shape, rules.layout(MeshConfig(tensor=2), shape.d_model), steps=8, rates=rates))
        return folder
    arrays = {"model": weights_of(model)}
    record = checkpoint.Record(counters={"updates": 5}, identity=identity(shape, folder / TOKENIZER))
    with checkpoint.writer(folder / checkpoint.FOLDER, checkpoint.Retention(last=1, every=0, best=0)) as writer:
        writer.save(5, arrays, record, checksum.of_tree(arrays)[0])
    return folder


def call(*arguments: object) -> int:
    """Run a command of `python -m teleflm_jax`."""
    return options.run_command(lambda: commands.main([*map(str, arguments)]))


def load(folder: pathlib.Path) -> Transformer:
    """The newest model of a run's folder, and its place on eight devices."""
    run = saved_config(folder)
    layout = rules.layout(MeshConfig(zero=3), run.model.d_model)
    return load_model(folder, run, choose_step(folder, None), layout.stored)
