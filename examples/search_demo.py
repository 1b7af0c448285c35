"""From real text to the hyper-parameters of a wide model, command by command: `make search-demo`.

    python examples/search_demo.py [--workdir searches/demo]

It makes text, tokenizer and packed data, trains nine points of a search, ranks them, and shows the chosen point at width 8,192.
Existing results are reused.
"""

import pathlib
import shlex
import subprocess
import sys
import time

from teleflm_jax.cli import options

ROOT = pathlib.Path(__file__).resolve().parents[1]
GIN_FILE = "configs/runs/search_quickstart.gin"


def main() -> int:
    """Run every step; exit with the code of the first that fails."""
    parser = options.make_parser("python examples/search_demo.py", __doc__.splitlines()[0], "--workdir searches/demo")
    parser.add_argument("--workdir", default="searches/demo", help="the folder of the search (default: searches/demo)")
    workdir, began = parser.parse_args().workdir, time.monotonic()
    commands = {
        "Real text": ("examples/debian_text.py", "--out", "data/text"),
        "Tokenizer": ("-m", "teleflm_jax", "tokenizer", "train", "--gin_file", "configs/runs/search_base.gin"),
        "Packing": ("-m", "teleflm_jax", "pack", "--gin_file", "configs/runs/search_base.gin"),
        "Nine trials": ("-m", "teleflm_jax", "search", "run", "--gin_file", GIN_FILE, "--workdir", workdir),
        "Ranking": ("-m", "teleflm_jax", "search", "report", workdir),
        "The chosen point at width 8,192": (
            *("-m", "teleflm_jax", "info", "--gin_file", "configs/runs/pretrain_52b.gin"),
            *("--gin_file", f"{workdir}/chosen.gin"),
        ),
    }
    for title, command in commands.items():
        print(f"\n== {title}: python {shlex.join(command)}", flush=True)
        code = subprocess.run([sys.executable, *command], cwd=ROOT, check=False).returncode
        if code:
            return code
    print(f"\nDone in {time.monotonic() - began:,.0f} s; open {workdir}/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(options.run_command(main))
