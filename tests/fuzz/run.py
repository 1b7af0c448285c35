"""Fuzz entries, guided by coverage: python -m tests.fuzz.run [--seconds 600] [--found FOLDER] [NAME ...]

Each entry has its share of the seconds, in a process of its own. An input that raises, takes more than 10 seconds or more than 2 GiB ends
its entry's run and is written to `--found`; put it into the entry's seeds when it is mended.
"""

import argparse
import os
import pathlib
import subprocess
import sys
import tempfile

from tests.fuzz import entries

LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=8192", "-print_final_stats=0", "-verbosity=0")


def _fuzz(module: str, name: str, arguments: list[str]) -> None:
    """Fuzz one entry in this process, without end but libFuzzer's."""
    import atheris

    with atheris.instrument_imports(include=["teleflm_jax"]):
        function = entries.entry(module, name)
    for seed in sorted((entries.SEEDS / name).iterdir()):
        function(seed.read_bytes())  # what is loaded once does not count as the first input's time
    atheris.Setup([sys.argv[0], *arguments], function)
    atheris.Fuzz()


def main() -> int:
    """Fuzz all entries, or those that are named; 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=600, help="of all entries together")
    parser.add_argument("--found", default="fuzz-found", help="folder for inputs that failed")
    parser.add_argument("names", nargs="*", help="entries; without any, all")
    args = parser.parse_args()
    modules = entries.modules()
    if unknown := set(args.names) - set(modules):
        parser.error(f"got {', '.join(sorted(unknown))}; allowed: {', '.join(sorted(modules))}; change the names")
    names = args.names or sorted(modules)
    found = pathlib.Path(args.found).absolute()
    found.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names:
        with tempfile.TemporaryDirectory() as corpus:
            limits = [*LIMITS, f"-max_total_time={max(1, args.seconds // len(names))}", f"-artifact_prefix={found}/{name}-"]
            code = f"from tests.fuzz import run; run._fuzz({modules[name]!r}, {name!r}, {[*limits, corpus, str(entries.SEEDS / name)]!r})"
            done = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONWARNINGS": "error"}, check=False)
        print(f"{name}: {'failed' if done.returncode else 'nothing found'}", flush=True)
        failed += [name] * bool(done.returncode)
    print(f"failed: {', '.join(failed)}; inputs in {found}" if failed else "nothing found")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
