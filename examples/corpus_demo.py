"""A corpus from real pages, and a model trained on it: `make corpus-demo`.

    python examples/corpus_demo.py [--workdir runs/corpus]

It takes HTML pages and source code unchanged from Debian's packages, without root; then it runs the corpus pipeline, a short training and
an evaluation in bits per byte, command by command. Existing results are reused.
"""

import json
import pathlib
import shlex
import shutil
import subprocess
import sys
import sysconfig

import debian_packages

from teleflm_jax.cli import options

TEXT = pathlib.Path("data/corpus")
HELP = r"usr/share/libreoffice/help/"
PACKAGES = {
    "python-docs": ("python3-doc", r"python3\.\d+-doc", "/html/"),
    "help-en": ("libreoffice-help-en-us", "", HELP),
    "help-zh": ("libreoffice-help-zh-cn", "", HELP),
    "help-de": ("libreoffice-help-de", "", HELP),
}
"""Source -> package, pattern of the dependency that has the files, and part of their paths."""
STEPS = 160
"""Steps of training: a quarter of the quickstart's, enough to see that the model learns."""
QUIZ = 5
"""Number of the pages' sentences that serve as benchmark items, so that there is something to find."""
LIBRARY = ("asyncio", "concurrent", "email", "html", "http", "importlib", "json", "logging", "multiprocessing", "unittest", "urllib", "xml")
"""Packages of the standard library that serve as source code."""


def main() -> int:
    """Run every step; exit with the code of the first that fails."""
    parser = options.make_parser("python examples/corpus_demo.py", __doc__.splitlines()[0], "--workdir runs/corpus")
    parser.add_argument("--workdir", default="runs/corpus", help="the corpus's folder, beside the model's (default: runs/corpus)")
    args = parser.parse_args()
    missing = pages(TEXT)
    corpus = ["--gin_file", "configs/runs/corpus.gin", "--workdir", args.workdir]
    if missing:
        print(f"without {', '.join(missing)}: no such package here", flush=True)
        corpus += without(missing)
    model = f"{args.workdir}-model"
    try:
        step("Corpus", "-m", "teleflm_jax", "corpus", *corpus)
        mixture = f"{args.workdir}/mixture.gin"
        files = ("--gin_file", "configs/runs/quickstart.gin", "--gin_file", mixture)
        step("Training", "train.py", *files, "--gin_param", f"train.steps = {STEPS}", "--workdir", model)
        step("Evaluation", "eval.py", "--workdir", model)
    except subprocess.CalledProcessError as error:
        return error.returncode
    return 0


def step(name: str, *arguments: str) -> None:
    """Run a Python command, shown as a user would type it."""
    print(f"\n=== {name}\n$ python {shlex.join(arguments)}", flush=True)
    subprocess.run([sys.executable, *arguments], check=True)


def pages(folder: pathlib.Path) -> list[str]:
    """Lay out the sources; return those whose package is not available."""
    cache, missing = debian_packages.Cache("data/debs"), []
    for source, (package, through, inside) in PACKAGES.items():
        if (folder / source).exists():
            continue
        partial = folder / f".{source}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for path, content in debian_packages.files(cache.get(package, through), lambda path: path.endswith(".html")):
                if inside in path:  # noqa: B023
                    target = partial / path.partition(inside)[2]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
            partial.rename(folder / source)
        except (debian_packages.PackageError, FileNotFoundError):
            missing.append(source)
    library = folder / "library"
    if not library.exists():
        for name in LIBRARY:
            shutil.copytree(
                pathlib.Path(sysconfig.get_paths()["stdlib"], name), library / name, ignore=shutil.ignore_patterns("__pycache__")
            )
    quiz(folder)
    return missing


def quiz(folder: pathlib.Path) -> None:
    """Write sentences of the library's docstrings as a benchmark's items."""
    import ast

    found = []
    for path in sorted((folder / "library").rglob("*.py")):
        explained = ast.get_docstring(ast.parse(path.read_bytes())) or ""
        found += [" ".join(block.split()) for block in explained.split("\n\n") if 20 <= len(block.split()) <= 60][:1]
    rows = [json.dumps({"question": sentence}) + "\n" for sentence in found[:QUIZ]]
    (folder / "quiz.jsonl").write_text("".join(rows))


def without(missing: list[str]) -> list[str]:
    """Return bindings that leave sources out."""
    from teleflm_jax import config
    from teleflm_jax.cli import corpus

    own = config.parse(["configs/runs/corpus.gin"], [], corpus.SECTIONS)["corpus"]
    kept = {
        name: {source: value for source, value in getattr(own, name).items() if source not in missing} for name in ("sources", "domains")
    }
    return [argument for name, value in kept.items() for argument in ("--gin_param", f"corpus.{name} = {value!r}")]


if __name__ == "__main__":
    sys.exit(main())
