"""Runs here share what is traced for one shape and draw no curves."""

from collections.abc import Iterator

import pytest

from teleflm_jax.observability import curves
from tests.train import sharing


@pytest.fixture(scope="package", autouse=True)
def shared_traces() -> Iterator[None]:
    """Trace each shape once."""
    with sharing.shared_traces():
        yield


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Draw nothing; the run that `uninterrupted` makes for a whole module comes before this."""
    monkeypatch.setattr(curves, "draw", lambda logs: None)
