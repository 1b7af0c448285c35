"""Pages of a search, a transfer and a prediction: pictures and tables in one file each."""

import math
from collections.abc import Mapping, Sequence

from teleflm_jax import mup
from teleflm_jax.mup import MupConfig
from teleflm_jax.observability.page import Table, document, paragraph, picture, table
from teleflm_jax.search import pictures, width_pictures
from teleflm_jax.search.edges import Edge, SearchedRange
from teleflm_jax.search.importance import Importance
from teleflm_jax.search.prediction import LossFit
from teleflm_jax.search.ranking import CRITERIA, Curve, RankedPoint, Ranking
from teleflm_jax.search.tokens_law import TokensFit, TokensRun
from teleflm_jax.search.transfer import Transfer
from teleflm_jax.search.width_pictures import CoordinateRow

HORIZON = (
    "Trials are compared at the end of equal schedules. Which learning rate is best depends on the horizon, so only divergence ends a "
    "trial early; do not choose from curves that have not finished."
)
COORDINATES = (
    "Under µP no activation grows with the width: exponents after the updates are near 0 or below. One that grows will blow up in a wide "
    "model at a rate that was good for a narrow one. A good check is necessary for transfer and does not prove it."
)
CLAIM = (
    "What is claimed is that the best rate stays where it is, not that µP reaches a lower loss than a standard parametrisation tuned at "
    "each width."
)


def search_page(
    title: str,
    trials: Sequence[Curve],
    ranking: Ranking,
    ranges: Sequence[SearchedRange],
    open_edges: Sequence[Edge],
    importance: Importance | None,
    chosen: MupConfig,
    widths: Sequence[tuple[str, int]],
) -> str:
    """Return the page of a search.

    Args:
        title: plain text.
        trials: all trials, whatever their outcome.
        ranking: of the points.
        ranges: settings that vary.
        open_edges: settings whose optimum is not bracketed.
        importance: of the settings; None if there are too few points.
        chosen: the chosen point's section `mup` at its base width.
        widths: (name, width) of models, for table 4.
    """
    parts = [paragraph(HORIZON)]
    parts += [picture("Loss and gradient norm; the chosen point in red (report, figure 1)", pictures.curves(trials, ranking.chosen.point))]
    parts += [
        table(ranking_table(ranking)),
        table(value_table(ranking)),
        table(edge_table(open_edges, ranges)),
        table(width_table(chosen, widths)),
    ]
    if ranges:
        parts.append(picture(f"{CRITERIA[ranking.rank_by[0]].capitalize()} against each setting", pictures.marginals(ranking, ranges)))
        parts.append(picture("All points, one line each", pictures.parallel(ranking, ranges)))
    if importance is not None:
        parts.append(picture("Importance of each setting", pictures.importances(importance)))
        parts += [
            paragraph(_sentence(text)) for text in (f"method: {importance.method}; the rest is interactions and noise", *importance.notes)
        ]
    return document(title, parts)


def ranking_table(ranking: Ranking) -> Table:
    """Return the points in order with their estimates."""
    shown = [name for name in dict.fromkeys((*ranking.rank_by, *CRITERIA)) if any(name in point.estimates for point in ranking.points)]
    rows = [
        (
            _place(point),
            str(point.point),
            f"{point.completed} of {point.completed + point.diverged + point.unfinished}",
            *(_estimate(point, name) for name in shown),
        )
        for point in ranking.points
    ]
    order = ", ".join(CRITERIA[name] for name in ranking.rank_by)
    ties = ", ".join(f"{CRITERIA[name]} {ranking.tolerance[name]:.2g}" for name in ranking.rank_by)
    notes = [f"Order: {order}; each decides only among points that tie in all before it.", f"Differences that count as ties: {ties}."]
    columns = ("rank", "point", "seeds", *(CRITERIA[name] for name in shown))
    return Table("Ranking", columns, rows, " ".join([*notes, *map(_sentence, ranking.notes)]))


def value_table(ranking: Ranking) -> Table:
    """Return the points in order with the values that vary between them."""
    settings = [name for name in ranking.chosen.values if len({point.values[name] for point in ranking.points}) > 1]
    rows = [(_place(point), str(point.point), *(f"{point.values[name]:.4g}" for name in settings)) for point in ranking.points]
    return Table("Values of the points", ("rank", "point", *settings), rows)


def _place(point: RankedPoint) -> str:
    if point.diverged:
        return "diverged"
    return "unfinished" if point.rank is None else f"{point.rank}{'=' if point.tied else ''}"


def _estimate(point: RankedPoint, name: str) -> str:
    if name not in point.estimates:
        return "–"
    estimate = point.estimates[name]
    return f"{estimate.mean:.3g}" if name == "spikes" else f"{estimate.mean:.4g} ± {estimate.spread:.1g}"


