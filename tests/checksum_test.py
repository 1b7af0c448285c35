import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from teleflm_jax import checksum

X = np.random.default_rng(0).standard_normal((8, 6, 10)).astype(np.float32)


def of(x) -> int:
    return checksum.of_tree({"x": x})[0]["x"]


def test_blocks_of_a_file_add_up_to_what_the_devices_find():
    for blocks in ((8, 6, 10), (3, 6, 4), (1, 1, 7)):
        total = 0
        for index in np.ndindex(*(-(-n // b) for n, b in zip(X.shape, blocks, strict=True))):
            start = tuple(i * b for i, b in zip(index, blocks, strict=True))
            block = X[tuple(slice(s, s + b) for s, b in zip(start, blocks, strict=True))]
            total += checksum.of_block(np.ascontiguousarray(block), start)
        assert total % 2**32 == of(jnp.asarray(X))


@pytest.mark.parametrize("spec", [P(), P("a"), P("a", "b"), P(None, "b"), P(("a", "b"))])
def test_it_does_not_depend_on_how_the_array_is_split(spec):
    mesh = Mesh(np.array(jax.devices()[:8]).reshape(4, 2), ("a", "b"))
    assert of(jax.device_put(X, NamedSharding(mesh, spec))) == of(jnp.asarray(X))


@given(st.integers(0, X.size - 1), st.integers(0, 31))
def test_every_flipped_bit_shows(place, bit):
    bits = X.copy().reshape(-1).view(np.uint32)
    bits[place] ^= np.uint32(1 << bit)
    assert checksum.of_block(bits.view(np.float32).reshape(X.shape), (0, 0, 0)) != checksum.of_block(X, (0, 0, 0))


def test_values_in_other_places_show():
    for changed in (X[::-1], X[:, ::-1], np.roll(X, 1, axis=2), np.swapaxes(X, 0, 0) * 0):
        assert of(jnp.asarray(changed)) != of(jnp.asarray(X))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "uint8"])
def test_every_dtype_of_a_state_has_one(dtype):
    x = jnp.arange(60).reshape(3, 20).astype(dtype)
    assert of(x) == checksum.of_block(np.asarray(x), (0, 0)) != of(x.at[1, 2].add(1))


def test_it_says_whether_all_is_finite():
    tree = {"a": jnp.ones(3), "b": jnp.arange(3)}
    assert checksum.of_tree(tree)[1] and checksum.of_tree({"b": jnp.arange(3)})[1]
    for value in (jnp.nan, jnp.inf):
        assert not checksum.of_tree(tree | {"c": jnp.array([0.0, value])})[1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_value_that_is_not_finite_shows_wherever_it_lies_in_a_large_array(value):
    for place in (0, 1, 4_096, 123_456, 3 * 256 * 256 - 1):
        array = np.full((3, 256, 256), -2.0, np.float32)
        array.flat[place] = value
        assert not checksum.of_tree({"a": jnp.asarray(array)})[1], place
