"""Bits per byte of a trained model: `python eval.py --workdir RUN`; see `--help`."""

import sys

from teleflm_jax.cli import evaluate

if __name__ == "__main__":
    sys.exit(evaluate.entry(sys.argv[1:]))
