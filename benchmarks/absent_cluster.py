"""Compile a run's training step for GPUs that are not here, and print what the compiler says it needs.

    python benchmarks/absent_cluster.py --gin_file configs/runs/pretrain_52b.gin     (needs jax's CUDA plugin, but no GPU)

Prints JSON: seconds to compile, and per device the bytes of the state, of temporary arrays and of their sum.
"""

import argparse
import json
import os
import sys
import time

from sharding import xla

os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
os.environ["JAX_PLATFORMS"] = "cpu"
# without a GPU nothing can be tuned on it
os.environ["XLA_FLAGS"] = xla.settings(os.environ)["XLA_FLAGS"] + " --xla_gpu_autotune_level=0"

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from sharding import mesh, rules
from teleflm_jax import mup
from teleflm_jax.cli import options
from teleflm_jax.optim import optimizer as update_rule
from teleflm_jax.train import step as train_step
from teleflm_jax.train.state import new_state

A800 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: 167936 threads_per_core_limit: 2048 core_count: 108 fpus_per_core: 64 block_dim_limit_x: 2147483647
block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 2039000000000 l2_cache_size: 41943040 clock_rate_ghz: 1.41
device_memory_size: 85100000000 shared_memory_per_block_optin: 166912 cuda_compute_capability { major: 8 }
registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } device_description_str: "NVIDIA A800-SXM4-80GB" """
"""The compiler's description of an A800 (or A100) with 80 GB."""


def main() -> None:
    """Compile and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_arguments(parser)
    parser.add_argument("--text", metavar="FILE", help="write the compiled program there")
    args = parser.parse_args()
    run = options.load(args, optional=("data",))
    count = run.mesh.data * run.mesh.pipe * run.mesh.tensor
    if not count:
        sys.exit("error: got mesh.data=0; allowed: the number of data-parallel groups, as no device is here to count; set mesh.data")
    topology = topologies.get_topology_desc(platform="cuda", target_config=A800, topology=f"1x{max(1, count // 8)}x{min(8, count)}")
    layout = rules.layout(run.mesh, run.model.d_model, list(topology.devices))
    width = mup.at_width(run.mup, run.model.d_model)
    optimizer = update_rule.make(run.optimizer, width)
    state = jax.eval_shape(lambda: layout.physical(new_state(run.model, width, optimizer, 0)))
    placed = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, layout.shardings(state))
    rows = jax.sharding.NamedSharding(layout.mesh, rules.BATCH)
    shape = (run.train.batch_size, run.model.context_length)
    batch = {name: jax.ShapeDtypeStruct(shape, jnp.int32, sharding=rows) for name in ("tokens", "targets", "segments")}
    batch["weights"] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=rows)
    every_device = jax.sharding.NamedSharding(layout.mesh, jax.sharding.PartitionSpec(mesh.AXES))
    flags = jax.ShapeDtypeStruct((count,), jnp.int32, sharding=every_device)
    rates = {role: jax.ShapeDtypeStruct((), jnp.float32, sharding=layout.replicated()) for role in width.rules}
    microbatch = rules.microbatch(run.train.batch_size, run.train.microbatch_size, layout)
    began = time.perf_counter()
    compiled = train_step.make(optimizer, layout, microbatch, run.train.accumulation_dtype).lower(placed, batch, rates, flags).compile()
    memory = compiled.memory_analysis()
    if args.text:
        with open(args.text, "w") as file:
            file.write(compiled.as_text())
    print(
        json.dumps(
            {
                "devices": count,
                "compile_seconds": round(time.perf_counter() - began, 1),
                "state_gb": memory.argument_size_in_bytes / 1e9,
                "temporary_gb": memory.temp_size_in_bytes / 1e9,
                "peak_gb": (memory.argument_size_in_bytes + memory.temp_size_in_bytes) / 1e9,
            }
        )
    )


if __name__ == "__main__":
    main()
