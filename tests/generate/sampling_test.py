import jax
import jax.numpy as jnp
import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.generate import sampling
from teleflm_jax.generate.sampling import Sampling


def kept(logits, top_k=0, top_p=1.0):
    found = sampling.apply_top_k_top_p(jnp.array([logits]), jnp.array([top_k]), jnp.array([top_p], jnp.float32))
    return np.flatnonzero(np.isfinite(found[0])).tolist()


def draw(logits, settings, times=4000, seen=None):
    logits = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (times, len(logits)))
    seen = jnp.broadcast_to(jnp.zeros(logits.shape[1], bool) if seen is None else jnp.array(seen), logits.shape)
    counts = jnp.zeros(logits.shape, jnp.int32)
    tokens = sampling.sample(jax.random.split(jax.random.key(0), times), logits, seen, counts, sampling.arrays([settings] * times))
    return np.bincount(tokens, minlength=logits.shape[1]) / times


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    logits = np.log([0.1, 0.5, 0.15, 0.25])
    assert kept(logits, top_p=0.4) == [1]
    assert kept(logits, top_p=0.6) == [1, 3]
    assert kept(logits, top_p=0.76) == [1, 2, 3]
    assert kept(logits, top_p=0.95) == [0, 1, 2, 3]


def test_top_k_comes_before_top_p():
    logits = np.log([0.1, 0.5, 0.15, 0.25])
    assert kept(logits, top_k=2) == [1, 3]
    assert kept(logits, top_k=2, top_p=0.66) == [1]  # 0.5 of the remaining 0.75
    assert kept(logits, top_k=9) == [0, 1, 2, 3]


def test_ties_are_cut_and_the_likeliest_always_stays():
    assert kept([0.0] * 8, top_p=0.5) == [0, 1, 2, 3]
    assert kept([0.0] * 8, top_k=3) == [0, 1, 2]
    assert kept([0.0, 5.0], top_p=1e-9) == kept([0.0, 5.0], top_p=0.0) == [1]
    assert kept([5.0, 5.0], top_p=0.0) == [0]


def test_what_is_kept_keeps_its_logit():
    logits = jnp.array([[3.0, 1.0, 2.0], [0.0, 9.0, 8.0]])
    np.testing.assert_array_equal(
        sampling.apply_top_k_top_p(logits, jnp.array([2, 2]), jnp.ones(2)), [[3.0, -np.inf, 2.0], [-np.inf, 9.0, 8.0]]
    )


def test_the_penalty_moves_seen_tokens_down_whatever_their_sign():
    logits, seen = jnp.array([[2.0, -2.0, 2.0, -2.0]]), jnp.array([[True, True, False, False]])
    np.testing.assert_allclose(sampling.apply_repetition_penalty(logits, seen, jnp.array([4.0])), [[0.5, -8.0, 2.0, -2.0]])


def test_presence_and_frequency_are_taken_from_what_was_written():
    logits, counts = jnp.array([[1.0, -1.0, 0.5, 2.0]] * 2), jnp.array([[0, 1, 3, 70_000]] * 2)
    found = sampling.apply_count_penalties(logits, counts, jnp.array([0.5, 0.0]), jnp.array([0.25, -2.0]))
    np.testing.assert_array_equal(found, [[1.0, -1.75, -0.75, 2 - 0.5 - 17_500], [1.0, 1.0, 6.5, 140_002]])


def test_biases_are_added_and_those_of_no_token_are_none():
    rows = sampling.arrays([Sampling(logit_bias=((2, 5.0), (0, -100.0))), Sampling()])
    logits = jnp.array([[1.0, -0.0, 3.0]] * 2)
    np.testing.assert_array_equal(sampling.apply_logit_bias(logits, rows["bias_ids"], rows["biases"]), [[-99.0, 0.0, 8.0], [1.0, 0.0, 3.0]])


