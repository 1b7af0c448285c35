"""The body of `train.py`: check everything, write the run's folder, build the parts and hand them to the loop."""

import argparse
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.experimental import multihost_utils

from sharding import mesh, rules
from teleflm_jax import checkpoint, config, mup
from teleflm_jax.cli import evaluators, options, planning, run_folder
from teleflm_jax.data import loader, mixture
from teleflm_jax.distributed import processes
from teleflm_jax.errors import UserError
from teleflm_jax.model.attention import refuse_absent
from teleflm_jax.observability import watchdog
from teleflm_jax.optim import optimizer, schedule
from teleflm_jax.plan.config import SECTIONS as PLANNING
from teleflm_jax.train import guard, loop, restore, step


def main(args: argparse.Namespace, began: float) -> int:
    """Train as the options say; returns the exit code. `began`: when the process did, by the monotonic clock."""
    if args.dry_run:
        train = functools.partial(_dry_run, args)
    else:
        given = options.load(args)
        options.refuse_withheld(given, "telemetry", *["suite"] * bool(given.train.suite_every))
        train = functools.partial(_train, given, _folder(args), began)
    place = processes.find(os.environ, args.coordinator, args.num_processes, args.process_id)
    processes.join(place)
    return options.run_process(train, place)


def _dry_run(args: argparse.Namespace) -> None:
    """Print what `plan` says for the devices that are here, and whether the data is ready; nothing is kept."""
    with tempfile.NamedTemporaryFile("w", suffix=".gin", encoding="utf-8") as file:  # read first, so that the user's own bindings win
        file.write(config.dump(planning.here()))
        file.flush()
        found = options.load_sections(args, options.SECTIONS | PLANNING, before=[file.name])
    run = options.Run(**{name: found[name] for name in options.SECTIONS})
    folder, _ = options.places(args)
    goes_on = folder is not None and _goes_on(folder)
    run = _with_own_tokenizer(run, folder) if goes_on else run
    layout = rules.layout(run.mesh, run.model.d_model)
    _refuse_what_cannot_train(run, mup.at_width(run.mup, run.model.d_model), layout, goes_on)
    ask = planning.Ask(run=run, cluster=found["cluster"], plan=found["plan"], gpus=jax.device_count(), backend=planning.HERE)
    facts = planning.one(ask)
    if jax.process_index() == 0:
        planning.show(facts)
        print(f"\nData: {_readiness(run)}")
        print(f"Schedule: {schedule.end(run.optimizer, run.train.batch_size * run.model.context_length, run.train.steps)}")
    planning.refuse_what_does_not_fit(facts)


def _readiness(run: options.Run) -> str:
    try:
        _open_data(run)
    except UserError as error:
        return f"not ready, {error}"
    return f"ready, {len(run.data.proportions)} domain(s) for {run.train.steps:,} steps"


def _open_data(run: options.Run, history: mixture.History = ()) -> loader.Loader:
    return loader.open_run(
        run.data,
        sequence_length=run.model.context_length,
        vocab_size=run.model.vocab_size,
        batch_size=run.train.batch_size,
        steps=run.train.steps,
        history=history or None,
        verify=jax.process_index() == 0,
    )


def _train(given: options.Run, folder: pathlib.Path, began: float) -> int:
    """Train with the other processes, if there are any."""
    layout, width = rules.layout(given.mesh, given.model.d_model), mup.at_width(given.mup, given.model.d_model)
    with watchdog.watching(folder, jax.process_index(), began) as dog:
        dog.expect("opening the data", guard.hang_limit(given.guard, []))
        goes_on = _goes_on(folder)
        run = _with_agreed_mixture(_with_own_tokenizer(given, folder), folder) if goes_on else given
        data = _open_data(run, _mixture_so_far(run, folder))
        evaluate = evaluators.of_run(run, layout, folder)
        _refuse_what_cannot_train(run, width, layout, goes_on)
        identity = run_folder.identity(run.model, pathlib.Path(run.data.tokenizer)) | data.identity()
        _refuse_different_data(identity)
    part, parts = mesh.data_share(layout.mesh)
    plan = loop.Plan(
        folder=folder,
        model=run.model,
        mup=width,
        optimizer=run.optimizer,
        train=run.train,
        layout=layout,
        guard=run.guard,
        telemetry=run.telemetry,
        profile=run.profile,
        batches=lambda step, history: data.under(history).iterate(step, process=part, num_processes=parts),
        mixture=functools.partial(mixture.go_on, weights=run.data.proportions, change=run.data.change_proportions),
        records=lambda step, history: data.under(history).origins(step),
        epochs=lambda step, history: data.under(history).epochs(step),
        evaluate=evaluate,
        identity=identity,
        began=began,
        prepare=functools.partial(_prepare, folder, _without_consent(given), pathlib.Path(run.data.tokenizer).read_bytes()),
    )
    first = jax.process_index() == 0
    with _naming(folder), _alone_in(folder) if first else contextlib.nullcontext():
        if first:
            _refuse_changes(folder, given)
        multihost_utils.sync_global_devices("nothing speaks against the run")
        return loop.train(plan)


