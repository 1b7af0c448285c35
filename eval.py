"""Bits per byte of a trained model: `python eval.py --workdir RUN`; see `--help`."""

import sys

from teleflm_jax.cli import main

if __name__ == "__main__":
    sys.exit(main.script("eval", sys.argv[1:]))
