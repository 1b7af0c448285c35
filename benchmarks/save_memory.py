"""Measure the host memory of a save beyond the arrays, as a multiple of their size, and the time for which it blocks its caller."""

import argparse
import json
import pathlib
import tempfile
import time

import jax

from teleflm_jax import checkpoint, checksum


def main():
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1_000, help="size of the arrays (%(default)s)")
    args = parser.parse_args()
    rows = args.megabytes * 1_000_000 // 4 // 10 // 1024
    arrays = {"model": {f"x{i}": jax.random.normal(jax.random.key(i), (rows, 1024)) for i in range(10)}}
    size = sum(x.nbytes for x in jax.tree.leaves(arrays))
    with tempfile.TemporaryDirectory() as folder:
        retention = checkpoint.Retention(last=1, every=0, best=0)
        with checkpoint.writer(pathlib.Path(folder) / "checkpoints", retention) as writer:
            sums, _ = checksum.of_tree(arrays)
            for step in (1, 2):
                jax.block_until_ready(arrays)
                pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
                before, began = _kilobytes("VmRSS"), time.perf_counter()
                writer.save(step, arrays, checkpoint.Record(counters={}), sums)
                blocked = time.perf_counter() - began
                writer.wait()
                peak = _kilobytes("VmHWM")
                found = {"save": step, "array_bytes": size, "extra_of_arrays": round((peak - before) * 1024 / size, 3)}
                print(json.dumps(found | {"blocked_seconds": round(blocked, 3), "seconds": round(time.perf_counter() - began, 3)}))


def _kilobytes(name: str) -> int:
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


if __name__ == "__main__":
    main()