def _goes_on(folder: pathlib.Path) -> bool:
    """Ask the first process if the run has checkpoints of its own; a shared disk may show the others an older state."""
    return bool(restore.agreed(bool(checkpoint.numbered(folder / checkpoint.FOLDER))))


def _with_own_tokenizer(run: options.Run, folder: pathlib.Path) -> options.Run:
    """The run with the copy that its folder has, so that the file which it began with may be gone; another that is missing is a mistake."""
    saved = run_folder.configuration(folder).data
    if not pathlib.Path(run.data.tokenizer).is_file() and not (saved and saved.tokenizer == run.data.tokenizer):
        return run
    return dataclasses.replace(run, data=dataclasses.replace(run.data, tokenizer=str(folder / run_folder.TOKENIZER)))


def _with_agreed_mixture(run: options.Run, folder: pathlib.Path) -> options.Run:
    """Return the run with its change of proportions allowed if an earlier start was allowed it and saved no checkpoint under it."""
    saved = run_folder.configuration(folder).data
    agreed = run.data.change_proportions or (saved is not None and saved.proportions == run.data.proportions)
    return dataclasses.replace(run, data=dataclasses.replace(run.data, change_proportions=bool(restore.agreed(agreed))))


def _without_consent(run: options.Run) -> options.Run:
    """Return the run as its folder keeps it: with the proportions from now on, and without permission to change them again."""
    return dataclasses.replace(run, data=dataclasses.replace(run.data, change_proportions=False))


def _prepare(folder: pathlib.Path, run: options.Run, tokenizer: bytes) -> None:
    """Write the configuration and the tokenizer, and see on every process that they are there."""
    if jax.process_index() == 0:
        _write_folder(folder, run, tokenizer)
    multihost_utils.sync_global_devices("the run's folder is written")
    _refuse_another_folder(folder, run)


def _mixture_so_far(run: options.Run, folder: pathlib.Path) -> mixture.History:
    """The history that the newest readable checkpoint leads to, to check the data against before anything is written."""
    for number in reversed(checkpoint.steps(folder / checkpoint.FOLDER)):
        with contextlib.suppress(checkpoint.Damaged):
            record = checkpoint.read(folder / checkpoint.FOLDER, number)
            if "data_step" not in record.counters:  # the start passes over such a checkpoint, and says so
                continue
            saved = tuple((since, dict(weights)) for since, weights in record.mixture)
            return mixture.go_on(saved, record.counters["data_step"], run.data.proportions, change=run.data.change_proportions)
    return ()


@contextlib.contextmanager
def _alone_in(folder: pathlib.Path) -> Iterator[None]:
    """Make and hold the run's folder, so that two trainings cannot write into it; the lock goes with the process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():  # a link could lead what is written here anywhere, and opening a FIFO waits for ever
        if not path.is_dir() and (path.is_symlink() or not path.is_file()):
            raise UserError(f"got {path}, which is not a plain file; allowed: a run's folder of plain files and folders; remove it")
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"got {folder}, into which another process trains; allowed: one at a time; wait for it, or change --workdir"
            ) from error
        yield


@contextlib.contextmanager
def _naming(folder: pathlib.Path) -> Iterator[None]:
    """Give an error of the disk the folder's name where it has none, as when a file that is open cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(folder)) from error
        raise


