"""Sizes and costs: the exact counts of the four published shapes, and where the printed ones come from."""

import dataclasses

import pytest

from sharding.config import padded_vocab_size
from teleflm_jax.model import size
from teleflm_jax.model.config import ModelConfig


def shape(layers, heads, d_model, d_ff, **other):
    values = {"vocab_size": 80_000, "context_length": 4_096, "num_kv_heads": heads, **other}
    return ModelConfig(num_layers=layers, num_heads=heads, d_model=d_model, d_ff=d_ff, **values)


PROXY = shape(64, 4, 512, 1_344)
B52 = shape(64, 64, 8_192, 21_824)
B102 = shape(80, 80, 10_240, 27_264)
T1 = shape(140, 160, 20_480, 98_304)


@pytest.mark.parametrize(
    ("config", "exact"),
    [(PROXY, 281_215_488), (B52, 52_817_829_888), (B102, 102_198_487_040), (T1, 1_083_735_265_280)],
)
def test_published_shapes_have_their_exact_counts(config, exact):
    assert sum(size.parameters(config).values()) == exact
    h, f, v, layers = config.d_model, config.d_ff, config.vocab_size, config.num_layers
    assert exact == layers * (4 * h * h + 3 * h * f) + 2 * v * h + (2 * layers + 1) * h


@pytest.mark.parametrize(("config", "printed"), [(PROXY, "0.28"), (B52, "52.85"), (B102, "102.3")])
def test_the_three_smaller_printed_sizes_count_the_feed_forward_as_8hh(config, printed):
    approximate = 12 * config.num_layers * config.d_model**2 + 2 * config.vocab_size * config.d_model
    assert f"{approximate / 1e9:.{len(printed.split('.')[1])}f}" == printed


def test_a_small_model_counted_by_hand():
    config = shape(2, 4, 8, 5, num_kv_heads=2, vocab_size=10)
    assert size.parameters(config) == {
        "embedding": 80,
        "attention": 2 * (64 + 64 + 32 + 32),
        "feed-forward": 2 * 3 * 40,
        "norms": 5 * 8,
        "head": 80,
    }


def test_output_biases_are_two_vectors_a_layer():
    assert size.parameters(dataclasses.replace(B52, output_biases=True)) == {"biases": 64 * 2 * 8_192, **size.parameters(B52)}


def test_grouped_heads_only_shrink_keys_and_values():
    full, grouped = size.parameters(B52), size.parameters(dataclasses.replace(B52, num_kv_heads=8))
    assert full["attention"] - grouped["attention"] == 64 * 2 * 8_192 * (8_192 - 1_024)
    assert {**full, "attention": 0} == {**grouped, "attention": 0}


@pytest.mark.parametrize(("tensor", "rows"), [(1, 80_000), (4, 80_384), (8, 80_896), (16, 81_920), (32, 81_920)])
def test_the_vocabulary_is_padded_as_in_the_released_checkpoints(tensor, rows):
    assert padded_vocab_size(80_000, tensor) == rows
    assert padded_vocab_size(rows, tensor) == rows


def test_flops_per_token_of_the_52b_model():
    flops = size.flops_per_token(B52)
    assert {name: round(value / 1e9, 1) for name, value in flops.items()} == {"6n": 316.9, "causal": 325.9, "full": 338.7}
    assert flops["full"] - flops["causal"] == 6 * 64 * 4_096 * 8_192
