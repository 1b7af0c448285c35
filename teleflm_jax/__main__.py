"""`python -m teleflm_jax`."""

import sys

from teleflm_jax.cli.main import entry

if __name__ == "__main__":
    sys.exit(entry())