def _refuse_another_folder(folder: pathlib.Path, run: options.Run) -> None:
    """On every process: what the first one wrote must be here, or this is another disk than its own."""
    own, saved = {name: getattr(run, name) for name in options.SECTIONS}, folder / options.SAVED_CONFIG
    if not saved.is_file() or options.without_paths(config.parse([str(saved)], [], options.SECTIONS)) != options.without_paths(own):
        raise UserError(
            f"got {folder} on process {jax.process_index()} without what process 0 wrote there; allowed: a folder that all processes "
            "share; change --workdir to one on a shared disk"
        )


def _refuse_different_data(identity: Mapping[str, object]) -> None:
    """All processes must have opened the same data, wherever each of them found them; also waits until all have."""
    digest = np.frombuffer(hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).digest()[:4], np.int32)
    found = np.asarray(multihost_utils.process_allgather(digest)).reshape(-1)
    if (found != found[0]).any():
        others = ", ".join(map(str, np.flatnonzero(found != found[0])))
        raise UserError(
            f"got another tokenizer or other packed data on process {others} than on process 0; allowed: the same on all; copy them, or "
            "change data.tokenizer and data.packed there"
        )


def _refuse_what_cannot_train(run: options.Run, width: mup.Mup, layout: rules.Layout, goes_on: bool) -> None:
    """Ask now what the loop would find out after the folder is written."""
    refuse_absent(run.model)
    step.microbatch(run.model, run.train, layout)
    if not goes_on:
        _refuse_other_tokenizer(run)
    optimizer.rates(run.optimizer, width, tokens=0, tokens_per_step=run.train.batch_size * run.model.context_length)


def _refuse_other_tokenizer(run: options.Run) -> None:
    """Weights that another run lends were trained with one meaning of the ids."""
    if run.train.init_from is None:
        return
    other = restore.other_run(run.train.init_from)[0] / run_folder.TOKENIZER
    if other.read_bytes() != pathlib.Path(run.data.tokenizer).read_bytes():
        raise UserError(
            f"got data.tokenizer={run.data.tokenizer!r}, another than {other} of train.init_from; allowed: the same; "
            f"change data.tokenizer to {str(other)!r} and pack with it, or change train.init_from"
        )


def _folder(args: argparse.Namespace) -> pathlib.Path:
    """The run's folder, which must be on a disk: logs are appended to, which object stores cannot do."""
    folder = options.workdir(args)
    if "://" in (args.workdir or args.run):
        raise UserError(
            f"got --workdir {args.workdir or args.run}; allowed: a folder on a local or shared disk; mount the store or change --workdir"
        )
    return folder


def _refuse_changes(folder: pathlib.Path, run: options.Run) -> None:
    """Refuse to go on under a configuration that would make other numbers."""
    numbered = checkpoint.numbered(folder / checkpoint.FOLDER)
    if not numbered:  # before the first one, there is nothing to be unlike
        return
    _refuse_imported(folder, numbered)
    run_folder.refuse_change(folder, {name: getattr(run, name) for name in options.SECTIONS})
    given = pathlib.Path(run.data.tokenizer)
    if given.is_file() and given.read_bytes() != (folder / run_folder.TOKENIZER).read_bytes():
        raise UserError(
            f"got data.tokenizer={run.data.tokenizer!r}, another than the run in {folder} was trained with; allowed: the same; "
            "change it back, or start a new run in another --workdir"
        )


def _refuse_imported(folder: pathlib.Path, numbered: list[int]) -> None:
    """An imported model has no optimizer's state and no data of its own: it is where a run begins, and stays as it is."""
    with contextlib.suppress(checkpoint.Damaged):
        record = checkpoint.read(folder / checkpoint.FOLDER, numbered[-1])
        if not any(name.startswith("optimizer/") for name in record.arrays):
            raise UserError(
                f"got --workdir {folder}, which holds an imported model; allowed: a folder of the run's own; change --workdir, and begin "
                f"from the model with train.init_from = '{folder}@{numbered[-1]}'"
            )


def _write_folder(folder: pathlib.Path, run: options.Run, tokenizer: bytes) -> None:
    """Write config.gin and the tokenizer, before step 0."""
    for name, content in (
        (options.SAVED_CONFIG, config.dump({name: getattr(run, name) for name in options.SECTIONS}).encode()),
        (run_folder.TOKENIZER, tokenizer),
    ):
        temporary = folder / f".{name}.tmp"
        temporary.write_bytes(content)
        os.replace(temporary, folder / name)
