"""Devices to compile for without having them: a cluster's GPUs for XLA's GPU compiler, or as many virtual CPU devices.

`prepare` sets environment variables that jax reads when it starts, so it must run before the first use of jax in a process.
"""

import importlib.util
from collections.abc import MutableMapping

from teleflm_jax import invocation
from teleflm_jax.distributed import xla
from teleflm_jax.errors import UserError
from teleflm_jax.plan.config import ClusterConfig

GPU, CPU = "gpu", "cpu"
BACKENDS = (GPU, CPU)
PLUGINS = ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")

SHARED_MEMORY = {"8.0": (167_936, 166_912, 64), "9.0": (233_472, 232_448, 128)}
"""Compute capability -> bytes of shared memory of a multiprocessor and of a block, float32 units of a multiprocessor. Source: NVIDIA."""


TAKEN, SCHEDULED = 0.92, 0.8
"""Share of a card's memory that a process reserves (`distributed/xla.py`), and the share of the stated memory that the compiler uses."""


def has_gpu_compiler() -> bool:
    """Return True if jax's CUDA wheels are installed; they compile without a GPU."""
    return importlib.util.find_spec("jax_plugins") is not None and any(importlib.util.find_spec(name) is not None for name in PLUGINS)


def choose(backend: str | None, cluster: ClusterConfig) -> str:
    """Return the compiler to use: the requested one, or the best that is installed.

    Raises:
        UserError: the GPU compiler is requested and is not installed, or does not know the card.
    """
    if backend == GPU and not has_gpu_compiler():
        raise UserError(
            "got --backend gpu without jax's CUDA wheels; allowed: gpu where they are installed (no GPU is needed), cpu everywhere; "
            f"change it to --backend cpu, or {invocation.install('gpu')}"
        )
    if backend == GPU and cluster.compute_capability not in SHARED_MEMORY:
        raise UserError(
            f"got cluster.compute_capability={cluster.compute_capability!r} with --backend gpu; allowed: {', '.join(SHARED_MEMORY)}; "
            "change cluster.compute_capability or --backend"
        )
    return backend or (GPU if has_gpu_compiler() and cluster.compute_capability in SHARED_MEMORY else CPU)


def prepare(backend: str, count: int, environment: MutableMapping[str, str]) -> None:
    """Make jax start without this machine's devices: with `count` virtual ones for the CPU compiler, with one CPU for the GPU compiler."""
    environment["JAX_PLATFORMS"] = "cpu"
    environment.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the compiler's warnings name no remedy that a plan does not
    if backend == CPU:
        flags = f"--xla_force_host_platform_device_count={count}"
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {flags}".strip()
        return
    environment["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"
    # the settings that `launch` trains under; without a GPU nothing can be tuned on it
    environment["XLA_FLAGS"] = xla.settings(environment)["XLA_FLAGS"] + " --xla_gpu_autotune_level=0"


def devices(backend: str, count: int, cluster: ClusterConfig) -> list:
    """Return `count` devices of the cluster, node by node."""
    import jax
    from jax.experimental import topologies

    if backend == CPU:
        return jax.devices()[:count]
    per_node = min(count, cluster.gpus_per_node)
    topology = f"1x{-(-count // per_node)}x{per_node}"
    found = topologies.get_topology_desc(platform="cuda", target_config=_target(cluster), topology=topology)
    return list(found.devices)[:count]


def _target(cluster: ClusterConfig) -> str:
    """Return the card as the compiler's `xla.GpuTargetConfigProto` in text form."""
    major, minor = cluster.compute_capability.split(".")
    per_core, per_block, units = SHARED_MEMORY[cluster.compute_capability]
    capability = f"major: {major}" + (f" minor: {minor}" if minor != "0" else "")
    return f"""gpu_device_info {{ threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
shared_memory_per_core: {per_core} threads_per_core_limit: 2048 core_count: {cluster.cores} fpus_per_core: {units}
block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: {int(cluster.memory_rate)}
l2_cache_size: {cluster.cache_bytes} clock_rate_ghz: {cluster.clock_ghz} device_memory_size: {int(cluster.memory_bytes * TAKEN / SCHEDULED)}
shared_memory_per_block_optin: {per_block} cuda_compute_capability {{ {capability} }}
registers_per_core_limit: 65536 registers_per_block_limit: 65536 }}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }} device_description_str: "{_plain(cluster.gpu)}" """


def _plain(name: str) -> str:
    """Return a name without characters that could end a quoted string."""
    return "".join(character for character in name if character.isalnum() or character in " -_.")
