"""The package: its data, its extras and its Pythons as the project's files state them, and (slow) an installation outside the checkout."""

import fnmatch
import re
import shutil
import subprocess
import tomllib
import venv

import pytest

from tests import job

ROOT = job.ROOT
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUP = PROJECT["tool"]["setuptools"]
EXTRAS = SETUP["dynamic"]["optional-dependencies"]


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_every_file_of_the_packages_is_python_or_named_as_data():
    for package in ("teleflm_jax", "sharding"):
        assert (ROOT / package / "py.typed").is_file()
        found = {path.relative_to(ROOT / package) for path in (ROOT / package).rglob("*") if path.is_file()}
        found |= {path.relative_to(ROOT / package) for path in (ROOT / package / "configs").rglob("*.*")}
        data = [path for path in found if path.suffix not in (".py", ".pyc")]
        left_out = [path for path in data if not any(fnmatch.fnmatch(str(path), glob) for glob in SETUP["package-data"][package])]
        assert not left_out


def test_each_extra_is_read_from_files_of_plain_requirements():
    assert {"corpus", "eval", "gpu", "parity", "serve", "telemetry"} <= EXTRAS.keys()
    for extra, source in EXTRAS.items():
        lines = [line for file in source["file"] for line in text(file).splitlines() if line and not line.startswith("#")]
        assert lines and all(re.match(r"[A-Za-z0-9_-]+(==|>=)", line) for line in lines), extra
        own = text(f"requirements-{extra}.txt").splitlines()  # what messages name in a checkout installs at least as much
        includes = {line.removeprefix("-r ") for line in own if line.startswith("-r ")}
        assert set(source["file"]) <= includes | {f"requirements-{extra}.txt"}, extra


def test_messages_advise_extras_that_there_are():
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "teleflm_jax").rglob("*.py")]
    advised = {name for source in sources for name in re.findall(r"""(?:install|refuse_missing)\(['"](\w+)['"]""", source)}
    assert advised == EXTRAS.keys() - {"parity"}


def test_the_supported_pythons_are_the_same_everywhere():
    versions = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    first, last = (int(version.split(".")[1]) for version in (versions[0], versions[-1]))
    assert versions == [f"3.{minor}" for minor in range(first, last + 1)]
    assert PROJECT["project"]["requires-python"] == f">=3.{first},<3.{last + 1}"
    assert f"for version in {' '.join(versions)}; do" in text(".ci/pythons")
    assert f"in {' | '.join(versions)}) ;;" in text("Makefile")
    for page in ("README.md", "CONTRIBUTING.md"):
        assert all(re.search(rf"\b{re.escape(version)}\b", text(page)) for version in versions), page


@pytest.mark.slow
def test_an_installation_outside_the_checkout_is_whole(tmp_path):
    """Installs the project and its requirements from the package index into an empty environment of this Python."""
    source, home, environment = tmp_path / "source", tmp_path / "home", tmp_path / "environment"
    source.mkdir(), home.mkdir()
    for name in ("teleflm_jax", "sharding", "configs"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (ROOT / "pyproject.toml", ROOT / "README.md", ROOT / "LICENSE", *ROOT.glob("requirements*.txt")):
        shutil.copy(path, source)
    venv.create(environment, with_pip=True)

    bare = {name: value for name, value in job.AS_USERS.items() if name != "PYTHONPATH"}

    def run(program: str, *arguments: str, code: int = 0) -> str:
        done = subprocess.run([environment / "bin" / program, *arguments], cwd=home, env=bare, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stderr if code else done.stdout

    run("python", "-m", "pip", "install", "--quiet", str(source))
    shutil.rmtree(source)
    overview = run("teleflm", "--help")
    assert overview.startswith("usage: teleflm COMMAND")
    assert overview.replace("teleflm ", "python -m teleflm_jax ") == run("python", "-m", "teleflm_jax", "--help")
    described = run("teleflm", "info", "--gin_file", "runs/quickstart.gin")
    assert described == run("python", "-m", "teleflm_jax", "info", "configs/runs/quickstart.gin")
    assert "embedding" in described
    assert "pip install 'teleflm_jax[corpus]'" in run("teleflm", "corpus", "--gin_file", "runs/corpus.gin", "--workdir", "c", code=2)
    assert "pip install 'teleflm_jax[serve]'" in run("teleflm", "serve", "--workdir", "r", code=2)
    assert not any(home.iterdir())
    (home / "text").mkdir()
    (home / "text/a.txt").write_text("The house stands by the river. " * 4_000, encoding="utf-8")
    (home / "text/b.txt").write_text("A river runs past the old house. " * 4_000, encoding="utf-8")
    (home / "mine.gin").write_text(
        "include 'models/tiny.gin'\ninclude 'optim/quickstart.gin'\ninclude 'configs/mesh/single.gin'\n"
        "data.sources = {'web': 'text'}\ndata.proportions = {'web': 1.0}\ndata.tokenizer = 'tokenizer.json'\ndata.packed = 'packed'\n"
        "tokenizer.vocab_size = 400\nmodel.vocab_size = 400\nmodel.num_layers = 1\nmodel.context_length = 64\npack.heldout_fraction = 0.5\n"
        "train.steps = 2\ntrain.batch_size = 2\n"
    )
    run("teleflm", "tokenizer", "train", "--gin_file", "mine.gin")
    run("teleflm", "pack", "--gin_file", "mine.gin")
    run("teleflm", "train", "--gin_file", "mine.gin", "--workdir", "run")
    assert "bits/byte" in run("teleflm", "eval", "--workdir", "run")
    run("teleflm", "launch", "--devices_per_process", "1", "--", "-m", "teleflm_jax", "train", "--gin_file", "mine.gin", "--workdir", "run")
