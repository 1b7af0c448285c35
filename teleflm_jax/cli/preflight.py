"""`preflight`: measure every process of a run before it starts, and name the slow ones."""

import argparse
import functools
import math
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from teleflm_jax import invocation
from teleflm_jax.cli import options
from teleflm_jax.distributed import processes
from teleflm_jax.errors import UserError

if TYPE_CHECKING:
    from teleflm_jax.hardware.preflight import Rates, Slow

HELP = "measure products, memory and network of every process, and name the slow ones (see also launch --preflight)"

TOLERANCE = "--preflight_tolerance"
SLOW = 1
"""Exit code: a process is slow."""


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = f"example: {invocation.command('launch')} --preflight -n 2 --devices_per_process 1\nunder srun: {parser.prog}"
    options.add_process_arguments(parser)
    add_tolerance(parser)


def add_tolerance(parser: argparse.ArgumentParser):
    """Add the option that `launch` shares."""
    parser.add_argument(
        TOLERANCE,
        type=float,
        metavar="PART",
        help="share of the median rate below which a process stops the run; default: 0.85 on GPUs, 0.3 on CPUs",
    )


def refuse_tolerance(args: argparse.Namespace):
    """Raise a `UserError` unless the tolerance is between 0 and 1."""
    if args.preflight_tolerance is not None and not 0 <= args.preflight_tolerance <= 1:
        raise UserError(f"got {TOLERANCE} {args.preflight_tolerance}; allowed: 0 to 1; change it")


def main(args: argparse.Namespace) -> int:
    """Measure together with the other processes; return 1 on all of them if one is slow."""
    refuse_tolerance(args)
    process = processes.find(os.environ, args.coordinator, args.num_processes, args.process_id)
    processes.join(process)
    measure = functools.partial(_measure, args.preflight_tolerance)
    return options.run_process(measure, process)


def _measure(tolerance: float | None) -> int:
    import jax
    from jax.experimental import multihost_utils

    from teleflm_jax.hardware import preflight, throughput

    sizes = preflight.sizes()
    tolerance = sizes.tolerance if tolerance is None else tolerance
    rates = preflight.measure(sizes)
    slow = preflight.slow_processes(rates, tolerance)
    if jax.process_index() == 0:
        kind = jax.devices()[0].device_kind
        peak = throughput.DENSE_16_BIT.get(throughput.card(kind))
        _show(rates, f"Preflight: {len(rates)} process(es), {jax.device_count()} x {kind}, {sizes.dtype}", peak)
        for line in sentences(slow, len(rates), tolerance):
            print(line, file=sys.stderr, flush=True)
    multihost_utils.sync_global_devices("the verdict is read")  # otherwise the first process to exit would end the one that prints
    jax.distributed.shutdown()
    return SLOW if slow else 0


def _show(rates: Sequence["Rates"], title: str, peak: float | None) -> None:
    from teleflm_jax.cli import tables

    columns = ("process", "host", "matmul TFLOP/s", "memory GB/s", "network GB/s", "all-reduce GB/s")
    rows = [
        (
            str(process),
            rate.host,
            f"{min(rate.matmul) / 1e12:,.3g}",
            f"{min(rate.memory) / 1e9:,.3g}",
            *("-" if math.isnan(x) else f"{x / 1e9:,.3g}" for x in (rate.network, rate.all_reduce)),
        )
        for process, rate in enumerate(rates)
    ]
    slowest = min(flops for rate in rates for flops in rate.matmul)
    best = f" The slowest device has {slowest / peak:.0%} of the vendor's {peak / 1e12:,.0f} TFLOP/s." if peak else ""
    note = f"Products and memory: the slowest device of a process. Network: each way, to the better of two neighbours.{best}"
    tables.print_table(tables.make_console(), title, columns, rows, note)


def sentences(slow: Sequence["Slow"], count: int, tolerance: float) -> list[str]:
    """Return one line for each finding and one with the remedy; none if nothing is slow."""
    if not slow:
        return []
    hosts, processes_found = (dict.fromkeys(getattr(finding, name) for finding in slow) for name in ("host", "process"))
    names = ",".join(hosts)
    return [
        *(f"slow: process {finding.process} on {finding.host}: {finding.what} at {finding.part:.0%} of the median" for finding in slow),
        f"error: got {len(processes_found)} slow of {count} process(es); allowed: {tolerance:.0%} of the median or more; "
        f"leave out or repair {names} (Slurm: --exclude={names}), or change {TOLERANCE}",
    ]
