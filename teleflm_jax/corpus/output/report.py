"""HTML report of a corpus: documents by stage, reasons of drops, domains, languages, lengths, clusters, and samples."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from teleflm_jax.documents.statistics import BYTES, Statistics, total

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem; width: 100%; }
th, td { padding: 0.2rem 0.6rem; text-align: left; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
td:has(.bar) { width: 13rem; }
.bar { background: #4477aa; height: 0.8rem; display: inline-block; min-width: 1px; }
pre { white-space: pre-wrap; background: #f6f6f6; padding: 0.5rem; margin: 0.3rem 0; max-height: 14rem; overflow: auto; }
summary { cursor: pointer; }
"""
Row = Sequence[Any]


def page(stage_statistics: Mapping[str, Statistics], mixture: Iterable[Mapping]) -> str:
    """Return the HTML page.

    Args:
        stage_statistics: Stage -> its statistics, in order.
        mixture: One row per set, with `name`, `languages`, `share`, `epochs` (None: no limit), `bytes`, `tokens`.
    """
    last = list(stage_statistics.values())[-1]
    parts = [
        "<h1>Corpus</h1>",
        "<h2>Documents by stage</h2>",
        _table(
            ("stage", "documents in", "documents out", "MB out", ""), [_stage(*item, stage_statistics) for item in stage_statistics.items()]
        ),
        "<h2>Reasons of dropped documents and of changes</h2>",
        *(part for stage, statistics in stage_statistics.items() for part in _rules(stage, statistics)),
        "<h2>Domains</h2>",
        _table(("Domain", "Language", "Sampling Prop.", "Epochs", "Disk Size", "Tokens"), [_domain(row) for row in mixture]),
        "<h2>Languages</h2>",
        _bars(("domain and language", "documents", "MB"), [(name, one.documents, one.bytes / 1e6) for name, one in last.out.items()]),
        *(part for name in _names(stage_statistics) for part in _distribution(name, stage_statistics)),
    ]
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>Corpus</title><style>{_STYLE}</style>\n" + "\n".join(parts) + "\n"


def _stage(stage: str, statistics: Statistics, stage_statistics: Mapping[str, Statistics]) -> Row:
    first, out = next(iter(stage_statistics.values())).into, total(statistics.out)
    return stage, statistics.into.documents, out.documents, out.bytes / 1e6, _bar(out.documents / max(1, first.documents))


def _rules(stage: str, statistics: Statistics) -> Iterable[str]:
    kinds = [("dropped documents", statistics.dropped), ("changed places", statistics.changed)]
    for what, amounts in kinds:
        if amounts:
            found = sorted(amounts.items(), key=lambda item: (-item[1].documents, item[0]))
            yield f"<h3>{_text(stage)}: {what}</h3>"
            yield _bars(("rule", "number", "MB"), [(rule, one.documents, one.bytes / 1e6) for rule, one in found], statistics.samples)


def _domain(row: Mapping) -> Row:
    epochs = "any" if row["epochs"] is None else f"{row['epochs']:g}"
    return row["name"], row["languages"], f"{row['share']:.2%}", epochs, _size(row["bytes"]), row["tokens"]


def _names(stage_statistics: Mapping[str, Statistics]) -> list[str]:
    return sorted({name for statistics in stage_statistics.values() for name in statistics.distributions})


def _distribution(name: str, stage_statistics: Mapping[str, Statistics]) -> Iterable[str]:
    for stage in reversed(list(stage_statistics)):  # for lengths, the last stage
        counts = stage_statistics[stage].distributions.get(name)
        if counts:
            yield f"<h2>{_text(name[0].upper() + name[1:])} ({_text(stage)})</h2>"
            ordered = sorted(counts.items(), key=lambda item: int(item[0]))
            yield _bars(("from", "documents"), [(_bin_start(name, value), count) for value, count in ordered])
            return


def _bin_start(name: str, value: str) -> str:
    """Return the lower end of a bin: sizes with the same number of bits are in one bin."""
    return f"{1 << max(0, int(value) - 1):,}" if name == BYTES else value


def _bars(head: Sequence[str], rows: Sequence[Row], samples: Mapping[str, Sequence[Mapping]] | None = None) -> str:
    most = max((row[1] for row in rows), default=1)
    found = []
    for row in rows:
        name = _Markup(_with_samples(str(row[0]), samples[row[0]])) if samples and row[0] in samples else row[0]
        found.append((name, *row[1:], _bar(row[1] / max(1, most))))
    return _table((*head, ""), found)


def _with_samples(name: str, samples: Sequence[Mapping]) -> str:
    shown = "".join(f"<p>{_text(one['origin'])}</p><pre>{_text(one['text'])}</pre>" for one in samples)
    return f"<details><summary>{_text(name)}</summary>{shown}</details>"


class _Markup(str):
    """Text that is already HTML."""


def _bar(share: float) -> "_Markup":
    return _Markup(f'<span class=bar style="width:{12 * min(1.0, share):.2f}rem"></span>')


def _table(head: Sequence[str], rows: Iterable[Row]) -> str:
    found = list(rows)
    numbers = [bool(found) and isinstance(value, int | float) for value in (found[0] if found else head)]
    names = (
        f"<th class=number>{_text(name)}</th>" if number else f"<th>{_text(name)}</th>" for name, number in zip(head, numbers, strict=True)
    )
    return "\n".join(["<table><tr>", *names, "</tr>", *("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in found), "</table>"])


def _cell(value: object) -> str:
    if isinstance(value, _Markup):
        return f"<td>{value}</td>"
    if isinstance(value, int):
        return f"<td class=number>{value:,}</td>"
    return f"<td class=number>{value:,.2f}</td>" if isinstance(value, float) else f"<td>{_text(value)}</td>"


def _size(num_bytes: int) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes / 1e3:.1f} kB"


def _text(value: object) -> str:
    return html.escape(str(value))
