"""Settings of the whole suite: eight virtual CPU devices, one cache of compiled programs, and the examples that a property is tried on.

Most of a test's time would go into compiling what another test, or the run before, has compiled already. The cache is pytest's own
(`.pytest_cache`, emptied by `pytest --cache-clear`). A program is found by its HLO, the compiler's version and flags, so a change of the
code never finds a program of the code before.
"""

import os
import pathlib
import shutil

import hypothesis
import pytest

from tests import compiler, workers

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{compiler.DEVICES} {compiler.FAST_COMPILE}"

FAULT_COLUMNS = ("fault", "what the user sees", "exit code", "checkpoints")
CACHE = "JAX_COMPILATION_CACHE_DIR"
CACHE_BYTES = 2 * 1024**3
"""Beyond this the cache is emptied before a run."""
if CACHE not in os.environ:  # before a conftest of another folder imports jax, which reads it; workers and commands inherit it
    compiled = pathlib.Path(__file__).resolve().parents[1] / ".pytest_cache" / "d" / "compiled"
    if compiled.exists() and sum(file.stat().st_size for file in compiled.iterdir()) > CACHE_BYTES:
        shutil.rmtree(compiled)
    os.environ[CACHE] = str(compiled)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"

hypothesis.settings.register_profile("quick", max_examples=25, deadline=None)
hypothesis.settings.register_profile("full", max_examples=400, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


@pytest.hookimpl(trylast=True)  # after xdist has registered what it is looked for by
def pytest_configure(config):
    if config.pluginmanager.hasplugin("dsession"):
        config.pluginmanager.register(workers.Watch(float(config.getini("faulthandler_timeout") or 0)))


def pytest_terminal_summary(terminalreporter):
    """Print the table of what happened in tests/faults; here, because the process that starts the workers reads no other conftest."""
    passed = terminalreporter.stats.get("passed", [])
    lines = [value for report in passed for name, value in report.user_properties if name == "outcome"]
    for line in [FAULT_COLUMNS, ("---",) * len(FAULT_COLUMNS), *lines] if lines else ():
        terminalreporter.write_line("| " + " | ".join(line) + " |")
