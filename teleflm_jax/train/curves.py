"""The picture of a run: training and validation loss, and gradient norm, against tokens. Source: report, figure 2."""

import pathlib

import matplotlib
import matplotlib.pyplot as plt
import numpy as np

from teleflm_jax.train.run_log import EVALS, METRICS, rows


def draw(folder: pathlib.Path) -> pathlib.Path:
    """Draw FOLDER/curves.png from the run's logs; returns its path."""
    steps, evals = list(rows(folder / METRICS)), list(rows(folder / EVALS))
    with matplotlib.rc_context(
        {"backend": "agg", "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False}
    ):
        figure, (training, validation, gradient) = plt.subplots(1, 3, figsize=(15, 4.2), layout="constrained")
    tokens, loss, norm = (np.array([row[name] for row in steps]) for name in ("tokens", "loss", "grad_norm"))
    training.plot(tokens, loss, linewidth=0.6, alpha=0.35, color="tab:blue")
    training.plot(tokens, _smooth(loss), linewidth=1.5, color="tab:blue")
    training.set(title="training loss", xlabel="tokens", ylabel="nats per token")
    for name in sorted({name for row in evals for name in row if name.startswith("loss/")}):
        points = [(row["tokens"], row[name]) for row in evals if name in row]
        validation.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name.removeprefix("loss/"))
    if validation.lines:
        validation.legend(frameon=False)
    validation.set(title="validation loss, held-out text", xlabel="tokens", ylabel="nats per token")
    gradient.plot(tokens, norm, linewidth=0.6, alpha=0.35, color="tab:red")
    gradient.plot(tokens, _smooth(norm), linewidth=1.5, color="tab:red")
    gradient.set(title="gradient norm before clipping", xlabel="tokens", yscale="log")
    path = folder / "curves.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _smooth(values: np.ndarray) -> np.ndarray:
    """Running mean over the last twentieth of the steps so far."""
    sums = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - np.maximum(1, len(values) // 20))
    return (sums[end] - sums[start]) / (end - start)
