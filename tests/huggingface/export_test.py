import json
import os
import pathlib
import shutil
import subprocess
import sys

import gguf
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import nnx

from teleflm_jax import mup
from teleflm_jax.huggingface import export as exporting
from teleflm_jax.huggingface import tensors
from teleflm_jax.model.transformer import Transformer
from tests.huggingface import folders
from tests.job import BARE

LIMIT = 600 << 20
"""Bytes of data that the process may have, the interpreter's 170 MB included."""


@pytest.fixture
def export(trained, tmp_path, capsys):
    """Export the trained run to tmp_path/out in small files; returns exit code and stderr."""

    def run(*arguments, workdir=trained):
        code = folders.call("export", "--workdir", workdir, "--out", tmp_path / "out", "--shard_bytes", 20_000, *arguments)
        return code, capsys.readouterr().err

    return run


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_index_names_every_tensor_once_and_files_keep_to_their_size(export, tmp_path):
    assert export()[0] == 0
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    found = tensors.read_folder(tmp_path / "out")
    assert found.keys() == index["weight_map"].keys() and len(found) == 3 + 2 * 9
    assert index["metadata"]["total_size"] == sum(2 * np.prod(tensor.shape) for tensor in found.values())
    for file in {tensor.path for tensor in found.values()}:
        held = [2 * np.prod(tensor.shape) for tensor in found.values() if tensor.path == file]
        assert sum(held) <= 20_000 or len(held) == 1
    assert {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }


@pytest.mark.parametrize("stopped_at", [0, 2, 3])
def test_an_export_that_was_stopped_goes_on_and_gives_the_same_files(export, tmp_path, monkeypatch, stopped_at):
    assert export()[0] == 0
    whole = contents(tmp_path / "out")
    shutil.rmtree(tmp_path / "out")
    write, written = tensors.write, []

    def until(path, *arguments):
        if len(written) == stopped_at:
            written.append(None)
            raise KeyboardInterrupt
        written.append(path.name)
        write(path, *arguments)

    monkeypatch.setattr(tensors, "write", until)
    assert export()[0] == 130
    assert not (tmp_path / "out").exists() and (tmp_path / "out.partial").is_dir()
    assert "not a started export of this checkpoint" in export("--dtype", "float32")[1]
    written += [None] * 9
    assert export()[0] == 0
    again = [name for name in written if name]
    assert len(again) == len(set(again)), "no file is written twice"
    assert contents(tmp_path / "out") == whole and not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("kind", ["a FIFO", "a deep file", "none"])
def test_a_beginning_that_is_no_plain_json_is_refused(export, tmp_path, kind):
    (tmp_path / "out.partial").mkdir()
    state = tmp_path / "out.partial" / exporting.STATE
    if kind == "a FIFO":
        os.mkfifo(state)
    elif kind == "a deep file":
        state.write_text("[" * 1_000_000)
    code, told = export()
    assert code == 2 and "not a started export of this checkpoint" in told.splitlines()[-1] and not (tmp_path / "out").exists()


def test_a_full_disk_leaves_nothing_under_the_name(trained, tmp_path):
    """Stands for it: a limit on the size of a file, which is met in the middle of one."""
    program = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); "
        "from teleflm_jax.cli.main import entry; sys.exit(entry())"
    )
    arguments = ["export", "--workdir", str(trained), "--out", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", program, *arguments], env=BARE, capture_output=True, text=True)
    assert done.returncode != 0 and not (tmp_path / "out").exists()
    assert not list((tmp_path / "out.partial").glob("*.safetensors*"))
    assert folders.call(*arguments) == 0


def test_a_disk_too_small_is_told_before_anything_is_written(export, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1_000}))
    code, told = export()
    assert code == 2 and "got 0.0 MB of free disk" in told and list(tmp_path.iterdir()) == []


def test_a_weight_that_its_disk_has_not_kept_ends_the_export(export, trained, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    data = max((run / "checkpoints" / "8" / "model").rglob("d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    for place in range(0, len(content), 97):
        content[place] ^= 1
    data.write_bytes(content)
    code, told = export(workdir=run)
    assert code == 2 and "damaged checkpoint" in told and not (tmp_path / "out").exists()


def test_what_cannot_be_exported_is_one_line(export):
    assert "35 % of the report's would lose digits" in export("--dtype", "float16")[1]
    assert "got --shard_bytes 0" in export("--shard_bytes", "0")[1]
    assert "got step 3; allowed: 8" in export("--step", "3")[1]
    assert export()[0] == 0
    code, told = export()
    assert code == 2 and "exists already" in told


def test_rounding_that_folding_causes_is_told(export, tmp_path):
    code, told = export()
    assert code == 0 and "embedding times 3 is no product by a power of two" in told and "head" not in told
    shutil.rmtree(tmp_path / "out")
    assert "note" not in export("--dtype", "float32")[1]


@pytest.fixture(scope="module")
def large(qwen2_tokenizer, tmp_path_factory):
    """A run whose weights take more than LIMIT, and the row of numbers that they repeat."""
    shape = folders.shape(num_layers=10, d_model=1_024, num_heads=8, num_kv_heads=8, d_ff=4_096)
    rates = mup.MupConfig(base_width=1_024)
    like = jax.eval_shape(lambda: Transformer(shape, mup.at_width(rates, 1_024), rngs=nnx.Rngs(0)))
    row = np.random.default_rng(0).normal(size=1_009).astype(np.float32)  # repeats itself: the checkpoint takes no room
    model = jax.tree.map(lambda x: jnp.asarray(np.resize(row, x.shape)), like)
    assert sum(x.nbytes for x in jax.tree.leaves(model)) > LIMIT
    return folders.write(tmp_path_factory.mktemp("large") / "run", shape, rates, qwen2_tokenizer, model), row


def export_in_little_memory(run, *arguments):
    program = f"import resource, sys; resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT}, {LIMIT})); "
    program += "from teleflm_jax.cli.main import entry; sys.exit(entry())"
    command = ["export", "--workdir", run, "--out", *arguments]
    subprocess.run([sys.executable, "-c", program, *map(str, command)], env=BARE, check=True)


def expected_gate(row, dtype):
    """The gate of the last layer, as bits."""
    return np.resize(row, (10, 1_024, 4_096))[9].T.astype(dtype).view(np.uint16)


def test_a_model_larger_than_the_memory_is_exported(large, tmp_path):
    run, row = large
    export_in_little_memory(run, tmp_path / "out", "--shard_bytes", 100_000_000)
    found = tensors.read_folder(tmp_path / "out")
    gate = found["model.layers.9.mlp.gate_proj.weight"].array()
    np.testing.assert_array_equal(gate.view(np.uint16), expected_gate(row, gate.dtype))
    assert os.path.getsize(found["lm_head.weight"].path) < 110_000_000


@pytest.mark.slow
def test_a_model_larger_than_the_memory_is_exported_as_gguf(large, tmp_path):
    run, row = large
    export_in_little_memory(run, tmp_path / "out.gguf", "--format", "gguf")
    [same] = [tensor for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors if tensor.name == "blk.9.ffn_gate.weight"]
    np.testing.assert_array_equal(same.data.view(np.uint16), expected_gate(row, ml_dtypes.bfloat16))
