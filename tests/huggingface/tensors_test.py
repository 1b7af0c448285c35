"""The reader of safetensors, against the library's own and against what an enemy may write."""

import json
import pathlib

import ml_dtypes
import numpy as np
import pytest
import safetensors
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teleflm_jax.errors import UserError
from teleflm_jax.huggingface import tensors

ARRAYS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.float32([[1.5]]), "none": np.zeros((0, 4), np.float32)}
QUICK = settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])


def write(path: pathlib.Path, arrays=ARRAYS, dtype="F32"):
    entries = [tensors.Entry(name=name, dtype=dtype, shape=array.shape) for name, array in arrays.items()]
    tensors.write(path, entries, (tensors.blocks(array, dtype, 1.0) for array in arrays.values()))


def raw(path: pathlib.Path, header: object, data: bytes, length: int | None = None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)


def entry(start, stop, shape, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_library_reads_what_is_written_and_so_do_we(tmp_path, dtype):
    write(tmp_path / "model.safetensors", dtype=dtype)
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="np") as theirs:
        assert set(theirs.keys()) == ARRAYS.keys() and theirs.metadata() == {"format": "pt"}
        shapes = {name: tuple(theirs.get_slice(name).get_shape()) for name in theirs.keys()}  # noqa: SIM118  (not a mapping)
    ours = tensors.read_folder(tmp_path)
    assert shapes == {name: tensor.shape for name, tensor in ours.items()}
    for name, tensor in ours.items():
        np.testing.assert_array_equal(tensor.array().astype(np.float32), ARRAYS[name])


def test_blocks_are_the_whole_rounded_once(monkeypatch):
    monkeypatch.setattr(tensors, "BLOCK_BYTES", 100)
    array = np.random.default_rng(0).normal(size=(17, 9)).astype(np.float32)
    found = np.concatenate(list(tensors.blocks(array.T, "BF16", 0.7)))
    np.testing.assert_array_equal(found, (array.T * np.float32(0.7)).astype(ml_dtypes.bfloat16))


HOSTILE = {
    "longer than the file": (b"{}", b"", 2**63),
    "no JSON": (b"{", b"", None),
    "no object": ([1], b"", None),
    "deep": (b"[" * 100_000, b"", None),
    "a huge number": (b'{"a":' + b"9" * 10_000 + b"}", b"", None),
    "a name twice": (
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b"1234",
        None,
    ),
    "overlap": ({"a": entry(0, 8, [2]), "b": entry(4, 12, [2])}, bytes(12), None),
    "gap": ({"a": entry(0, 4, [1]), "b": entry(8, 12, [1])}, bytes(12), None),
    "hole at the end": ({"a": entry(0, 4, [1])}, bytes(8), None),
    "past the end": ({"a": entry(0, 400, [100])}, bytes(8), None),
    "reversed": ({"a": entry(4, 0, [1])}, bytes(4), None),
    "negative": ({"a": entry(-4, 0, [1])}, bytes(4), None),
    "negative sizes": ({"a": entry(0, 4, [-1, -1])}, bytes(4), None),
    "a wrong shape": ({"a": entry(0, 4, [2])}, bytes(4), None),
    "a product that wraps": ({"a": entry(0, 4, [2**62, 4, 2])}, bytes(4), None),
    "no dtype": ({"a": {"shape": [1], "data_offsets": [0, 4]}}, bytes(4), None),
    "another dtype": ({"a": entry(0, 4, [1], "X32")}, bytes(4), None),
    "a dtype of a kind": ({"a": entry(0, 4, [1], {})}, bytes(4), None),
    "true": ({"a": entry(False, 4, [True])}, bytes(4), None),
    "fractions": ({"a": entry(0.0, 4.0, [1.0])}, bytes(4), None),
    "metadata": ({"__metadata__": {"a": 1}}, b"", None),
    "80,000 dimensions": ({"a": entry(0, 4, [2**62] * 80_000)}, bytes(4), None),
    "many values": (b"[" + b"0," * 9_000_000 + b"0]", b"", None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_the_format_forbids_is_refused(tmp_path, name):
    header, data, length = HOSTILE[name]
    raw(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(UserError, match="does not follow its format"):
        tensors.read_folder(tmp_path)


@QUICK
@given(st.data())
def test_a_damaged_file_is_refused_or_read_within_its_bounds(tmp_path, data):
    write(tmp_path / "whole.safetensors")
    content = bytearray((tmp_path / "whole.safetensors").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "model.safetensors").write_bytes(
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    try:
        found = tensors.read_folder(tmp_path)
    except UserError:
        return
    for tensor in found.values():
        if tensor.dtype in tensors.DTYPES:
            assert tensor.array().shape == tensor.shape


NUMBER = st.integers(-2, 24) | st.sampled_from([2**31, 2**63, 1.5, True, None, "4"])


@QUICK
@given(st.dictionaries(st.text(max_size=2), st.builds(entry, NUMBER, NUMBER, st.lists(NUMBER, max_size=2)), max_size=3), st.integers(0, 24))
def test_no_header_is_taken_that_the_library_refuses(tmp_path, header, size):
    raw(tmp_path / "model.safetensors", header, bytes(size))
    try:
        ours = tensors.read_folder(tmp_path)
    except UserError:
        return
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="np") as theirs:
        assert set(theirs.keys()) == ours.keys()


@pytest.mark.parametrize("file", ["../outside.safetensors", "/etc/passwd", "sub/model.safetensors", "..", "", "a\0b", "link.safetensors"])
def test_an_index_cannot_leave_the_folder(tmp_path, file):
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    write(tmp_path / "outside.safetensors")
    write(folder / "sub" / "model.safetensors")
    (folder / "link.safetensors").symlink_to(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(UserError, match="leaves the folder"):
        tensors.read_folder(folder)


@pytest.mark.parametrize(
    "named, message",
    [
        ({"a": "x.safetensors", "b": "x.safetensors"}, "holds 'none', for which it names 'no file'"),
        (dict.fromkeys([*ARRAYS, "c"], "x.safetensors"), "does not hold 'c'"),
        (dict.fromkeys(ARRAYS, "y.safetensors"), "without y.safetensors"),
        (dict.fromkeys(ARRAYS, 3), "no weight_map"),
        ([], "no weight_map"),
    ],
)
def test_an_index_that_does_not_fit_its_files_is_refused(tmp_path, named, message):
    write(tmp_path / "x.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    with pytest.raises(UserError, match=message):
        tensors.read_folder(tmp_path)


def test_pickles_are_refused_with_the_reason(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="runs the code in it"):
        tensors.read_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="without model.safetensors"):
        tensors.read_folder(tmp_path)


def test_a_snapshot_of_hugging_faces_cache_is_read(tmp_path):
    folder = tmp_path / "models--owner--name" / "snapshots" / "f0"
    folder.mkdir(parents=True)
    (tmp_path / "models--owner--name" / "blobs").mkdir()
    write(tmp_path / "models--owner--name" / "blobs" / "abc")
    (folder / "model.safetensors").symlink_to("../../blobs/abc")
    assert tensors.read_folder(folder).keys() == tensors.read_header(tmp_path / "models--owner--name" / "blobs" / "abc").keys()
    write(tmp_path / "outside.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../../outside.safetensors")
    with pytest.raises(UserError, match="leaves the folder"):
        tensors.read_folder(folder)