def edge_table(open_edges: Sequence[Edge], ranges: Sequence[SearchedRange]) -> Table:
    """Return which optima lie at an edge of the space, and the ranges to search next."""
    rows = []
    for searched in ranges:
        edge = next((edge for edge in open_edges if edge.setting == searched.setting), None)
        ends = f"{searched.values[0]:.4g} … {searched.values[-1]:.4g}"
        state = f"not bracketed: best at the {edge.end} end" if edge else "bracketed"
        rows.append((searched.setting, ends, f"{edge.value:.4g}" if edge else "", state, (edge.proposal or edge.reason) if edge else ""))
    note = "An optimum at an edge may lie beyond it: search the next range before you rely on the chosen point." if open_edges else ""
    return Table("Edges of the space", ("setting", "searched", "best", "state", "search next"), rows, note, text=True)


def width_table(chosen: MupConfig, widths: Sequence[tuple[str, int]]) -> Table:
    """Return the chosen values at each width. Source: report, table 4."""
    columns = (
        "learning rate",
        "matrix learning rate",
        "minimum",
        "matrix minimum",
        "std",
        "matrix std",
        "input multiplier",
        "output multiplier",
    )
    rows = []
    for name, width in widths:
        at = mup.at_width(chosen, width)
        vector, matrix = at.rules[mup.VECTOR], at.rules[mup.MATRIX]
        rates = (vector.learning_rate, matrix.learning_rate, vector.minimum_learning_rate, matrix.minimum_learning_rate)
        values = (*rates, vector.std, matrix.std, at.input_multiplier, at.output_multiplier)
        rows.append((name, f"{width:,}", f"{width / chosen.base_width:g}", *(f"{value:.4g}" for value in values)))
    note = f"r = width / {chosen.base_width}. Matrix-like rates and the output multiplier ÷ r, matrix-like std ÷ √r, the rest unchanged."
    return Table("The chosen values at each width (report, table 4)", ("model", "width", "r", *columns), rows, note)


def drift_table(found: Sequence[Transfer]) -> Table:
    """Return how the best rate moves with the width under each parametrisation."""
    rows = [
        (
            width_pictures.NAMES[one.parametrisation],
            _number(one.drift, "+z.2f"),
            _interval(one.drift_low, one.drift_high, "+z.2f"),
            _number(one.shift, "+z.2f"),
            _number(one.penalty, ".4f"),
        )
        for one in found
    ]
    heads = ("parametrisation", "octaves per doubling", "95 % interval", "octaves in all", "penalty at the widest")
    note = "The penalty is the loss added at the widest width by the narrowest width's best rate. Intervals cover the spread of the seeds."
    return Table("Drift of the best rate", heads, rows, note)


def optimum_table(found: Sequence[Transfer]) -> Table:
    """Return the best rate at each width."""
    rows = [
        (
            width_pictures.NAMES[one.parametrisation],
            f"{optimum.width:,}",
            f"{optimum.rate:.3g}" + ("" if optimum.bracketed else " (not bracketed)"),
            _interval(optimum.low, optimum.high, ".3g"),
            f"{optimum.loss:.4f}",
        )
        for one in found
        for optimum in one.optima
    ]
    return Table("Best rate at each width", ("parametrisation", "width", "rate", "95 % interval", "loss"), rows)


def transfer_page(title: str, found: Sequence[Transfer], *, rate: str = "matrix learning rate") -> str:
    """Return the page of a transfer of the rate that is called so."""
    parts = [paragraph(CLAIM), picture("Loss against rate at each width", width_pictures.transfer(found, rate))]
    parts += [table(drift_table(found)), picture("Best rate against width", width_pictures.optima(found, rate))]
    parts += [table(optimum_table(found)), table(wider_table(found))]
    parts += [paragraph(_sentence(f"{width_pictures.NAMES[one.parametrisation]}, {note}")) for one in found for note in one.notes]
    return document(title, parts)


def wider_table(found: Sequence[Transfer]) -> Table:
    """Return the losses of neighbouring widths at the chosen rate."""
    rows = [
        (
            width_pictures.NAMES[one.parametrisation],
            f"{one.chosen_rate:.3g}",
            f"{step.narrow:,} → {step.wide:,}",
            f"{step.difference:+.4f}",
            _number(step.allowed, ".4f"),
            "worse" if step.worse else "not worse",
        )
        for one in found
        for step in one.steps
    ]
    columns = ("parametrisation", "rate", "widths", "difference of loss", "two standard errors", "wider is")
    return Table("Wider is never worse, at the chosen rate", columns, rows)


