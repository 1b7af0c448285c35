"""XLA's settings for GPUs, each with its reason; the launcher applies them, and the user's own settings override them.

None of them is set on a CPU. Sources: the recipes of MaxText and JAX-Toolbox, whose runs of this size reach about half of the peak; not yet
measured by us on many GPUs.
"""

import glob
import os
import pathlib
from collections.abc import Mapping

from teleflm_jax.errors import UserError

CACHE_DIR = "JAX_COMPILATION_CACHE_DIR"
ROOT = 0
"""User id that may write anywhere."""
CACHE_SECONDS = 0.1
"""Compile time in seconds from which on a program is cached."""

FLAGS = {
    "xla_gpu_enable_latency_hiding_scheduler": ("true", "runs collectives beside the computation that does not need them"),
    "xla_gpu_all_gather_combine_threshold_bytes": ("2147483648", "few large gathers of weights before the microbatches, not one a weight"),
    "xla_gpu_reduce_scatter_combine_threshold_bytes": ("2147483648", "the same for gradients after the microbatches"),
    "xla_gpu_all_reduce_combine_threshold_bytes": ("2147483648", "the same for gradients that are not split"),
    "xla_gpu_experimental_parallel_collective_overlap_limit": ("2", "gathers over data beside the collectives over tensor, not between"),
    "xla_gpu_enable_pipelined_p2p": ("true", "sends activations between stages during the next unit's work"),
    "xla_gpu_enable_command_buffer": ("", "off: CUDA graphs break up overlapped collectives and cost memory"),
    "xla_gpu_nccl_termination_timeout_seconds": ("600", "a collective that waits for a lost process fails instead of waiting for ever"),
    "xla_gpu_enable_triton_gemm": ("false", "cuBLAS is faster on large products, and needs no search at the start"),
}
"""Flag -> (value, reason)."""
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_MEM_FRACTION": ("0.92", "of the GPU's memory at once; the rest is NCCL's and cuDNN's"),
    "CUDA_DEVICE_MAX_CONNECTIONS": ("1", "launches kernels in program order, so that collectives start on time"),
    "NCCL_NVLS_ENABLE": ("0", "its buffers cost memory that a tight layout does not have"),
    CACHE_DIR: ("~/.cache/teleflm_jax/xla", "a restarted run does not compile again"),
}
"""Variable -> (value, reason)."""


def gpu_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return variables to add to a process's environment; none without a GPU, or if jax is to use another platform."""
    if (environment.get("JAX_PLATFORMS") or "cuda").split(",")[0] not in ("cuda", "gpu") or not glob.glob("/dev/nvidia[0-9]*"):
        return {}
    return settings(environment)


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables for a machine with GPUs; those that `environment` sets stay, and so do its XLA_FLAGS."""
    flags = [f"--{name}={value}" for name, (value, _) in FLAGS.items()]
    added = {name: os.path.expanduser(value) for name, (value, _) in ENVIRONMENT.items() if name not in environment}
    return added | {"XLA_FLAGS": " ".join([*flags, environment.get("XLA_FLAGS", "")]).strip()}


def keep_programs(environment: Mapping[str, str]) -> pathlib.Path | None:
    """Have JAX cache compiled programs across restarts, in the user's own folder unless the environment names another (empty: none).

    They are code: a user who may write to the folder decides what the next process runs.

    Returns:
        The folder.

    Raises:
        UserError: it cannot be made, or another user may write to it.
    """
    if (named := environment.get(CACHE_DIR)) == "":
        return None
    home = pathlib.Path(environment.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = pathlib.Path(named).expanduser() if named else home / "teleflm_jax" / "xla"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except (OSError, RuntimeError) as error:
        raise UserError(f"got {folder} for compiled programs ({error}); allowed: a folder of your own; set {CACHE_DIR}") from error
    if status.st_uid not in (os.geteuid(), ROOT) or status.st_mode & 0o022 or not os.access(folder, os.W_OK):
        raise UserError(
            f"got {folder} for compiled programs, to which others may write or you may not; allowed: a folder of your own (chmod 700); "
            f"change that, or set {CACHE_DIR} to another (empty: none)"
        )
    import jax  # here, since the launcher does not need jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", CACHE_SECONDS)
    return folder
