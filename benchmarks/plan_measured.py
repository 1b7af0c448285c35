"""Compare the memory and step time that `plan` predicts for a run with those of real steps on this machine's devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/plan_measured.py --gin_file F      on a CPU, 8 devices
    python benchmarks/plan_measured.py --gin_file configs/runs/pretrain_1b.gin                              on a GPU

Prints JSON. The memory of the state is the sum of live buffers. The peak is the allocator's on a GPU, counted from the start; on a CPU,
where all devices share one process, it is the growth of the process's peak resident memory during a step. Tokens are random.
"""

import argparse
import json
import pathlib
import statistics
import time

import jax
import numpy as np

from sharding import rules
from teleflm_jax import mup
from teleflm_jax.cli import options
from teleflm_jax.plan import estimate
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.train import step as train_step
from teleflm_jax.train.state import new_state

STEPS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_arguments(parser)
    run = options.load(parser.parse_args(), optional=("data",))
    layout, width = rules.layout(run.mesh, run.model.d_model), mup.at_width(run.mup, run.model.d_model)
    ask = estimate.PlanRequest(run=run, **estimate.this_machine(), gpus=jax.device_count(), backend=estimate.HERE)
    plan = estimate.own_layout(ask)["layouts"][0]

    build = lambda: layout.to_runtime(new_state(run.model, width, 0))  # noqa: E731
    state = jax.jit(build, out_shardings=layout.shardings(jax.eval_shape(build)))()
    live = sum(x.addressable_shards[0].data.nbytes for x in jax.tree.leaves(state))
    batch = layout.place_batch(_batch(run), run.train.batch_size)
    rates = {role: (1e-4,) * train_step.RATE_CANDIDATES for role in width.rules}
    inputs = train_step.step_inputs(layout, run.optimizer, width, rates=rates, updates=0, host_signals=(0, 0), check_copies=False)
    microbatch = train_step.microbatch(run.model, run.train, layout)
    step = train_step.make(run.optimizer, layout, microbatch, run.train.accumulation_dtype)
    step = step.lower(state, batch, inputs).compile()  # so that compilation is not counted
    before = _resident_after_reset()
    seconds = []
    for _ in range(STEPS):
        began = time.perf_counter()
        state, figures = step(state, batch, inputs)
        jax.block_until_ready(figures)
        seconds.append(time.perf_counter() - began)
    device = jax.devices()[0]
    stats = device.memory_stats() or {}
    grown = (_peak_resident() - before) / jax.local_device_count()
    print(
        json.dumps(
            {
                "device": device.device_kind,
                "devices": jax.device_count(),
                "mesh": dict(layout.mesh.shape),
                "predicted_bytes": {"closed_form": plan["memory"]["closed_form"]["total"], "compiler": plan["memory"]["compiled"]["total"]},
                "predicted_temporary_bytes": plan["memory"]["compiled"]["total"] - plan["memory"]["compiled"]["state"],
                "measured_peak_bytes": stats.get("peak_bytes_in_use"),
                "measured_temporary_bytes": None if stats else grown,
                "predicted_state_bytes": plan["memory"]["compiled"]["state"],
                "measured_state_bytes": live,
                "predicted_step_seconds": plan["seconds"]["step"],
                "measured_step_seconds": statistics.median(seconds[1:]),
                "tokens_per_second": run.train.batch_size * run.model.context_length / statistics.median(seconds[1:]),
            }
        )
    )


def _batch(run: RunConfig) -> dict[str, np.ndarray]:
    shape = (run.train.batch_size, run.model.context_length)
    tokens = np.random.default_rng(0).integers(0, run.model.vocab_size, shape, dtype=np.int32)
    ones = np.ones(shape, np.int32)
    return {"tokens": tokens, "targets": np.roll(tokens, -1, axis=1), "segments": ones, "weights": ones.astype(np.float32)}


def _resident_after_reset() -> int:
    """Reset the process's peak resident memory to its present size, and return that."""
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return _peak_resident()


def _peak_resident() -> int:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    main()
