"""Train a model: `python train.py --gin_file configs/runs/quickstart.gin --workdir runs/quickstart`; the same command again goes on."""

import sys

from teleflm_jax.cli import main

if __name__ == "__main__":
    sys.exit(main.script("train", sys.argv[1:]))
