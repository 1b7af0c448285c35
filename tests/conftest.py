"""Settings of the whole suite: eight virtual CPU devices, for meshes of 1, 2, 4 and 8, and one cache of compiled programs.

Most of a test's time would go into compiling what another test has compiled already. The cache begins empty and is removed at the end.
"""

import os
import shutil
import tempfile

import pytest

from tests import workers

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"

FAULT_COLUMNS = ("fault", "what the user sees", "exit code", "checkpoints")
CACHE = "JAX_COMPILATION_CACHE_DIR"
_ours = None
if CACHE not in os.environ:  # the process that starts the workers makes it, they and their children find it
    os.environ[CACHE] = _ours = tempfile.mkdtemp(prefix="teleflm_jax_tests_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"


@pytest.hookimpl(trylast=True)  # after xdist has registered what it is looked for by
def pytest_configure(config):
    if config.pluginmanager.hasplugin("dsession"):
        config.pluginmanager.register(workers.Watch(float(config.getini("faulthandler_timeout") or 0)))


def pytest_unconfigure():
    if _ours:
        shutil.rmtree(_ours, ignore_errors=True)


def pytest_terminal_summary(terminalreporter):
    """Print the table of what happened in tests/faults; here, because the process that starts the workers reads no other conftest."""
    passed = terminalreporter.stats.get("passed", [])
    lines = [value for report in passed for name, value in report.user_properties if name == "outcome"]
    for line in [FAULT_COLUMNS, ("---",) * len(FAULT_COLUMNS), *lines] if lines else ():
        terminalreporter.write_line("| " + " | ".join(line) + " |")