def predicted_table(fit: LossFit, measured: Sequence[tuple[float, float]], unit: str = "parameters") -> Table:
    """Return the predicted losses beside those measured there."""
    known, rows = dict(measured), []
    for one in fit.predicted:
        loss = known.get(one.size)
        error = (
            ("–", "–", "–")
            if loss is None
            else (f"{loss:.4f}", f"{one.loss / loss - 1:+.2%}", "yes" if one.low <= loss <= one.high else "no")
        )
        rows.append((f"{one.size:.4g}", f"{one.loss:.4f}", _interval(one.low, one.high, ".4f"), *error))
    heads = (unit, "predicted loss", "95 % interval", "measured", "error", "inside")
    return Table("Predicted loss", heads, rows, "The interval is that of the law; a single run scatters about it by the seeds' σ.")


def fit_table(fit: LossFit) -> Table:
    """Return the law and how well it fits."""
    law = fit.law
    facts = [
        ("law", f"L(C) = {law.a:.4g}·C^{law.b:.4f} + {law.c:.4f}"),
        ("residual about the law", f"{fit.residual:.4f}"),
        ("σ between seeds", "unknown: one seed a size" if fit.seeds_sigma is None else f"{fit.seeds_sigma:.4f}"),
        ("largest size left out: predicted - measured", "unknown: four sizes" if fit.left_out is None else f"{fit.left_out:+.4f}"),
    ]
    return Table("Fit", ("", ""), facts, text=True)


def prediction_page(
    title: str,
    fit: LossFit,
    measured: Sequence[tuple[float, float]],
    *,
    unit: str = "parameters",
    labels: Sequence[str] = (),
    over_tokens: tuple[TokensFit, Sequence[TokensRun]] | None = None,
) -> str:
    """Return the page of a prediction.

    Args:
        title: plain text.
        fit: the law over sizes.
        measured: (size, loss) of runs that the fit has not seen; may be empty.
        unit: of sizes.
        labels: one for each fitted size, such as its width; may be empty.
        over_tokens: the law over parameters and tokens with its runs; None if there are too few.
    """
    fewer = [(str(part.count), f"{part.c:.4f}", f"{part.predicted:.4f}") for part in fit.by_count]
    return document(
        title,
        [
            *(paragraph(f"Warning: {warning}.") for warning in fit.warnings),
            picture("Loss against size", width_pictures.prediction(fit, measured, unit=unit, labels=labels)),
            table(predicted_table(fit, measured, unit)),
            table(fit_table(fit)),
            table(Table("With fewer sizes", ("smallest sizes used", "c", "predicted loss at the largest size"), fewer)),
            *(_over_tokens(*over_tokens) if over_tokens else ()),
        ],
    )


def coordinate_table(found: Sequence[CoordinateRow], powers: Mapping[tuple[str, str, int], float]) -> Table:
    """Return the size of each activation at each width after the last update, and the power of the width that it grows with."""
    last = max(row.step for row in found)
    widths = sorted({row.width for row in found})
    size = {(row.parametrisation, row.activation, row.step, row.width): row.size for row in found}
    rows = [
        (
            width_pictures.NAMES[kind],
            activation,
            *(f"{size[kind, activation, last, width]:.3g}" for width in widths),
            f"{powers[kind, activation, 0]:+z.2f}",
            f"{power:+z.2f}",
        )
        for (kind, activation, step), power in powers.items()
        if step == last
    ]
    heads = ("parametrisation", "activation", *(f"width {width:,}" for width in widths), "exponent at the start", "exponent at the end")
    return Table(f"Mean absolute values after {last} updates", heads, rows, COORDINATES)


def coordinate_page(title: str, found: Sequence[CoordinateRow], powers: Mapping[tuple[str, str, int], float]) -> str:
    """Return the page of a coordinate check."""
    figure = picture("Size of activations against width", width_pictures.coordinates(found))
    return document(title, [figure, table(coordinate_table(found, powers))])


def _over_tokens(fit: TokensFit, runs: Sequence[TokensRun]) -> list[str]:
    law = fit.law
    rows = [
        ("law", f"L(N, D) = {law.floor:.4f} + {law.a:.4g}/N^{law.alpha:.3f} + {law.b:.4g}/D^{law.beta:.3f}"),
        ("residual about the law", f"{fit.residual:.4f}"),
        ("best number of parameters", f"grows as compute to the power {law.parameters_exponent:.2f}"),
    ]
    return [
        picture("Loss against tokens and compute", width_pictures.tokens(fit, runs)),
        table(Table("Law over parameters and tokens", ("", ""), rows, text=True)),
        *(paragraph(f"Warning: {warning}.") for warning in fit.warnings),
    ]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}." if not text.startswith("µ") else f"{text}."


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else "diverged" if math.isinf(value) else format(value, form)


def _interval(low: float, high: float, form: str) -> str:
    return f"[{low:{form}}, {high:{form}}]" if math.isfinite(low) else "–"
