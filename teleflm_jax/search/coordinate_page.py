"""The page of a coordinate check: scales against width, a panel for each parametrisation."""

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from teleflm_jax.observability.curves import STYLE
from teleflm_jax.observability.page import Table, document, paragraph, picture, table
from teleflm_jax.search.coordinates import Coordinates, exponents
from teleflm_jax.search.width_pictures import NAMES

READING = (
    "Each value is a root mean square. Under µP the embedding, the last layer and all changes by updates keep their size as the model gets "
    "wider (exponent near 0; logits at the start may shrink). A quantity that grows with the width will blow up in a wide model at a rate "
    "that was good for a narrow one. A good check is necessary for transfer, but does not prove it."
)


def coordinate_table(found: Sequence[Coordinates]) -> Table:
    """Return every scale at every width, and the power of the width that it grows with."""
    names = list(found[0].scales)
    rows = []
    for kind in dict.fromkeys(one.parametrisation for one in found):
        rows += [
            (NAMES[kind], f"{one.width:,}", *(f"{one.scales[name]:.3g}" for name in names)) for one in found if one.parametrisation == kind
        ]
        powers = exponents(found, kind)
        rows.append((NAMES[kind], "exponent", *(f"{powers[name]:+.2f}" for name in names)))
    return Table("Scales by width", ("parametrisation", "width", *names), rows)


def coordinate_page(title: str, found: Sequence[Coordinates]) -> str:
    """Return the page."""
    return document(title, [paragraph(READING), picture("Scales against width", _scales(found)), table(coordinate_table(found))])


def _scales(found: Sequence[Coordinates]) -> Figure:
    kinds = list(dict.fromkeys(one.parametrisation for one in found))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.5 * len(kinds), 5.2), layout="constrained")
        panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        chosen = [one for one in found if one.parametrisation == kind]
        for i, name in enumerate(chosen[0].scales):
            line = "--" if name.startswith("change") else "-"
            axes.plot([one.width for one in chosen], [one.scales[name] for one in chosen], line, marker="o", color=f"C{i % 3}", label=name)
        axes.set(title=NAMES[kind], xlabel="width", xscale="log", yscale="log")
        axes.set_xticks([one.width for one in chosen], [f"{one.width:,}" for one in chosen])
        axes.xaxis.set_minor_formatter(NullFormatter())
    panels[0].set_ylabel("root mean square")
    panels[0].legend(frameon=False, fontsize=9)
    return figure
