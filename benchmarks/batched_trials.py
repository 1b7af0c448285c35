"""Several narrow trials as one program: `vmap` of the training step over states and hyper-parameters, compared with each trial's own step.

Usage: python benchmarks/batched_trials.py [--width 128] [--trials 4] [--steps 20]

Prints one JSON line: tokens a second of both, and the largest relative difference of the losses.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax import mup
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.train import restore
from teleflm_jax.train import step as train_step
from teleflm_jax.train.state import factors

ROWS, LENGTH, VOCABULARY = 16, 128, 2048
ROUNDS = 3


def main() -> None:
    """Time both ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--trials", type=int, default=4)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    model = ModelConfig(
        num_layers=4,
        d_model=args.width,
        num_heads=args.width // 32,
        num_kv_heads=args.width // 32,
        d_ff=args.width * 5 // 2,
        vocab_size=VOCABULARY,
        context_length=LENGTH,
    )
    layout, optimizer = rules.layout(MeshConfig(), model.d_model, jax.devices()[:1]), OptimizerConfig()
    rates = [1e-3 * 2**i for i in range(args.trials)]
    widths = [mup.at_width(mup.MupConfig(base_width=args.width, matrix_learning_rate=rate), args.width) for rate in rates]
    inputs = [
        train_step.step_inputs(
            layout,
            optimizer,
            width,
            rates={role: (rule.learning_rate,) * train_step.RATE_CANDIDATES for role, rule in width.rules.items()},
            updates=0,
            host_signals=(0, 0),
            check_copies=False,
        )
        for width in widths
    ]
    step = train_step.make(optimizer, layout, ROWS)
    batched = jax.jit(jax.vmap(step, in_axes=(0, None, 0)), donate_argnums=0)
    initial = restore.initializer(model, layout)
    start = lambda: [initial(factors(width), jax.random.key(seed)) for seed, width in enumerate(widths)]  # noqa: E731
    stack = lambda trees: jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)  # noqa: E731
    batches = [layout.place_batch(_batch(seed), ROWS) for seed in range(args.steps)]

    def alone(states: list, batch: Any) -> tuple[list, list]:
        found = [step(state, batch, own) for state, own in zip(states, inputs, strict=True)]
        return [state for state, _ in found], [outputs["loss"] for _, outputs in found]

    def together(states: Any, batch: Any) -> tuple[Any, jax.Array]:
        states, outputs = batched(states, batch, stack(inputs))
        return states, outputs["loss"]

    found = {"alone": [], "together": []}
    for turn in range(ROUNDS + 1):
        for name, take, states in (("alone", alone, start()), ("together", together, stack(start()))):
            seconds, losses = _timed(take, states, batches)
            if turn:  # the first one compiles
                found[name].append((seconds, losses))
    tokens = ROWS * LENGTH * args.trials * args.steps
    speed = {name: round(tokens / min(seconds for seconds, _ in runs)) for name, runs in found.items()}
    difference = np.abs(found["together"][0][1] / found["alone"][0][1] - 1).max()
    print(
        json.dumps(
            {"width": args.width, "trials": args.trials, "tokens_per_second": speed, "largest_relative_difference": float(difference)}
        )
    )


def _timed(take: Callable[[Any, Any], tuple[Any, Any]], states: Any, batches: Sequence[Any]) -> tuple[float, np.ndarray]:
    """Return the seconds and the losses of steps on these batches."""
    began, losses = time.perf_counter(), []
    for batch in batches:
        states, loss = take(states, batch)
        losses.append(jax.device_get(loss))
    return time.perf_counter() - began, np.array(losses)


def _batch(seed: int) -> dict[str, np.ndarray]:
    rows = np.random.default_rng(seed).integers(0, VOCABULARY, (ROWS, LENGTH + 1)).astype(np.int32)
    batch = {"tokens": rows[:, :-1], "targets": rows[:, 1:], "segments": np.ones((ROWS, LENGTH), np.int32)}
    return batch | {"weights": np.ones((ROWS, LENGTH), np.float32)}


if __name__ == "__main__":
    main()
