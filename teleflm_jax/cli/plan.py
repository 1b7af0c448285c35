"""`plan`: compile a run for a cluster that this machine does not have; show whether it fits, its time, and better layouts."""

import argparse
import difflib
import json
import math
import os
import pathlib

from sharding import axes
from sharding.config import MeshConfig
from teleflm_jax.cli import options
from teleflm_jax.errors import UserError
from teleflm_jax.plan import target_devices
from teleflm_jax.plan.config import CLUSTERS, JSON, PICTURE, ClusterConfig
from teleflm_jax.plan.config import SECTIONS as PLANNING
from teleflm_jax.runs.config import SECTIONS, RunConfig

HELP = "compile a run for a cluster that this machine does not have: memory, traffic, time, and better layouts"

SHOWN = 12
"""Number of layouts of a search that are printed and drawn."""


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = f"example: {parser.prog} --gin_file configs/runs/pretrain_52b.gin --cluster a800x896"
    options.add_arguments(parser)
    parser.add_argument("--cluster", type=options.path, metavar="NAME", help="name of configs/clusters/NAME.gin, or a gin file of your own")
    parser.add_argument("--gpus", type=_count, metavar="N", help="number of GPUs; default: those of the run's mesh, or the whole cluster")
    parser.add_argument(
        "--backend", choices=target_devices.BACKENDS, help="the compiler; default: gpu if jax's CUDA wheels are installed, otherwise cpu"
    )
    parser.add_argument("--search", action="store_true", help="rank all layouts by predicted time; the best are compiled")
    parser.add_argument("--compile", type=_count, default=3, metavar="N", help="number of the search's best layouts to compile (default 3)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--out", type=options.path, metavar="FOLDER", help="write plan.json and plan.png there; a search's default is plans/RUN-CLUSTER"
    )


def main(args: argparse.Namespace):
    """Print the plan; a layout that does not fit is an error."""
    file, out = _cluster_file(args.cluster), _out(args)
    found = options.load_sections(args, SECTIONS | PLANNING, optional=("data",), after=[file])
    cluster = found["cluster"]
    backend = target_devices.choose(args.backend, cluster)
    count = _gpus(args, found["mesh"], cluster)
    target_devices.prepare(backend, count, os.environ)
    from teleflm_jax.cli import planning  # after the environment is set, because they import jax
    from teleflm_jax.plan import estimate

    run = RunConfig(**{name: found[name] for name in SECTIONS if name in found})
    request = estimate.PlanRequest(run=run, cluster=cluster, plan=found["plan"], gpus=count, backend=backend)
    facts = estimate.search(request, args.compile, SHOWN) if args.search else estimate.own_layout(request)
    if out:
        estimate.write(out, facts)
    if args.json:
        print(json.dumps(facts))
    else:
        planning.show(facts)
        print(f"\nWritten: {out / JSON} and {out / PICTURE}" if out else "")
    estimate.refuse_what_does_not_fit(facts)


def _out(args: argparse.Namespace) -> pathlib.Path | None:
    """Return the folder to write to, or None; raise a `UserError` now if it cannot be written."""
    if args.out is None and not args.search:
        return None
    names = [pathlib.Path(place).stem for place in (*args.gin_file, args.run or args.workdir or "run", args.cluster)]
    folder = pathlib.Path("plans") / f"{names[0]}-{names[-1]}" if args.out is None else pathlib.Path(args.out)
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    taken = [folder / name for name in (JSON, PICTURE) if (folder / name).is_dir()]
    if args.out == "" or not there.is_dir() or not os.access(there, os.W_OK) or taken:
        got = taken[0] if taken else there
        raise UserError(f"got --out {args.out!r}, where {got} is no place to write to; allowed: a folder of your own; change --out")
    return folder


def _cluster_file(name: str | None) -> str:
    known = sorted(path.stem for path in CLUSTERS.glob("*.gin"))
    if name and (CLUSTERS / f"{name}.gin").is_file():
        return str(CLUSTERS / f"{name}.gin")
    if name and pathlib.Path(name).exists():
        return name  # the reader reports the mistake in it
    near = difflib.get_close_matches(name or "", known, n=1)
    got = f"the unknown cluster {name!r}" if name else "no cluster"
    change = f"change it to --cluster {near[0]}" if near else "name one with --cluster"
    raise UserError(f"got {got}; allowed: {', '.join(known)}, or a gin file of your own; {change}")


def _gpus(args: argparse.Namespace, mesh: MeshConfig, cluster: ClusterConfig) -> int:
    """Return the number of GPUs: as asked, of the run's mesh, or all; a search is not bound to the run's mesh."""
    sizes = axes.sizes(mesh).values()
    meshed = math.prod(sizes)
    count = args.gpus or (min(meshed, cluster.gpus) if args.search else meshed) or cluster.gpus
    if count > cluster.gpus:
        what = f"--gpus {count}" if args.gpus else f"a mesh of {' x '.join(map(str, sizes))} = {count} GPUs"
        raise UserError(
            f"got {what} on {args.cluster}, which has {cluster.nodes} x {cluster.gpus_per_node} = {cluster.gpus}; allowed: up to "
            f"{cluster.gpus}; change --gpus, mesh.data or --cluster"
        )
    return count


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)
