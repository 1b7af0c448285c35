"""Train a model: `python train.py --gin_file configs/runs/quickstart.gin --workdir runs/quickstart`; the same command again goes on."""

import sys
import time

from teleflm_jax.cli import options

BEGAN = time.monotonic()

if __name__ == "__main__":

    def main():
        """Parse the options, then train."""
        parser = options.make_parser("python train.py", "Train a model, or go on with a run that was stopped.", EXAMPLE)
        options.add_arguments(parser)
        options.add_process_arguments(parser)
        parser.add_argument("--dry_run", action="store_true", help="print what `plan` says for the devices that are here, then stop")
        args = parser.parse_args()
        from teleflm_jax.cli import training  # after parsing, so that --help and mistakes need no jax

        return training.main(args, BEGAN)

    EXAMPLE = "--gin_file configs/runs/quickstart.gin --workdir runs/quickstart"
    sys.exit(options.run_command(main))
