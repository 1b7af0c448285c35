"""How programs are compiled in tests: fast, since most of them run once."""

DEVICES = "--xla_force_host_platform_device_count=8"
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
"""XLA's flags without LLVM's optimizer, which halves the time, and without fusions made through MLIR, which leaves a third of the rest.

JAX 0.12 always makes fusions through MLIR and ignores the second flag.
"""
