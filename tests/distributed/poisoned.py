"""One process of two: a run over a pipeline of both, of which one batch is not finite."""

import contextlib
import dataclasses
import os
import pathlib
import sys

import numpy as np

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.distributed import processes
from teleflm_jax.train import loop
from tests import tiny
from tests.train import runs

process = processes.find(os.environ)
processes.join(process)
config = tiny.config(num_layers=4)
plan = runs.plan(pathlib.Path(sys.argv[1]), config, rules.layout(MeshConfig(pipe=2), config.d_model), steps=6)


@contextlib.contextmanager
def batches(first, history):
    """The fourth is broken."""
    drawn = (
        runs.batch(config, step) | ({"weights": np.full((runs.ROWS, 16), np.nan, np.float32)} if step == 3 else {})
        for step in range(first, 99)
    )
    yield drawn


done = loop.train(dataclasses.replace(plan, batches=batches)).outcome == loop.Outcome.COMPLETED
sys.exit(processes.leave(0 if done else 1, process))
