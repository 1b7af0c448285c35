"""Rules of CONTRIBUTING that no published linter knows: `python .ci/rules.py`, part of `make lint`.

Prints a line for each violation and exits with 1 if there is one.
"""

import ast
import collections
import pathlib
import sys
from collections.abc import Iterator

PACKAGES = ("teleflm_jax", "sharding")
FILE_LINES, FUNCTION_LINES, MODEL_LINES = 400, 60, 600
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "base"}
FORBIDDEN_MODULES = {"pickle", "shelve", "marshal", "dill", "cloudpickle"}
AXES = {"data", "pipe", "tensor"}
AXIS_USERS = {"P", "PartitionSpec", "psum", "pmax", "pmin", "pmean", "all_gather", "psum_scatter", "ppermute", "axis_index", "axis_size"}
"""Functions whose string arguments are mesh axes."""
OPENINGS = {"What", "Whether", "Of", "Where", "How", "Which", "Who", "Why"}
"""Words that begin a clause: a docstring begins with an imperative or a noun phrase."""

Finding = tuple[pathlib.Path, int, str]


def main(root: pathlib.Path) -> int:
    """Check all rules; returns the exit code."""
    found = sorted(findings(root))
    for path, line, message in found:
        print(f"{path.relative_to(root)}:{line}: {message}")
    return 1 if found else 0


def findings(root: pathlib.Path) -> Iterator[Finding]:
    """Yield every violation below a folder."""
    sources = {
        path: path.read_text(encoding="utf-8") for name in (*PACKAGES, "tests", "examples", "benchmarks") for path in python(root / name)
    }
    trees = {path: ast.parse(text) for path, text in sources.items()}
    ours = {path: tree for path, tree in trees.items() if path.relative_to(root).parts[0] in PACKAGES}
    for path, text in sources.items():
        yield from file_rules(path, text)
    for path, tree in ours.items():
        yield from function_rules(path, tree)
        yield from docstring_rules(path, tree)
        yield from import_rules(path, tree)
        if path.relative_to(root).parts[0] != "sharding":
            yield from axis_rules(path, tree)
    yield from class_rules(ours)
    model = root / "teleflm_jax" / "model"
    lines = sum(len(text.splitlines()) for path, text in sources.items() if path.is_relative_to(model))
    if lines > MODEL_LINES:
        yield model, 1, f"{lines} lines in model/; allowed: {MODEL_LINES}"


def python(folder: pathlib.Path) -> list[pathlib.Path]:
    """Python files below a folder."""
    return sorted(path for path in folder.rglob("*.py") if not any(part.startswith(".") for part in path.parts[len(folder.parts) :]))


def file_rules(path: pathlib.Path, text: str) -> Iterator[Finding]:
    """Length and name."""
    lines = len(text.splitlines())
    if lines >= FILE_LINES:
        yield path, lines, f"{lines} lines; allowed: under {FILE_LINES}"
    if path.stem in FORBIDDEN_NAMES or path.parent.name in FORBIDDEN_NAMES:
        yield path, 1, "a name that says nothing of the content"


def function_rules(path: pathlib.Path, tree: ast.Module) -> Iterator[Finding]:
    """Length of functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > FUNCTION_LINES:
                yield path, node.lineno, f"{node.name} has {lines} lines; allowed: {FUNCTION_LINES}"


def docstring_rules(path: pathlib.Path, tree: ast.Module) -> Iterator[Finding]:
    """First words of docstrings, also of those below a field or a constant."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            first = node.value.value.split(maxsplit=1)[:1]
            if first and first[0].strip(".,:;") in OPENINGS:
                yield path, node.lineno, f"a docstring begins with {first[0]!r}; begin with an imperative or a noun"


def import_rules(path: pathlib.Path, tree: ast.Module) -> Iterator[Finding]:
    """Modules that run code from data."""
    for node in ast.walk(tree):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            if name.split(".")[0] in FORBIDDEN_MODULES:
                yield path, node.lineno, f"imports {name}, which runs code from data"


def axis_rules(path: pathlib.Path, tree: ast.Module) -> Iterator[Finding]:
    """Mesh axes, which only `sharding` names: in sizes of a mesh, partition specs and collectives."""
    for node in ast.walk(tree):
        given = []
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            given = [*node.args, *(keyword.value for keyword in node.keywords)] if name in AXIS_USERS else []
        elif isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute) and node.value.attr == "shape":
            given = [node.slice]
        for part in (part for value in given for part in ast.walk(value)):
            if isinstance(part, ast.Constant) and part.value in AXES:
                yield path, part.lineno, f"names the mesh axis {part.value!r}; only sharding/ does"


def class_rules(trees: dict[pathlib.Path, ast.Module]) -> Iterator[Finding]:
    """One class a name, and no inheritance of our own (exceptions apart)."""
    places = collections.defaultdict(list)
    for path, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append((path, node))
    for name, found in places.items():
        for path, node in found:
            if len(found) > 1 and not name.startswith("_"):
                yield path, node.lineno, f"class {name} is defined {len(found)} times; one class a name"
            for parent in node.bases:
                inherited = parent.attr if isinstance(parent, ast.Attribute) else getattr(parent, "id", "")
                if inherited in places and not _is_exception(inherited, places):
                    yield path, node.lineno, f"class {name} inherits from our own {inherited}"


def _is_exception(name: str, places: dict[str, list]) -> bool:
    parents = [getattr(parent, "id", getattr(parent, "attr", "")) for _, node in places.get(name, ()) for parent in node.bases]
    return any(parent.endswith(("Error", "Exception")) or _is_exception(parent, places) for parent in parents)


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(__file__).resolve().parents[1]))
