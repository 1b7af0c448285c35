"""`train`, also `train.py`: train a model, or resume a run that was stopped."""

import argparse
import time

from teleflm_jax.cli import options

HELP = "train a model, or resume a run that was stopped"


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.epilog = f"example: {parser.prog} --gin_file configs/runs/quickstart.gin --workdir runs/quickstart"
    options.add_arguments(parser)
    options.add_process_arguments(parser)
    parser.add_argument("--dry_run", action="store_true", help="print what `plan` prints, for this machine's devices, and stop")


def main(args: argparse.Namespace) -> int:
    """Train; returns the exit code."""
    began = time.monotonic()
    from teleflm_jax.cli import training  # after parsing, so that --help and mistakes need no jax

    return training.main(args, began)
