"""Pages: complete, escaped, without network or scripts; figures of searches in which much is missing."""

import itertools
import math
import re

import numpy as np
import pytest
from matplotlib.figure import Figure

from teleflm_jax.mup import MupConfig
from teleflm_jax.search import page, pictures, prediction, ranking, tokens_law, transfer, width_pictures
from teleflm_jax.search.edges import SearchedRange, edges
from teleflm_jax.search.importance import PointLosses, importance

TOKENS = np.arange(1.0, 61) * 1_000
RANGES = [
    SearchedRange(setting="mup.std", values=(0.002, 0.004, 0.008), log=True),
    SearchedRange(setting="mup.<b>$x_", values=(1.0, 2.0), log=False),
]


def trial(point, values, *, outcome="completed", rows=60):
    loss = 5 - 0.3 * np.log(TOKENS[:rows]) + point / 10
    return ranking.Curve(
        point=point,
        seed=0,
        values=values,
        tokens=TOKENS[:rows],
        loss=loss,
        grad_norm=np.ones(rows),
        warmup_tokens=4_000,
        heldout=1 + point / 10,
        outcome=outcome,
    )


@pytest.fixture(scope="module")
def trials():
    points = itertools.product(*(searched.values for searched in RANGES))
    found = [trial(i, dict(zip(("mup.std", "mup.<b>$x_"), values, strict=True))) for i, values in enumerate(points)]
    return [*found, trial(6, found[0].values, outcome="diverged", rows=20), trial(7, found[0].values, outcome="waiting", rows=0)]


@pytest.fixture(scope="module")
def ranked(trials):
    return ranking.rank(trials)


@pytest.fixture(scope="module")
def html(trials, ranked):
    found = edges(RANGES, ranked.chosen.values)
    shares = importance([PointLosses(values=one.values, losses=(one.heldout,)) for one in trials[:6]], samples=5)
    chosen = MupConfig(base_width=256, matrix_std=2.4e-2)
    return page.search_page("<search>", trials, ranked, RANGES, found, shares, chosen, [("proxy", 512), ("52b", 8192)])


def cells(html, title):
    """Return the rows of the table of a title."""
    table = html[html.index(f"<h2>{title}</h2>") :].split("</table>")[0]
    return [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in table.split("<tr>")[1:]]


def test_a_page_is_escaped_and_asks_nothing_of_the_network(html):
    assert html.startswith("<!doctype html>") and "default-src 'none'" in html
    assert "<b>" not in html and "<search>" not in html and "mup.&lt;b&gt;$x_" in html
    assert set(re.findall(r'src="([^"]{22})', html)) == {"data:image/png;base64,"}
    assert "<script" not in html and "http://" not in html and "https://" not in html


def test_the_ranking_lists_every_point_in_order(html):
    rows = cells(html, "Ranking")
    assert rows[0][:4] == ["rank", "point", "seeds", "held-out bits per byte"]
    assert [row[0] for row in rows[1:]] == ["1", "2", "3", "4", "5", "6", "unfinished", "diverged"]
    assert rows[1][3].startswith("1 ±") and rows[-1][3] == "–"
    assert cells(html, "Values of the points")[1] == ["1", "0", "0.002", "1"]


def test_table_4_is_derived_for_each_width(html):
    rows = cells(html, r"The chosen values at each width (report, table 4)")
    # the rule of table 4: the released 52B from the same values at width 256
    assert rows[2] == ["52b", "8,192", "32", "0.00015", "0.00015", "1.5e-05", "1.5e-05", "0.004", "0.004243", "1", "0.03125"]
    assert rows[1][4] == "0.0024" and rows[1][8] == "0.01697" and rows[1][10] == "0.5"


def test_edges_are_named_with_the_next_space(html):
    rows = cells(html, "Edges of the space")
    assert rows[1] == [
        "mup.std", "0.002 … 0.008", "0.002", "not bracketed: best at the low end", "{&#x27;log&#x27;: (0.001, 0.004, 3)}",
    ]  # fmt: skip


