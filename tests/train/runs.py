"""A training run on random tokens, for tests of the loop and of meshes."""

import contextlib
import pathlib

import numpy as np

from sharding import rules
from teleflm_jax import mup
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.train import loop
from teleflm_jax.train.config import TrainConfig
from tests import tiny

ROWS = 24


def plan(folder: pathlib.Path, config: ModelConfig, layout: rules.Layout, *, steps: int, rates: mup.MupConfig = tiny.WIDE, **train):
    """`steps` updates of 24 rows, the same whatever the mesh; by default in microbatches of one row of each group."""

    @contextlib.contextmanager
    def batches(first, history):
        yield (batch(config, step) for step in range(first, steps))

    folder.mkdir(exist_ok=True)
    settings = {"batch_size": ROWS, "microbatch_size": 1, "checkpoint_every": 1_000} | train
    return loop.Plan(
        folder=folder,
        model=config,
        mup=mup.at_width(rates, config.d_model),
        optimizer=OptimizerConfig(warmup_steps=5, decay_tokens=20 * ROWS * config.context_length),
        train=TrainConfig(steps=steps, **settings),
        layout=layout,
        batches=batches,
    )


def batch(config: ModelConfig, step: int) -> dict[str, np.ndarray]:
    """Rows in which each token decides the next, up to a little noise, so that there is something to learn."""
    random = np.random.default_rng(step)
    rows = (random.integers(0, config.vocab_size, (ROWS, 1)) + 7 * np.arange(config.context_length + 1)) % config.vocab_size
    rows = np.where(random.random(rows.shape) < 0.1, random.integers(0, config.vocab_size, rows.shape), rows).astype(np.int32)
    shape = (ROWS, config.context_length)
    return {"tokens": rows[:, :-1], "targets": rows[:, 1:], "segments": np.ones(shape, np.int32), "weights": np.ones(shape, np.float32)}
