"""The law over parameters and tokens: found again from its own values, refusals."""

import itertools

import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.search import tokens_law
from teleflm_jax.search.tokens_law import TokensLaw, TokensRun

# Source of the constants: Hoffmann and others, 2022.
LAW = TokensLaw(floor=1.69, a=406.4, alpha=0.34, b=410.7, beta=0.28)


def runs(parameters, tokens, law=LAW):
    return [TokensRun(parameters=n, tokens=d, loss=float(law(n, d))) for n, d in itertools.product(parameters, tokens)]


def test_the_law_is_found_from_its_own_values():
    found = tokens_law.fit(runs([1e7, 3e7, 1e8, 1e9], [1e8, 1e9, 1e10, 1e11]))
    assert (found.law.floor, found.law.alpha, found.law.beta) == pytest.approx((1.69, 0.34, 0.28), rel=1e-3)
    assert found.law(7e10, 1.4e12) == pytest.approx(LAW(7e10, 1.4e12), rel=1e-3)
    assert found.residual < 1e-5 and found.warnings == ()


def test_the_best_size_grows_with_compute():
    # of L subject to 6·N·D = C: N ∝ C^(β / (α + β))
    sizes = []
    for compute in (1e20, 1e22):
        n = np.geomspace(1e7, 1e12, 20_001)
        sizes.append(n[np.argmin(LAW(n, compute / 6 / n))])
    assert np.log(sizes[1] / sizes[0]) / np.log(100) == pytest.approx(LAW.parameters_exponent, abs=1e-3)


def test_a_loss_that_does_not_fall_with_tokens_is_warned_about():
    flat = TokensLaw(floor=1.0, a=10.0, alpha=0.3, b=0.0, beta=0.3)
    assert any("the term of β is zero" in warning for warning in tokens_law.fit(runs([1, 10, 100], [1, 10, 100], flat)).warnings)


@pytest.mark.parametrize(
    "parameters, tokens, message",
    [
        ([1, 2, 3, 4], [1, 2], "got 8 runs with 4 numbers of parameters and 2 of tokens"),
        ([1, 2], [1, 2, 3, 4], "2 numbers of parameters"),
    ],
)
def test_too_few_values_are_refused(parameters, tokens, message):
    with pytest.raises(UserError, match=message):
        tokens_law.fit(runs(parameters, tokens))


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(UserError, match="leave out runs that diverged"):
        tokens_law.fit([*runs([1, 2, 3], [1, 2, 3]), TokensRun(parameters=4, tokens=4, loss=np.nan)])
