"""Train the 80k tokenizer on 120 MB of real text as a user would, and print seconds, peak memory and tokens per byte as JSON.

    python examples/debian_text.py --out data/text-large --set large
    python benchmarks/tokenizer.py --text data/text-large

Targets: less than 120 s and 3 GB on two cores; at most 0.25 (English), 0.24 (Chinese) and 0.24 (code) tokens per byte on unseen families.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from teleflm_jax.documents import work_units
from teleflm_jax.documents.statistics import Statistics
from teleflm_jax.packing import heldout
from teleflm_jax.packing.config import PackConfig
from teleflm_jax.tokenizer import load, report

BARS = {"seconds": 120, "peak_gb": 3, "english": 0.25, "chinese": 0.24, "code": 0.24}
PROPORTIONS = {"english": 48, "code": 31, "multilingual": 22, "chinese": 12, "math": 7}
"""MB of each domain, about as in the large set, reduced to 120 MB in total; a missing domain is left out."""
HELDOUT_FRACTION = 0.02


def main() -> int:
    arguments = _parse()
    domains = {name: arguments.text / name for name in PROPORTIONS if (arguments.text / name).is_dir()}
    if not domains:
        print(
            f"error: got --text {arguments.text} without {', '.join(PROPORTIONS)}; run examples/debian_text.py --set large", file=sys.stderr
        )
        return 2
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "tokenizer.json")
        figures = train(domains, target, arguments.vocab_size, arguments.megabytes)
        counters = {"ratio": report.counter(load.load(target))}
        ratios, num_bytes = report.ratios({name: held_out(path) for name, path in domains.items()}, counters)
    found = figures | ratios["ratio"]
    passed = {name: found[name] <= bar for name, bar in BARS.items() if name in found}
    print(json.dumps({"figures": found, "bars": BARS, "passed": passed, "heldout_bytes": num_bytes}, indent=1))
    return 0 if all(passed.values()) else 1


def train(domains: dict[str, pathlib.Path], target: str, vocab_size: int, megabytes: float) -> dict[str, float]:
    """Run `tokenizer train` in a process of its own, to measure its peak memory."""
    bindings = {
        "data.sources": {name: str(path) for name, path in domains.items()},
        "data.proportions": {name: float(PROPORTIONS[name]) for name in domains},
        "data.tokenizer": target,
        "data.packed": os.path.dirname(target),
        "tokenizer.vocab_size": vocab_size,
        "tokenizer.sample_bytes": int(megabytes * 1e6),
        "pack.heldout_fraction": HELDOUT_FRACTION,
    }
    flags = [flag for name, value in bindings.items() for flag in ("--gin_param", f"{name} = {value!r}")]
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "teleflm_jax", "tokenizer", "train", *flags], check=True, stdout=sys.stderr)
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"seconds": seconds, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_gb": used.ru_maxrss * 1024 / 1e9}


def held_out(source: pathlib.Path) -> Iterator[str]:
    """Yield the documents that `tokenizer train` holds out for evaluation."""
    for unit in work_units.split_source(str(source), PackConfig().unit_bytes):
        for document in work_units.read(unit, Statistics()):
            if heldout.may_be_held_out(document.family, HELDOUT_FRACTION, PackConfig().seed):
                yield document.text


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--text", type=pathlib.Path, default=pathlib.Path("data/text-large"), help="folder with a folder for each domain")
    parser.add_argument("--megabytes", type=float, default=120, help="size of the training text (default: 120)")
    parser.add_argument("--vocab_size", type=int, default=80_000)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
