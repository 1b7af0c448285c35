import math

import jax
import numpy as np
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import bpb
from teleflm_jax.packing.records import HeldOut
from teleflm_jax.tokenizer import layout
from tests import tiny

CONTEXT = 16
LAYOUT = rules.layout(MeshConfig(zero=0), 32)


def document(length, seed, num_bytes=None):
    tokens = np.random.default_rng(seed).integers(4, 64, length, dtype=np.uint32)
    return HeldOut(tokens=tokens, num_bytes=num_bytes or 3 * length)


DOCUMENTS = {
    "web": [document(length, length) for length in (1, 5, 16, 17, 40)],
    "code": [document(33, 2)],
}


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def plain(model):
    """Float64 log-probabilities of one padded window in numpy, from the model's logits."""

    def log_probabilities(inputs):
        padded = np.zeros((1, CONTEXT), np.int32)
        padded[0, : len(inputs)] = inputs
        logits = np.asarray(tiny.logits(model, padded), np.float64)[0, : len(inputs)]
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    return log_probabilities


def nats(document, log_probabilities):
    """One document, token by token, each with the context that its window gives it."""
    text, total = [layout.BOS, *document.tokens.tolist()], 0.0
    for position in range(1, len(text)):
        window_end = min(-(-position // CONTEXT) * CONTEXT, len(text) - 1)
        start = max(0, window_end - CONTEXT)
        total -= log_probabilities(text[start:position])[-1, text[position]]
    return total


def test_scores_equal_a_plain_softmax_document_by_document(model, plain):
    scores = bpb.measure(model, DOCUMENTS, batch_size=2, layout=LAYOUT, bos=layout.BOS)
    for domain, documents in DOCUMENTS.items():
        total = sum(nats(each, plain) for each in documents)
        num_tokens, num_bytes = sum(len(each.tokens) for each in documents), sum(each.num_bytes for each in documents)
        assert (scores[domain].tokens, scores[domain].num_bytes) == (num_tokens, num_bytes)
        assert scores[domain].loss == pytest.approx(total / num_tokens, rel=1e-6)
        assert scores[domain].bpb == pytest.approx(total / math.log(2) / num_bytes, rel=1e-6)


@pytest.mark.parametrize("config", [{"tensor": 4}, {"tensor": 2, "pipe": 2}, {"zero": 3}])
def test_scores_are_the_same_on_every_mesh(model, config):
    split = rules.layout(MeshConfig(**config), 32)
    placed = jax.jit(split.to_runtime, out_shardings=split.shardings(model))(model)
    expected = bpb.measure(model, DOCUMENTS, batch_size=2, layout=LAYOUT, bos=layout.BOS)
    for domain, score in bpb.measure(placed, DOCUMENTS, batch_size=2, layout=split, bos=layout.BOS).items():
        assert score.nats == pytest.approx(expected[domain].nats, rel=1e-5)


def test_a_uniform_model_pays_log2_of_the_vocabulary_per_token(model):
    uniform = jax.tree.map(np.zeros_like, model)
    (score,) = bpb.measure(uniform, {"web": [document(21, 0, num_bytes=50)]}, batch_size=1, layout=LAYOUT, bos=layout.BOS).values()
    assert score.bpb == pytest.approx(math.log2(64) * 21 / 50)
    assert score.loss == pytest.approx(math.log(64))


def test_scores_depend_neither_on_batches_nor_on_order_nor_on_other_domains(model):
    scores = bpb.measure(model, DOCUMENTS, batch_size=2, layout=LAYOUT, bos=layout.BOS)
    turned = {"code": DOCUMENTS["code"], "web": DOCUMENTS["web"][::-1]}
    for documents, batch_size in ((DOCUMENTS, 16), (turned, 2), ({"code": DOCUMENTS["code"]}, 2)):
        for domain, score in bpb.measure(model, documents, batch_size=batch_size, layout=LAYOUT, bos=layout.BOS).items():
            assert score.nats == pytest.approx(scores[domain].nats, rel=1e-6)


def test_documents_do_not_see_each_other(model):
    apart = [bpb.measure(model, {"web": [each]}, batch_size=2, layout=LAYOUT, bos=layout.BOS)["web"].nats for each in DOCUMENTS["web"]]
    assert bpb.measure(model, DOCUMENTS, batch_size=2, layout=LAYOUT, bos=layout.BOS)["web"].nats == pytest.approx(sum(apart), rel=1e-6)


def test_the_evaluator_names_every_domain_and_weighs_them(model):
    shares = {"web": 3.0, "code": 1.0, "book": 5.0}
    evaluate = bpb.evaluator(DOCUMENTS, shares, context_length=CONTEXT, batch_size=2, layout=LAYOUT, bos=layout.BOS)
    scores = bpb.measure(model, DOCUMENTS, batch_size=2, layout=LAYOUT, bos=layout.BOS)
    paused = []
    found = evaluate(7, model, lambda: paused.append(1))
    assert len(paused) == len(bpb.prepare(DOCUMENTS, CONTEXT, 2, LAYOUT, layout.BOS)) > 1
    assert found.keys() == {"bpb/web", "bpb/code", "loss/web", "loss/code", "bpb"}
    assert found["bpb/web"] == pytest.approx(scores["web"].bpb) and found["loss/code"] == pytest.approx(scores["code"].loss)
    assert found["bpb"] == pytest.approx((3 * scores["web"].bpb + scores["code"].bpb) / 4)
    assert all(type(value) is float for value in found.values())


@pytest.mark.parametrize("tokens, num_bytes", [([], 3), ([5, 6], 0)])
def test_a_domain_without_a_token_or_a_byte_is_refused_before_anything_is_measured(model, tokens, num_bytes):
    documents = DOCUMENTS | {"empty": [HeldOut(tokens=np.array(tokens, np.uint32), num_bytes=num_bytes)]}
    with pytest.raises(UserError, match=rf"got empty to measure, with {len(tokens)} token\(s\) of {num_bytes} byte\(s\); allowed: "):
        bpb.measure(model, documents, batch_size=2, layout=LAYOUT, bos=layout.BOS)
    with pytest.raises(UserError, match="got empty to measure"):
        bpb.evaluator(documents, dict.fromkeys(documents, 1.0), context_length=CONTEXT, batch_size=2, layout=LAYOUT, bos=layout.BOS)


def test_what_pause_raises_ends_an_evaluation_between_two_batches(model):
    calls = []

    def pause():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt

    evaluate = bpb.evaluator(DOCUMENTS, {"web": 3.0, "code": 1.0}, context_length=CONTEXT, batch_size=2, layout=LAYOUT, bos=layout.BOS)
    with pytest.raises(KeyboardInterrupt):
        evaluate(7, model, pause)
    assert len(calls) == 2