def test_a_search_of_one_unfinished_kind_still_has_a_page():
    one = trial(0, {"mup.std": 1.0})
    html = page.search_page("one", [one], ranking.rank([one]), [], [], None, MupConfig(), [])
    assert "Importance" not in html and cells(html, "Ranking")[1][0] == "1"


def test_a_transfer_page_shows_the_drift_and_what_is_worse():
    runs = [
        transfer.RateRun(
            width=w,
            rate=2.0**k,
            seed=seed,
            loss=3 + (k + 9 + (0 if name == "mup" else math.log2(w / 256))) ** 2 / 10 - math.log2(w) / 50 + seed / 100,
            parametrisation=name,
            base_width=256 if name == "mup" else w,
        )
        for name in ("mup", "standard")
        for w in (256, 512, 1024)
        for k in range(-13, -6)
        for seed in (0, 1)
    ]
    html = page.transfer_page("transfer", transfer.judge(runs, samples=20))
    rows = cells(html, "Drift of the best rate")
    assert [row[:2] for row in rows[1:]] == [["µP", "+0.00"], ["standard parametrisation", "-1.00"]]
    assert [row[-1] for row in cells(html, "Wider is never worse, at the chosen rate")[1:]] == ["not worse"] * 2 + ["worse"] * 2
    assert cells(html, "Best rate at each width")[1][2] == "0.00195"


def test_a_prediction_page_compares_with_what_was_measured():
    sizes = 2.0 ** np.arange(20, 28)
    fit = prediction.fit([prediction.SizeRun(size=size, loss=50 * size**-0.3 + 2) for size in sizes[:7]], [sizes[7]], samples=20)
    law = tokens_law.TokensLaw(floor=1.7, a=400, alpha=0.34, b=410, beta=0.28)
    runs = [tokens_law.TokensRun(parameters=n, tokens=d, loss=float(law(n, d))) for n in (1e7, 1e8, 1e9) for d in (1e8, 1e9, 1e10)]
    html = page.prediction_page("p", fit, [(sizes[7], 2.5)], over_tokens=(tokens_law.fit(runs), runs))
    (row,) = cells(html, "Predicted loss")[1:]
    assert row[0] == "1.342e+08" and row[1] == f"{50 * sizes[7] ** -0.3 + 2:.4f}" and row[3] == "2.5000" and row[5] == "no"
    assert "L(N, D) = 1.7" in html and "Warning" not in html


def test_a_coordinate_check_has_a_panel_for_each_activation():
    rows = [
        width_pictures.CoordinateRow(parametrisation=name, width=w, step=step, activation=activation, size=w**0.5 if step else 1.0)
        for name, w, step, activation in itertools.product(("mup", "standard"), (64, 128), (0, 1), ("logits", "hidden", "attention"))
    ]
    figure = width_pictures.coordinates(rows)
    assert [axes.get_title() for axes in figure.axes] == ["logits", "hidden", "attention"] * 2
    assert [line.get_label() for line in figure.axes[0].lines] == ["step 0", "step 1"]


def test_figures_bear_diverged_single_and_equal_values(ranked):
    flat = [trial(0, {"mup.std": 1.0}), trial(0, {"mup.std": 1.0}, outcome="diverged", rows=1)]
    for figure in (pictures.curves(flat, 0), pictures.curves([], 0), pictures.marginals(ranked, RANGES[:1]), pictures.parallel(ranked, [])):
        assert isinstance(figure, Figure)
    runs = [
        transfer.RateRun(width=w, rate=r, seed=0, loss=3.0 - r, parametrisation="mup", base_width=1)
        for w in (1, 2)
        for r in (0.1, 0.2, 0.3)
    ]
    found = transfer.judge(runs)
    for figure in (width_pictures.transfer(found, "rate"), width_pictures.optima(found, "rate")):
        figure.canvas.draw()
