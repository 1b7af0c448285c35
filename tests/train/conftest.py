"""Runs here draw no curves: drawing costs more than the twenty steps of a run."""

import pytest

from teleflm_jax.observability import curves


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Draw nothing; the run that `uninterrupted` makes for a whole module comes before this."""
    monkeypatch.setattr(curves, "draw", lambda logs: None)
