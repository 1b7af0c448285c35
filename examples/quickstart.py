"""From real text to a trained, evaluated and sampled model, command by command: `make quickstart`.

    python examples/quickstart.py [--workdir runs/quickstart] [--folder [DOMAIN=]DIR ...]

It makes text, tokenizer, packed data, a trained model, evaluation, samples, and a summary that compares the model with general compressors.
Existing results are reused.
"""

import argparse
import itertools
import json
import pathlib
import shlex
import subprocess
import sys
import time
from statistics import mean, median

import rich.box
import rich.console
import rich.table

from teleflm_jax.cli import options
from teleflm_jax.observability import run_log

ROOT = pathlib.Path(__file__).resolve().parents[1]
GIN_FILE = "configs/runs/quickstart.gin"
TEXT = pathlib.Path("data/text")
WORKDIR = "runs/quickstart"
PROMPTS = {"English": "The module provides functions to", "Chinese": "如果您要"}
COMPRESSORS = ("gzip -9", "xz -9e")


def main() -> int:
    """Run every step; exit with the code of the first that fails."""
    parser = options.make_parser("python examples/quickstart.py", __doc__.splitlines()[0], "--workdir runs/quickstart")
    parser.add_argument("--workdir", default=WORKDIR, help="the run's folder (default: runs/quickstart)")
    parser.add_argument(
        "--folder", action="append", default=[], metavar="[DOMAIN=]DIR", help="your own text, to train on in addition; repeatable"
    )
    args = parser.parse_args()
    began = time.monotonic()
    try:
        step("Real text", "examples/debian_text.py", "--out", str(TEXT), *flags("--folder", args.folder))
        own = domains(TEXT)
        if own and args.workdir == WORKDIR:  # other domains need another tokenizer and another run; neither may replace the default ones
            args.workdir = f"{WORKDIR}-{name_of(TEXT)}"
        config = ["--gin_file", GIN_FILE, *flags("--gin_param", own)]
        step("Tokenizer", "-m", "teleflm_jax", "tokenizer", "train", *config)
        step("Packing", "-m", "teleflm_jax", "pack", *config)
        step("Training", "train.py", *config, "--workdir", args.workdir)
        evaluation = step("Evaluation", "eval.py", "--workdir", args.workdir, "--json", captured=True)
        yardstick = step("Compressors", "examples/compressors.py", "--workdir", args.workdir, "--json", captured=True)
        for language, prompt in PROMPTS.items():
            sampling = ("--max_tokens", "60", "--temperature", "0.7", "--seed", "1")
            step(f"A sample in {language}", "-m", "teleflm_jax", "generate", "--workdir", args.workdir, "--prompt", prompt, *sampling)
    except subprocess.CalledProcessError as error:
        return error.returncode
    summarise(args.workdir, json.loads(evaluation), json.loads(yardstick), time.monotonic() - began)
    return 0


def flags(flag: str, values) -> list[str]:
    """Return the flag before each of its values."""
    return list(itertools.chain.from_iterable((flag, value) for value in values))


def domains(text: pathlib.Path) -> list[str]:
    """Return bindings for the existing domains, if they differ from the configuration's own (no apt-get, or the user's folders)."""
    run = options.load(argparse.Namespace(run=None, gin_file=[GIN_FILE], gin_param=[], workdir=None))
    found = {path.name: str(path) for path in sorted(text.iterdir()) if path.is_dir() and any(path.iterdir())}
    if found == run.data.sources:
        return []
    place = f"data/quickstart-{name_of(text)}"
    bindings = [f"data.tokenizer = '{place}/tokenizer.json'", f"data.packed = '{place}/packed'", f"data.sources = {found!r}"]
    return [*bindings, f"data.proportions = { {domain: run.data.proportions.get(domain, 1.0) for domain in found}!r}"]


def name_of(text: pathlib.Path) -> str:
    """Return the existing domains as part of a folder's name."""
    return "-".join(path.name for path in sorted(text.iterdir()) if path.is_dir() and any(path.iterdir()))


def step(title: str, *command: str, captured: bool = False) -> str:
    """Run and show one command, so that it can be repeated by hand; return its output if captured."""
    rich.console.Console().rule(f"[bold]{title}", align="left")
    print("$ python", shlex.join(command), flush=True)
    with subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE if captured else None, text=True) as process:
        try:
            out, _ = process.communicate()
        except KeyboardInterrupt:  # the terminal sent it to the command as well, which saves and exits; wait for it
            out, _ = process.communicate()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return out


def summarise(workdir: str, evaluation: dict, yardstick: dict, seconds: float) -> None:
    """Print the results, and commands to try next."""
    rows = list(run_log.rows(pathlib.Path(workdir) / run_log.METRICS))
    speeds, last = [row["tokens_per_second"] for row in rows], mean(row["loss"] for row in rows[-20:])
    waiting = sum(row["data_wait_seconds"] for row in rows[1:]) / sum(row["step_seconds"] for row in rows[1:])
    console = rich.console.Console(width=None if rich.console.Console().is_terminal else 120, highlight=False)
    console.rule("[bold]Summary", align="left")
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, title="Bits per byte of held-out text; less is better", title_justify="left")
    table.add_column("domain")
    for column in ("model", *(f"{name}, {how}" for how in ("pieces", "whole") for name in COMPRESSORS)):
        table.add_column(column, justify="right")
    for domain, score in evaluation["domains"].items():
        sizes = yardstick[domain]
        table.add_row(domain, f"{score['bpb']:.3f}", *(f"{sizes[name][how]:.3f}" for how in ("pieces", "whole") for name in COMPRESSORS))
    console.print(table)
    won = sum(score["bpb"] < min(yardstick[d][name]["pieces"] for name in COMPRESSORS) for d, score in evaluation["domains"].items())
    console.print(
        f"The model beats both compressors on pieces as long as its context in {won} of {len(evaluation['domains'])} domains.\n"
        f"run's folder      {workdir} (curves.png, metrics.jsonl, tensorboard/, checkpoints/)\n"
        f"loss              {rows[0]['loss']:.3f} at first, {last:.3f} at the end (mean of the last 20 steps)\n"
        f"tokens            {rows[-1]['tokens']:,} at {median(speeds):,.0f} tokens/s; {waiting:.2%} of the time waiting for data\n"
        f"all of this took  {seconds / 60:.1f} minutes\n"
    )
    # without rich, which would break the lines that users copy
    print(
        "To try next, in the project's folder, with its Python (. .venv/bin/activate):\n"
        f"  python -m teleflm_jax generate --workdir {workdir} --prompt 'To install the package' --temperature 0.5\n"
        f"  python eval.py --workdir {workdir} --text readme=README.md\n"
        f"  python train.py --gin_file {workdir}/config.gin --workdir runs/longer --gin_param 'train.steps = 5000'"
        " --gin_param 'optimizer.decay_tokens = 10_240_000'\n"
        "  python -m teleflm_jax info --gin_file configs/runs/pretrain_52b.gin"
    )


if __name__ == "__main__":
    sys.exit(options.run_command(main))
