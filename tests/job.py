"""A small run on real text (the interpreter's own library), shared by tests that call the commands as a user does."""

import os
import pathlib
import sysconfig

from tests import compiler

ROOT = pathlib.Path(__file__).resolve().parents[1]
AS_USERS = {name: value for name, value in os.environ.items() if name not in ("XLA_FLAGS", "JAX_PLATFORMS")} | {"PYTHONPATH": str(ROOT)}
"""The environment of a command that a test starts as users do: without the settings of tests/conftest.py for its own process."""
WITHOUT_TORCH = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "without_torch")])
BARE = AS_USERS | {"XLA_FLAGS": compiler.FAST_COMPILE, "PYTHONPATH": WITHOUT_TORCH}
"""The same for a command whose programs need not be fast and that has nothing to do with PyTorch."""

GIN = """
model.num_layers = {layers}
model.d_model = 32
model.num_heads = {heads}
model.num_kv_heads = {heads}
model.d_ff = 64
model.vocab_size = 512
model.context_length = 64
model.compute_dtype = 'float32'
mup.base_width = 32
mup.learning_rate = 1e-2
optimizer.warmup_steps = 4
optimizer.decay_tokens = 200_000
tokenizer.vocab_size = 512
pack.heldout_fraction = 0.1
data.sources = {{'email': '{root}/email', 'json': '{root}/json'}}
data.proportions = {{'email': 2.0, 'json': 1.0}}
data.tokenizer = '{root}/tokenizer.json'
data.packed = '{root}/packed'
"""


def write(root: pathlib.Path, train: str, *, layers: int, heads: int) -> pathlib.Path:
    """Write two domains of text and a run's configuration, whose `train.*` are given; returns the configuration's path."""
    library = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for domain, files in {"email": library.glob("email/*.py"), "json": library.glob("[a-c]*.py")}.items():
        (root / domain).mkdir()
        for file in sorted(files)[:25]:
            (root / domain / file.name).write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    gin = root / "run.gin"
    gin.write_text(GIN.format(root=root, layers=layers, heads=heads) + train)
    return gin
