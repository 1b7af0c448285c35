"""Sends a real server what its own OpenAPI description allows and forbids, by schemathesis, and holds its answers against that description.

Usage: python tests/fuzz/server.py [--seconds 900] [--schemathesis schemathesis]; `make fuzz-server`
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from teleflm_jax.generate.engine import Engine  # noqa: E402
from tests.serve import servers  # noqa: E402

CONTEXT = 64


def main() -> int:
    """Return schemathesis's exit code, or 1 where the server has not withstood it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=900)
    parser.add_argument("--schemathesis", default=str(pathlib.Path(sys.executable).with_name("schemathesis")), help="the command")
    parser.add_argument("--seed", type=int, help="of an earlier run")
    args = parser.parse_args()
    settings = pathlib.Path(__file__).with_name("schemathesis.toml")
    with tempfile.TemporaryDirectory() as folder:
        served = servers.tiny_served(pathlib.Path(folder), context_length=CONTEXT)
        weights = servers.tiny_weights(context_length=CONTEXT)
        with servers.running(served, lambda: Engine(weights, served.tokenizer, slots=4), slots=4) as running:
            command = [args.schemathesis, f"--config-file={settings}", "run", f"{running.url}/openapi.json", f"--max-time={args.seconds}"]
            command += ["--continue-on-failure", "--request-timeout=600", *([] if args.seed is None else [f"--seed={args.seed}"])]
            code = subprocess.run(command, cwd=folder, check=False).returncode
            servers.until(lambda: running.service.engine_thread.load == 0)
            engine_thread, counted = running.service.engine_thread, running.service.metrics.text().decode()
    print("\n".join(line for line in counted.splitlines() if line.startswith(("teleflm_requests_total", "teleflm_connections"))))
    print(f"engine failures: {engine_thread.failures} {engine_thread.last_failure}")
    return code or int(engine_thread.failures > 0)


if __name__ == "__main__":
    sys.exit(main())