def test_a_row_without_penalties_and_biases_keeps_every_bit_beside_one_that_has_them():
    logits = jax.random.normal(jax.random.key(1), (2, 50)).at[:, :2].set(jnp.array([-0.0, 0.0]))
    counts, rows = jnp.full((2, 50), 3), sampling.arrays([Sampling(), Sampling(presence_penalty=1.0, logit_bias=((4, 1.0),))])
    found = sampling.apply_logit_bias(logits, rows["bias_ids"], rows["biases"])
    found = sampling.apply_count_penalties(found, counts, rows["presence_penalty"], rows["frequency_penalty"])
    assert np.asarray(found[0]).tobytes() == np.asarray(logits[0]).tobytes()
    assert (np.asarray(found[1]) != np.asarray(logits[1]))[4:].all()


def test_temperature_zero_is_the_likeliest_token():
    assert draw([0.1, 0.3, 0.2], Sampling(temperature=0.0), times=3).tolist() == [0, 1, 0]
    assert draw([0.1, 0.3, 0.2], Sampling(temperature=1e-30, top_p=1.0), times=3).tolist() == [0, 1, 0]
    assert draw([0.1, 0.3, 0.2], Sampling(temperature=1e-5, top_p=1.0), times=3).tolist() == [0, 1, 0]
    seen = [False, True, False]
    assert draw([0.1, 0.3, 0.2], Sampling(temperature=0.0, repetition_penalty=2.0), times=3, seen=seen).tolist() == [0, 0, 1]


def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest():
    share = np.array([0.1, 0.5, 0.15, 0.25])
    found = draw(np.log(share), Sampling(temperature=1.0, top_p=1.0, min_p=0.4))
    np.testing.assert_allclose(found, [0, 2 / 3, 0, 1 / 3], atol=0.03)
    assert draw(np.log(share), Sampling(temperature=1.0, top_p=1.0, min_p=1.0)).tolist() == [0, 1, 0, 0]


def test_each_row_has_its_own_settings():
    rows = [
        Sampling(temperature=0.0),
        Sampling(temperature=1.0, top_p=0.6),
        Sampling(temperature=1.0, top_k=1),
        Sampling(temperature=1.0, top_p=1.0),
    ]
    logits = jnp.broadcast_to(jnp.log(jnp.array([0.1, 0.5, 0.15, 0.25])), (4000, 4))
    seen = jnp.zeros((4000, 4), bool)
    keys, counts = jax.random.split(jax.random.key(0), 4000), jnp.zeros((4000, 4), jnp.int32)
    tokens = np.asarray(sampling.sample(keys, logits, seen, counts, sampling.arrays(rows * 1000)))
    assert [sorted(set(tokens[i::4].tolist())) for i in range(4)] == [[1], [1, 3], [1], [0, 1, 2, 3]]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_follow_the_tempered_distribution(temperature):
    share = np.array([0.1, 0.2, 0.3, 0.4]) ** (1 / temperature)
    found = draw(np.log([0.1, 0.2, 0.3, 0.4]), Sampling(temperature=temperature, top_p=1.0))
    np.testing.assert_allclose(found, share / share.sum(), atol=0.03)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": -0.1},
        {"top_p": 1.01},
        {"top_p": float("nan")},
        {"top_k": 2**31},
        {"min_p": -0.1},
        {"min_p": 1.1},
        {"presence_penalty": 2.1},
        {"presence_penalty": float("nan")},
        {"frequency_penalty": -2.1},
        {"frequency_penalty": float("inf")},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
    ],
)
def test_a_wrong_setting_is_named(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=rf"^got {name} .*; allowed: .*; change {name}$"):
        Sampling(**wrong)


@pytest.mark.parametrize("wrong", [((1, 101.0),), ((1, float("nan")),), tuple((i, 1.0) for i in range(1025))])
def test_a_wrong_bias_is_named(wrong):
    with pytest.raises(
        UserError, match=r"^got logit_bias with [0-9,]+ entries; allowed: at most 1,024, each from -100 to 100; change them$"
    ):
        Sampling(logit_bias=wrong)
