"""Seconds and memory of exporting, importing and loading a model, compared with loading by transformers: 1.2B parameters, float32.

    python benchmarks/loading.py [--folder /tmp] [--rounds 3]        (needs 20 GB there and 12 GB of memory)

Each measurement runs in a process of its own, alternating; files are in the page cache for all of them. `seconds` begin after the imports
and end when one token's logits are known, so that memory-mapped weights are read too. `GB` is the process's peak resident size, pages of
mapped files included, minus its resident size after the imports. Prints JSON with medians.
"""

import argparse
import dataclasses
import json
import math
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import beside

from teleflm_jax.generate import loglikelihood
from teleflm_jax.runs.load import load_decoder

SHAPE = dataclasses.replace(beside.MEDIUM, num_layers=20, d_model=2048, d_ff=5632)
"""Tele-FLM's shape, smaller: 16 heads of 128, d_ff about 8/3 of the width."""


def make(root: pathlib.Path) -> None:
    """Make a run's folder with random weights."""
    beside.folders(SHAPE, root)


def export(root: pathlib.Path) -> None:
    beside.command("export", "--workdir", root / "ours", "--dtype", "float32", "--out", root / "export")


def import_(root: pathlib.Path) -> None:
    beside.command("import", "--from", root / "export", "--workdir", root / "again")


def load(root: pathlib.Path) -> None:
    """Load a model as `generate`, `serve` and `eval.py` do."""
    run, _ = beside.opened(root / "ours")
    decoder = load_decoder(root / "ours", run, 0)
    assert math.isfinite(loglikelihood.loglikelihoods(decoder, [((1,), (2,))], batch_size=1)[0][0])


def transformers(root: pathlib.Path) -> None:
    model = beside.transformers.AutoModelForCausalLM.from_pretrained(root / "export", dtype=beside.torch.float32)
    with beside.torch.inference_mode():
        assert model(beside.torch.tensor([[1]])).logits.isfinite().all()


MEASURED = {"export": export, "transformers' loading of the export": transformers, "import of the export": import_, "ours, loading": load}


def main() -> None:
    """Print the seconds and memory of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="folder for temporary files")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--do", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.do:
        before, began = _peak(), time.perf_counter()
        (MEASURED | {"make": make})[args.do](pathlib.Path(args.folder))
        print(json.dumps({"seconds": round(time.perf_counter() - began, 2), "GB": round(_peak() - before, 2)}))
        return
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        root, found = pathlib.Path(folder), {}
        _do("make", root)
        for _ in range(args.rounds):
            for name in MEASURED:
                found.setdefault(name, []).append(_do(name, root))
            for made in ("export", "again"):
                shutil.rmtree(root / made)
    medians = {name: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for name, rows in found.items()}
    print(json.dumps({beside.describe(SHAPE): medians}, indent=1))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _do(name: str, root: pathlib.Path) -> dict:
    command = [sys.executable, __file__, "--folder", str(root), "--do", name]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
