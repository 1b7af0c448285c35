"""Runs here measure the device once and draw no curves: both cost more than the twenty steps of a run."""

import functools
from collections.abc import Iterator

import pytest

from teleflm_jax.hardware import throughput
from teleflm_jax.observability import curves


@pytest.fixture(scope="package", autouse=True)
def one_peak() -> Iterator[None]:
    """Measure the device's peak rate once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(throughput, "peak", functools.cache(throughput.peak))
        yield


@pytest.fixture(autouse=True)
def no_curves(monkeypatch):
    """Draw nothing; the run that `uninterrupted` makes for a whole module comes before this."""
    monkeypatch.setattr(curves, "draw", lambda logs: None)
