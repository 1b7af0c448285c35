"""Compare our training step with transformers' Llama in PyTorch: same shapes, same batch, float32, same machine, alternating in one run.

    python benchmarks/train_step.py [--rounds 5]        (make bench)

On both sides, a step is forward, backward, clipping to norm 1 and AdamW. Prints JSON: for each shape the median tokens/s of both and
their ratio.
"""

import argparse
import dataclasses
import json
import os
import statistics
import time

import beside
import jax
import numpy as np
import torch
import transformers

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import mup
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.train import step as train_step
from teleflm_jax.train.state import new_state

SHAPES = ((beside.TINY, 8), (beside.SMALL, 4), (dataclasses.replace(beside.TINY, context_length=2048), 2))
"""Shapes, each with the sequences of a batch."""
MICROBATCH = 2
"""Our step accumulates over microbatches of two sequences, whose activations stay in the cache; every run can set this."""


def ours(config: ModelConfig, rows: np.ndarray):
    """Return a function that runs one training step and waits for it."""
    rule = mup.at_width(mup.MupConfig(), config.d_model)
    layout = rules.layout(MeshConfig(), config.d_model, jax.devices()[:1])
    state = jax.jit(lambda: new_state(config, rule, 0), out_shardings=layout.replicated())()
    step = train_step.make(OptimizerConfig(), layout, min(MICROBATCH, len(rows)))
    batch = {"tokens": rows[:, :-1], "targets": rows[:, 1:]}
    batch |= {"segments": np.ones_like(batch["tokens"]), "weights": np.ones(batch["tokens"].shape, np.float32)}
    rates = {role: (1e-3,) * train_step.RATE_CANDIDATES for role in rule.rules}
    inputs = train_step.step_inputs(layout, OptimizerConfig(), rule, rates=rates, updates=0, host_signals=(0, 0), check_copies=False)
    held = {"state": state}

    def take() -> None:
        held["state"], figures = step(held["state"], layout.place_batch(batch, len(rows)), inputs)
        jax.block_until_ready((held["state"], figures))

    return take


def theirs(config: ModelConfig, rows: np.ndarray):
    """Return the same function for PyTorch."""
    model = beside.llama(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    tokens = torch.tensor(rows[:, :-1]).long()

    def take() -> None:
        model(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return take


def compare(config: ModelConfig, batch_size: int, rounds: int) -> dict:
    """Return the median seconds of both, alternating."""
    rows = np.random.default_rng(0).integers(0, config.vocab_size, (batch_size, config.context_length + 1)).astype(np.int32)
    steps = {"ours": ours(config, rows), "transformers": theirs(config, rows)}
    seconds = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, take in steps.items():
            began = time.perf_counter()
            take()
            if turn:  # the first one compiles
                seconds[name].append(time.perf_counter() - began)
    speed = {name: batch_size * config.context_length / statistics.median(taken) for name, taken in seconds.items()}
    return {f"{name} tokens/s": round(value) for name, value in speed.items()} | {"ratio": round(speed["ours"] / speed["transformers"], 2)}


def main() -> None:
    """Print the comparison of every shape."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="steps of each side, alternating")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    versions = {
        "jax": jax.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
    }
    found = {f"{beside.describe(shape)}, {rows} x {shape.context_length:,} tokens": compare(shape, rows, rounds) for shape, rows in SHAPES}
    print(json.dumps({"versions": versions, "load": os.getloadavg()[0]} | found, indent=2))


if __name__ == "__main__":
    main()
