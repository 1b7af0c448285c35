"""Results of a study in the form that ranking, transfer and prediction take, and the file that a wide model's run includes."""

import math
import pathlib
from collections.abc import Mapping

from teleflm_jax import atomic_write, config
from teleflm_jax.errors import UserError
from teleflm_jax.model import size
from teleflm_jax.runs.config import RunConfig
from teleflm_jax.search import space, study, widths
from teleflm_jax.search.config import MUP, STANDARD
from teleflm_jax.search.edges import SearchedRange
from teleflm_jax.search.importance import PointLosses
from teleflm_jax.search.prediction import SizeRun
from teleflm_jax.search.ranking import Curve
from teleflm_jax.search.transfer import RateRun

CHOSEN = "chosen.gin"


def curves(found: study.Study) -> list[Curve]:
    """Return the rows and the outcome of every trial; raise a `UserError` if none is finished."""
    refuse_unfinished(found)
    train, model = found.config.train, found.config.model
    return [
        Curve(
            point=trial.point,
            seed=trial.seed,
            values=trial.values,
            tokens=trial.rows.tokens,
            loss=trial.rows.loss,
            grad_norm=trial.rows.grad_norm,
            warmup_tokens=_warmup_steps(found.config, trial.values) * train.batch_size * model.context_length,
            heldout=trial.heldout,
            outcome=trial.outcome,
        )
        for trial in found.trials
    ]


def point_losses(found: study.Study) -> list[PointLosses]:
    """Return the final losses of the completed trials of each point."""
    by_point: dict[int, list[study.Trial]] = {}
    for trial in found.trials:
        if trial.outcome == study.COMPLETED:
            by_point.setdefault(trial.point, []).append(trial)
    return [PointLosses(values=trials[0].values, losses=tuple(map(_loss, trials))) for trials in by_point.values()]


def ranges(found: study.Study) -> list[SearchedRange]:
    """Return the searched range of each setting that is not tied to another."""
    axes = space.read(found.search).axes
    return [SearchedRange(setting=axis.setting, values=axis.values, log=axis.scale == space.LOG) for axis in axes]


def rate_runs(found: study.Study) -> list[RateRun]:
    """Return the finished trials by width and rate; raise a `UserError` unless one rate is all that differs besides the width."""
    refuse_unfinished(found)
    setting = rate_name(found)
    model, train = found.config.model, found.config.train
    runs = []
    for trial in found.trials:
        if trial.outcome not in (study.COMPLETED, study.DIVERGED):
            continue
        width = int(trial.values.get(widths.WIDTH, model.d_model))
        base = int(trial.values.get(widths.BASE_WIDTH, found.config.mup.base_width))
        heads = int(trial.values.get("model.num_heads", model.num_heads))
        # at the base width both parametrisations are one, and a trial belongs to both
        names = [name for name in found.search.parametrisations if base == {MUP: found.config.mup.base_width, STANDARD: width}[name]]
        shape = {"head size": width / heads, "layers": model.num_layers, "vocabulary": model.vocab_size, "context": model.context_length}
        shape |= {"batch": train.batch_size, "steps": train.steps}
        runs += [
            RateRun(
                width=width,
                rate=trial.values[setting],
                seed=trial.seed,
                loss=_loss(trial) if trial.outcome == study.COMPLETED else math.inf,
                parametrisation=name,
                base_width=base,
                shape=shape,
            )
            for name in names
        ]
    return runs


def size_runs(found: study.Study, rate: float | None = None) -> list[SizeRun]:
    """Return the completed trials under µP by the parameters of their model, at one value of the searched setting.

    Raises:
        UserError: several values were trained at each width and none is chosen, or another one.
    """
    refuse_unfinished(found)
    setting = rate_name(found)
    trained = sorted({trial.values[setting] for trial in found.trials})
    if rate is None and len(trained) == 1:
        rate = trained[0]
    if rate not in trained:
        got = "no --rate" if rate is None else f"--rate {rate:g}"
        raise UserError(
            f"got {got} for {found.folder}, whose widths were trained at {setting} = {', '.join(f'{value:g}' for value in trained)}; "
            "allowed: one of these; add or change --rate"
        )
    base = found.config.mup.base_width
    trials = [
        trial
        for trial in found.trials
        if trial.outcome == study.COMPLETED and trial.values.get(widths.BASE_WIDTH, base) == base and trial.values[setting] == rate
    ]
    return [SizeRun(size=parameters(found, trial.values), loss=_loss(trial), seed=trial.seed) for trial in trials]


def parameters(found: study.Study, values: Mapping[str, float]) -> int:
    """Return the number of parameters of a trial's model."""
    shape = {name: value for name, value in values.items() if name.startswith("model.")}
    return sum(size.parameters(space.apply(found.config, shape).model).values())


def chosen(found: study.Study, values: Mapping[str, float]) -> str:
    """Return a gin file that binds the hyper-parameters of a point, at the base width, and names the study they come from."""
    kept = widths.with_values(found.config.mup, dict(values))
    others = {name: value for name, value in values.items() if not name.startswith(("mup.", "model."))}
    lines = [f"# Chosen by the search in {found.folder.absolute()}", config.dump({"mup": kept}).strip()]
    return "\n".join([*lines, *(f"{name} = {value!r}" for name, value in others.items())]) + "\n"


def write_chosen(found: study.Study, values: Mapping[str, float]) -> pathlib.Path:
    """Write `chosen.gin` into the study's folder."""
    path = found.folder / CHOSEN
    atomic_write.write(path, chosen(found, values).encode())
    return path


def refuse_unfinished(found: study.Study) -> None:
    """Raise a `UserError` if no trial has finished."""
    if not any(trial.outcome in (study.COMPLETED, study.DIVERGED) for trial in found.trials):
        raise UserError(
            f"got {found.folder}, of whose {len(found.trials)} trials none is finished; allowed: a study with finished trials; train them "
            "first with search run"
        )


def _loss(trial: study.Trial) -> float:
    """Return held-out bits per byte if the trial has them, else the final training loss."""
    value = trial.heldout if trial.heldout is not None else trial.loss
    assert value is not None  # of a completed trial
    return value


def rate_name(found: study.Study) -> str:
    """Return the one setting that varies; raise a `UserError` if there are several."""
    axes = space.read(found.search).axes
    if len(axes) != 1:
        names = ", ".join(axis.setting for axis in axes)
        raise UserError(
            f"got {found.folder} with {len(axes)} settings that vary ({names}); allowed: one, such as mup.matrix_learning_rate, to which "
            "others may be tied; run a transfer study of its own"
        )
    return axes[0].setting


def _warmup_steps(base: RunConfig, values: Mapping[str, float]) -> float:
    return values.get("optimizer.warmup_steps", base.optimizer.warmup_steps)
