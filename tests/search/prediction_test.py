"""Prediction of losses: published points of the authors' own code, hand-made laws, refusals."""

import numpy as np
import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.search import prediction
from teleflm_jax.search.prediction import SizeRun

# Parameters in millions and training loss at 20k steps of widths 128 … 3,072. Source: cofe-ai/Mu-scaling.
MU_SCALING = (
    (8.53, 3.9181), (21.56, 3.6054), (39.09, 3.4431), (61.12, 3.3542), (87.65, 3.2902),
    (118.68, 3.2478), (154.21, 3.2240), (194.24, 3.1797), (676.48, 3.0854), (1446.72, 3.0425),
)  # fmt: skip
# GPT at 7k steps, widths 128 … 1,024, with µP and without. Source: cofe-ai/nanoLM.
NANOLM_SIZES = (8.82, 22.36, 40.61, 63.59, 91.28, 123.69, 160.82, 202.67)
NANOLM_MUP = (4.52, 4.25, 4.16, 4.10, 4.04, 4.01, 4.00, 3.98)
NANOLM_STANDARD = (4.73, 4.48, 4.50, 4.42, 4.36, 4.33, 4.29, 4.31)


def runs(sizes, losses):
    return [SizeRun(size=size, loss=loss) for size, loss in zip(sizes, losses, strict=True)]


@pytest.fixture(scope="module")
def published():
    fitted, held_out = MU_SCALING[:7], MU_SCALING[7:]
    return prediction.fit(runs(*zip(*fitted, strict=True)), [size for size, _ in held_out])


def test_published_points_give_the_published_law(published):
    assert (published.law.a, published.law.b, published.law.c) == pytest.approx((2.4694, -0.42311, 2.92330), abs=1e-3)
    assert published.residual == pytest.approx(0.0070, abs=5e-5)
    assert published.seeds_sigma is None


def test_published_points_predict_the_three_larger_models(published):
    assert [one.loss for one in published.predicted] == pytest.approx([3.189, 3.080, 3.037], abs=5e-4)
    # the bootstrap of the record drew other numbers: its ends agree to their own sampling error
    assert [one.low for one in published.predicted] == pytest.approx([3.178, 3.054, 3.000], abs=3e-3)
    assert [one.high for one in published.predicted] == pytest.approx([3.201, 3.107, 3.072], abs=3e-3)
    for one, (_, measured) in zip(published.predicted, MU_SCALING[7:], strict=True):
        assert one.low < measured < one.high


def test_few_points_under_predict_and_are_warned_about(published):
    assert [part.count for part in published.by_count] == [4, 5, 6, 7]
    assert [part.predicted for part in published.by_count] == pytest.approx([2.975, 2.994, 3.012, 3.037], abs=1e-3)
    assert [part.c for part in published.by_count][:: len(published.by_count) - 1] == pytest.approx([2.79, 2.92], abs=5e-3)
    assert any(warning.startswith("c rises with each added width (2.79") for warning in published.warnings)
    assert not any("few points" in warning for warning in published.warnings)
    few = prediction.fit(runs(*zip(*MU_SCALING[:4], strict=True)), [1446.72], samples=10)
    assert few.predicted[0].loss < 3.0425
    assert few.left_out is None and any("few points under-predict" in warning for warning in few.warnings)
    assert any("24 times the largest" in warning for warning in few.warnings)


def test_leaving_the_largest_out_compares_it_with_the_fit_to_the_others(published):
    without = prediction.power_law(*np.array(MU_SCALING[:6]).T)
    assert published.left_out == pytest.approx(without(154.21) - 3.2240, abs=1e-12)


def test_nanolm_follows_the_law_under_mup_only():
    mup = prediction.fit(runs(NANOLM_SIZES[:7], NANOLM_MUP[:7]), [202.67], samples=10)
    assert mup.predicted[0].loss == pytest.approx(3.979, abs=1e-3)  # measured: 3.98
    assert mup.residual == pytest.approx(0.011, abs=1e-3)
    standard = prediction.fit(runs(NANOLM_SIZES[:7], NANOLM_STANDARD[:7]), [], samples=10)
    assert standard.residual == pytest.approx(0.041, abs=1e-3)


def test_an_exact_law_is_found_in_any_unit():
    for unit in (1.0, 1e6, 1e18):
        sizes = np.array([1.0, 2, 4, 8, 16]) * unit
        law = prediction.power_law(sizes, 3.0 * sizes**-0.25 + 2.0)
        assert (law.a, law.b, law.c) == pytest.approx((3.0, -0.25, 2.0), rel=1e-5)


def test_seeds_are_averaged_and_widen_the_interval():
    sizes = [1.0, 2, 4, 8, 16]
    exact = [(size, 3 * size**-0.5 + 2) for size in sizes]
    found = prediction.fit(
        [SizeRun(size=size, loss=loss + d, seed=d > 0) for size, loss in exact for d in (-0.01, 0.01)], [64.0], samples=500
    )
    assert found.seeds_sigma == pytest.approx(0.01 * np.sqrt(2))
    assert found.predicted[0].loss == pytest.approx(3 / 8 + 2, abs=1e-6)
    assert found.predicted[0].high - found.predicted[0].low > 0.02
    assert prediction.fit(runs(*zip(*exact, strict=True)), [64.0]).predicted[0].high == pytest.approx(3 / 8 + 2, abs=1e-3)


def test_a_law_without_asymptote_is_warned_about():
    sizes = np.array([1.0, 2, 4, 8, 16, 32, 64])
    assert any("asymptote" in warning for warning in prediction.fit(runs(sizes, 5 - 0.3 * np.log(sizes)), [], samples=10).warnings)


def test_a_bad_fit_is_told_from_noise():
    losses = [4.0, 3.5, 3.6, 3.1, 3.2, 2.9, 3.0]
    found = prediction.fit([SizeRun(size=2.0**i, loss=loss + d) for i, loss in enumerate(losses) for d in (-1e-3, 1e-3)], [], samples=10)
    assert any("does not fit" in warning for warning in found.warnings)


@pytest.mark.parametrize(
    "sizes, losses, message",
    [
        ([1, 2, 3], [3, 2, 1], "got 3 widths; allowed: at least 4"),
        ([1, 2, 3, 3], [4, 3, 2, 2], "got 3 widths"),
        ([1, 2, 3, 4], [4, 3, np.nan, 2], "got a loss of nan at size 3"),
        ([1, 2, 3, 4], [2, 3, 4, 5], "allowed: losses that fall with size"),
    ],
)
def test_what_cannot_be_fitted_is_refused(sizes, losses, message):
    with pytest.raises(UserError, match=message):
        prediction.fit(runs(sizes, losses), [10.0])
