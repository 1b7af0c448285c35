"""Weighted means over domains, including the report's aggregates.

Source: report, tables 5 and 6 and their footnotes: an aggregate is the weighted arithmetic mean of the domains' figures, for bits per byte
as for the loss per token.
"""

from collections.abc import Mapping

ENGLISH = ("WebText", "Github", "Wikipedia", "Book", "ArXiv", "StackExchange")
CHINESE = ("WebText", "Code", "Book", "World Knowledge", "QA", "Classical Chinese", "Professional")

REPORT = {
    "english, llama proportions": ("en", dict(zip(ENGLISH, (82.0, 4.5, 4.5, 4.5, 2.5, 2.0), strict=True))),
    "english, tele-flm proportions": ("en", dict(zip(ENGLISH, (75.17, 13.48, 3.56, 5.26, 1.46, 1.07), strict=True))),
    "chinese, tele-flm proportions": ("zh", dict(zip(CHINESE, (76.60, 1.91, 11.61, 1.44, 4.50, 0.07, 3.87), strict=True))),
    "chinese, direct average": ("zh", dict.fromkeys(CHINESE, 1.0)),
}
"""Aggregate -> language, and weight of each domain in percent."""


def mean(values: Mapping[str, float], weights: Mapping[str, float]) -> float:
    """Return the weighted arithmetic mean over the keys of `weights`, which need not sum to 1."""
    return sum(weight * values[name] for name, weight in weights.items()) / sum(weights.values())


def matching(domains: Mapping[str, object], language: str, weights: Mapping[str, float]) -> dict[str, float] | None:
    """Return the weights under the names of `domains`, or None if a domain is missing.

    Names match regardless of case and punctuation. All may end with the language (`WebText-zh`), so that both can be measured at once.
    """
    names = {_plain(name): name for name in domains}
    for suffix in (language, ""):
        wanted = {_plain(name) + suffix: weight for name, weight in weights.items()}
        if wanted.keys() <= names.keys():
            return {names[name]: weight for name, weight in wanted.items()}
    return None


def aggregates(domains: Mapping[str, Mapping[str, float]], proportions: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Return every aggregate whose domains have been measured.

    Args:
        domains: domain -> {"bpb": …, "loss": …}.
        proportions: `data.proportions` of the run, taken over the domains measured; its aggregate is called `proportions`.

    Returns:
        Aggregate -> {"bpb": …, "loss": …}.
    """
    known = {"proportions": {name: weight for name, weight in proportions.items() if name in domains}}
    known |= {name: matching(domains, *report) for name, report in REPORT.items()}
    return {
        name: {figure: mean({domain: values[figure] for domain, values in domains.items()}, weights) for figure in ("bpb", "loss")}
        for name, weights in known.items()
        if weights
    }


def _plain(name: str) -> str:
    return "".join(filter(str.isalnum, name)).casefold()
