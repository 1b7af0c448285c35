"""XLA's settings for GPUs, in one place, each with its reason; the launcher applies them, the user's own come after them and win.

Nothing is set on a CPU. Sources: the recipes of MaxText and JAX-Toolbox, whose runs of this size reach about half of the peak; not yet
measured by us on many GPUs.
"""

import glob
import os.path
from collections.abc import Mapping

FLAGS = {
    "xla_gpu_enable_latency_hiding_scheduler": ("true", "runs collectives beside the computation that does not need them"),
    "xla_gpu_all_gather_combine_threshold_bytes": ("2147483648", "few large gathers of weights before the microbatches, not one a weight"),
    "xla_gpu_reduce_scatter_combine_threshold_bytes": ("2147483648", "the same for gradients after them"),
    "xla_gpu_all_reduce_combine_threshold_bytes": ("2147483648", "the same for what is not split"),
    "xla_gpu_experimental_parallel_collective_overlap_limit": ("2", "gathers over data beside the collectives over tensor, not between"),
    "xla_gpu_enable_pipelined_p2p": ("true", "hands activations over between stages during the next unit's work"),
    "xla_gpu_enable_command_buffer": ("", "off: CUDA graphs break up overlapped collectives and cost memory"),
    "xla_gpu_nccl_termination_timeout_seconds": ("600", "a collective that waits for a lost process fails, instead of never"),
    "xla_gpu_enable_triton_gemm": ("false", "cuBLAS is faster on large products, and needs no search at start"),
}
"""Flag -> (value, reason)."""
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_MEM_FRACTION": ("0.92", "of the GPU's memory at once; the rest is NCCL's and cuDNN's"),
    "CUDA_DEVICE_MAX_CONNECTIONS": ("1", "launches kernels in program order, so that collectives start when they are meant to"),
    "NCCL_NVLS_ENABLE": ("0", "its buffers cost memory that a tight layout has not"),
    "JAX_COMPILATION_CACHE_DIR": ("~/.cache/teleflm_jax/xla", "a restarted run does not compile again"),
}
"""Variable -> (value, reason)."""


def gpu_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables to add to a process's environment; none where there is no GPU or jax is told to use another platform."""
    if (environment.get("JAX_PLATFORMS") or "cuda").split(",")[0] not in ("cuda", "gpu") or not glob.glob("/dev/nvidia[0-9]*"):
        return {}
    return settings(environment)


def settings(environment: Mapping[str, str]) -> dict[str, str]:
    """The same for a machine that has GPUs; what `environment` sets already stays, a flag in its XLA_FLAGS as well."""
    flags = [f"--{name}={value}" for name, (value, _) in FLAGS.items()]
    added = {name: os.path.expanduser(value) for name, (value, _) in ENVIRONMENT.items() if name not in environment}
    return added | {"XLA_FLAGS": " ".join([*flags, environment.get("XLA_FLAGS", "")]).strip()}
