"""`checkpoints`: list a run's checkpoints and verify them."""

import argparse
import pathlib

from teleflm_jax.cli import options
from teleflm_jax.cli.tables import make_console, show
from teleflm_jax.errors import UserError
from teleflm_jax.observability.page import Table
from teleflm_jax.observability.run_log import bits_per_byte

HELP = "list a run's checkpoints with step, tokens, size and state; --verify reads all of them"

UNSOUND = 1
"""Exit code: a checkpoint is damaged."""


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    parser.add_argument("run", type=options.path, metavar="RUN", help="a run's folder")
    parser.add_argument("--verify", action="store_true", help="read every array and compare it with the checksum from when it was saved")
    parser.epilog = f"example: {parser.prog} runs/quickstart --verify"


def main(args: argparse.Namespace) -> int:
    """Print a table; return 1 if a checkpoint is damaged."""
    from teleflm_jax import checkpoint  # here, so that --help and mistakes need no jax

    folder = pathlib.Path(args.run) / checkpoint.FOLDER
    if not folder.is_dir():
        raise UserError(f"got {args.run} without {checkpoint.FOLDER}/; allowed: the folder of a run that has saved one; change the path")
    rows, unsound, bpbs = [], 0, bits_per_byte(pathlib.Path(args.run))
    for step in checkpoint.numbered(folder):
        try:
            record = checkpoint.verify(folder, step) if args.verify else checkpoint.read(folder, step)
            tokens, bpb = f"{record.counters.get('tokens', 0):,}", f"{bpbs[step]:.4f}" if step in bpbs else ""
            state = "sound: every array is as it was saved" if args.verify else "whole; --verify reads its arrays"
        except checkpoint.Damaged as error:
            tokens, bpb, state, unsound = "", "", f"damaged: {error.reason}", unsound + 1
        rows.append((f"{step:,}", tokens, bpb, _size(folder / str(step)), state))
    aside = sorted(path for path in folder.iterdir() if checkpoint.ASIDE in path.name)
    rows += [(path.name, "", "", _size(path), "set aside by a run that found it damaged; remove it when you like") for path in aside]
    show(make_console(), Table(f"Checkpoints of {args.run}", ("step", "tokens", "bits per byte", "size", "state"), rows, text=True))
    return UNSOUND if unsound else 0


def _size(path: pathlib.Path) -> str:
    """Return the size on the disk as text."""
    size = float(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()))
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, {"B": "kB", "kB": "MB", "MB": "GB", "GB": "TB"}[unit]
    return f"{size:.3g} {unit}"
