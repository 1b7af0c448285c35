"""`.ci/rules.py`: each rule finds its violation, and nothing in a file that keeps all of them."""

import importlib.util
import pathlib

import pytest

SPEC = importlib.util.spec_from_file_location("rules", pathlib.Path(__file__).parents[1] / ".ci" / "rules.py")
rules = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(rules)
GOOD = '''"""Sum numbers."""

class OwnError(ValueError):
    """Wrong numbers."""

class WorseError(OwnError):
    """Very wrong numbers."""

def total(numbers):
    """Return the sum."""
    return sum(numbers) + len({"data": 1})
'''


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("teleflm_jax/utils.py", GOOD, "a name that says nothing"),
        ("teleflm_jax/a.py", "x = 1\n" * 400, "400 lines; allowed: under 400"),
        ("teleflm_jax/a.py", "def long():\n" + "    x = 1\n" * 60, "long has 61 lines; allowed: 60"),
        ("teleflm_jax/a.py", '"""What it does."""\n', "a docstring begins with 'What'"),
        ("sharding/a.py", 'SIZE = 1\n"""Of the mesh."""\n', "a docstring begins with 'Of'"),
        ("teleflm_jax/a.py", "import pickle\n", "imports pickle"),
        ("teleflm_jax/a.py", "from marshal import loads\n", "imports marshal"),
        ("teleflm_jax/a.py", 'total = jax.lax.psum(x, ("data", "pipe"))\n', "names the mesh axis 'data'"),
        ("teleflm_jax/a.py", 'size = mesh.shape["tensor"]\n', "names the mesh axis 'tensor'"),
        ("teleflm_jax/a.py", "class A:\n    pass\nclass B(A):\n    pass\n", "class B inherits from our own A"),
        ("sharding/a.py", "class OwnError:\n    pass\n", "class OwnError is defined 2 times"),
        ("teleflm_jax/model/a.py", "x = 1\n" * 399, "lines in model/; allowed: 600"),
    ],
)
def test_each_rule_finds_its_violation(tmp_path, name, text, message):
    for kept, content in {"teleflm_jax/good.py": GOOD, "teleflm_jax/model/big.py": "x = 1\n" * 300}.items():
        (tmp_path / kept).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / kept).write_text(content)
    assert not list(rules.findings(tmp_path))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert any(message in found for _, _, found in rules.findings(tmp_path))


def test_mesh_axes_may_be_named_in_sharding(tmp_path):
    (tmp_path / "sharding").mkdir()
    (tmp_path / "sharding" / "a.py").write_text('total = jax.lax.psum(x, "data")\n')
    assert not list(rules.findings(tmp_path))
