"""`train.py`: train a run and show its progress, or print what a dry run finds."""

import argparse
import functools
import os
import tempfile

import jax

from sharding import rules
from teleflm_jax import config, mup
from teleflm_jax.cli import options, planning
from teleflm_jax.distributed import processes
from teleflm_jax.errors import UserError
from teleflm_jax.observability import progress
from teleflm_jax.optim import schedule
from teleflm_jax.plan import estimate
from teleflm_jax.plan.config import SECTIONS as PLANNING
from teleflm_jax.runs import train
from teleflm_jax.runs.config import SECTIONS, RunConfig

EXIT_CODES = {train.Outcome.COMPLETED: 0, train.Outcome.DIVERGED: 3, train.Outcome.STOPPED: 75}


def main(args: argparse.Namespace, began: float) -> int:
    """Train as the options say; return the exit code. `began`: when the process started, by the monotonic clock."""
    if args.dry_run:
        command = functools.partial(_dry_run, args)
    else:
        given, _ = options.load(args), options.workdir(args)
        command = functools.partial(_train, given, args.workdir or args.run, began)
    process = processes.find(os.environ, args.coordinator, args.num_processes, args.process_id)
    processes.join(process)
    return options.run_process(command, process)


def _train(run: RunConfig, workdir: str, began: float) -> int:
    with progress.shown(run.train.steps, quiet=jax.process_index() > 0) as (report, log):
        result = train.train(run, workdir, log=log, progress=report, handle_signals=True, began=began)
    return EXIT_CODES[result.outcome]


def _dry_run(args: argparse.Namespace) -> None:
    """Print what `plan` says for this machine's devices, and whether the data is ready; write nothing."""
    with tempfile.NamedTemporaryFile("w", suffix=".gin", encoding="utf-8") as file:  # read first, so that the user's own bindings win
        file.write(config.dump(estimate.this_machine()))
        file.flush()
        found = options.load_sections(args, SECTIONS | PLANNING, before=[file.name])
    run = RunConfig(**{name: found[name] for name in SECTIONS})
    place, _ = options.places(args)
    resumes = place is not None and train.resumes(place)
    run = train.with_own_tokenizer(run, place) if place is not None and resumes else run
    layout = rules.layout(run.mesh, run.model.d_model)
    train.refuse_what_cannot_train(run, mup.at_width(run.mup, run.model.d_model), layout, resumes)
    request = estimate.PlanRequest(run=run, cluster=found["cluster"], plan=found["plan"], gpus=jax.device_count(), backend=estimate.HERE)
    facts = estimate.own_layout(request)
    if jax.process_index() == 0:
        planning.show(facts)
        print(f"\nData: {_readiness(run)}")
        print(f"Schedule: {schedule.end(run.optimizer, run.train.batch_size * run.model.context_length, run.train.steps)}")
    estimate.refuse_what_does_not_fit(facts)


def _readiness(run: RunConfig) -> str:
    try:
        train.open_data(run)
    except UserError as error:
        return f"not ready, {error}"
    return f"ready, {len(run.data.proportions)} domain(s) for {run.train.steps:,} steps"
