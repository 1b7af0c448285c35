import jax
import pytest

from sharding import rules
from sharding.config import MeshConfig
from teleflm_jax.generate import decoder
from teleflm_jax.generate.engine import Engine
from teleflm_jax.serve import protocol
from teleflm_jax.tokenizer import load, train
from tests import tiny
from tests.serve import servers

VOCABULARY = 390
CONTEXT = 32


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    path = folder / "tokenizer.json"
    path.write_text(train.train(iter(["the time of the house", "a time of times"] * 9), VOCABULARY), encoding="utf-8")
    return protocol.served("tiny", folder, load.load(path), context_length=CONTEXT, vocab_size=VOCABULARY)


@pytest.fixture(scope="session")
def weights():
    config = tiny.config(vocab_size=VOCABULARY, context_length=CONTEXT, num_layers=1)
    layout = rules.layout(MeshConfig(data=1), config.d_model, jax.devices()[:1])
    return decoder.decoder(jax.device_put(tiny.model(config), layout.replicated()), layout)


@pytest.fixture(scope="session")
def live(served, weights):
    """A server with a real model."""
    with servers.running(served, lambda: Engine(weights, served.tokenizer, slots=2), slots=2) as running:
        yield running


@pytest.fixture(scope="session")
def client(live):
    with live.client() as found:
        yield found


@pytest.fixture
def by_hand(served):
    """A server whose engine takes a step when a test says so, two texts at a time, two more waiting."""
    engine = servers.ByHand()
    with servers.running(served, lambda: engine, slots=2, queue=2) as running:
        running.engine = engine
        with running.client() as running.openai:
            yield running
        for _ in range(99):
            engine.orders.put("step")
