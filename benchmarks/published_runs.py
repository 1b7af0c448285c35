"""Compare the planner's time model with measurements of published runs.

    python benchmarks/published_runs.py             prints a table, and the efficiencies that fit the two fitted rows
    python benchmarks/published_runs.py --json      the same as one JSON object

published_runs.json has the shape, mesh and speed of each run, with their source and assumptions.
"""

import argparse
import dataclasses
import json
import pathlib

from sharding.config import MeshConfig
from teleflm_jax import config
from teleflm_jax.cli.tables import make_console, print_table
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.plan import roofline
from teleflm_jax.plan.config import CLUSTERS, ClusterConfig, PlanConfig
from teleflm_jax.plan.job import Job

HERE = pathlib.Path(__file__).resolve().parent
RUNS = HERE / "published_runs.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    published = json.loads(RUNS.read_text())
    rows = [judged(run, published["shapes"]) for run in published["runs"]]
    if args.json:
        print(json.dumps({"runs": rows}))
        return
    columns = ("run", "cluster", "measured", "predicted", "error", "MFU", "products", "again", "attention", "memory", "links", "bubble")
    console = make_console()
    console.width = 150
    print_table(console, "Tokens/s per GPU, and the shares of a predicted step", columns, [_printed(row) for row in rows])
    for row in rows:
        if row["fitted"]:
            console.print(f"{row['cluster']}: {row['name']} asks for cluster.product_efficiency = {row['fitted']:.3f}")


def judged(run: dict, shapes: dict) -> dict:
    """Return a published run with its prediction; for a fitted row, `fitted` is the efficiency that makes them equal."""
    job, cluster = setup(run, shapes)
    times = roofline.predict(job, cluster, PlanConfig())
    found = roofline.forecast(job, times, cluster, PlanConfig(), tokens=1e12)
    speed = found.tokens_per_second_per_gpu
    return {
        "name": run["name"],
        "cluster": f"{job.devices} {cluster.gpu}",
        "measured": run["tokens_per_second_per_gpu"],
        "predicted": speed,
        "error": speed / run["tokens_per_second_per_gpu"] - 1,
        "mfu": found.mfu["causal"],
        "shares": {name: seconds / times.step for name, seconds in dataclasses.asdict(times).items()},
        "fitted": fitted(run, shapes) if run.get("fitted") else None,
        "assumed": run["assumed"],
    }


def setup(run: dict, shapes: dict) -> tuple[Job, ClusterConfig]:
    """Return a run as a job on a cluster."""
    cluster = config.parse([str(CLUSTERS / f"{run['cluster']}.gin")], [], {"cluster": ClusterConfig})["cluster"]
    length = run["context_length"]
    # others do not compute their loss in chunks
    model = ModelConfig(**shapes[run["shape"]], context_length=length, loss_chunk_tokens=length, attention="cudnn", remat=run["remat"])
    settings = {name: run[name] for name in ("batch_size", "microbatch_size", "accumulation_dtype")}
    return Job(model=model, mesh=MeshConfig(**run["mesh"]), **settings), dataclasses.replace(cluster, **run.get("changes", {}))


def fitted(run: dict, shapes: dict) -> float:
    """Return the efficiency of products at which the prediction equals the measurement, by bisection."""
    job, cluster = setup(run, shapes)
    low, high = 0.1, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        times = roofline.predict(job, dataclasses.replace(cluster, product_efficiency=middle), PlanConfig())
        slow = job.tokens / times.step / job.devices < run["tokens_per_second_per_gpu"]
        low, high = (middle, high) if slow else (low, middle)
    return low


def _printed(row: dict) -> tuple[str, ...]:
    shares = row["shares"]
    parts = [
        ("products",),
        ("recomputation",),
        ("attention",),
        ("elementwise", "update"),
        ("tensor", "pipe", "data"),
        ("bubble",),
    ]
    error = f"{row['error']:+.1%}" + (" (fitted)" if row["fitted"] else "")
    of_step = [f"{sum(shares[name] for name in part):.0%}" for part in parts]
    return row["name"], row["cluster"], f"{row['measured']:,}", f"{row['predicted']:,.0f}", error, f"{row['mfu']:.1%}", *of_step


if __name__ == "__main__":
    main()
