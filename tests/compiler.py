"""How programs are compiled in tests: fast, since most of them run once."""

DEVICES = "--xla_force_host_platform_device_count=8"
FAST_COMPILE = "--xla_backend_optimization_level=0"
"""XLA's flags without LLVM's optimizer, which halves the time."""
