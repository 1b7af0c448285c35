import pytest

from teleflm_jax.generate.engine import Engine
from tests.serve import servers


@pytest.fixture(scope="session")
def served(tmp_path_factory):
    return servers.tiny_served(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def weights():
    return servers.tiny_weights()


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
