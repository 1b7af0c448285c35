"""`serve`: serve a trained model over OpenAI's HTTP interface."""

import argparse
import asyncio
import dataclasses
import functools
import os
import socket
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from teleflm_jax import foreign, invocation
from teleflm_jax.cli import options
from teleflm_jax.distributed import xla
from teleflm_jax.errors import UserError
from teleflm_jax.runs.load import choose_step, load_decoder, load_tokenizer
from teleflm_jax.serve.config import API_KEY, ServeConfig

if TYPE_CHECKING:
    from teleflm_jax.generate.cache_budget import CacheBudget
    from teleflm_jax.generate.programs import Program, Programs
    from teleflm_jax.serve.app import Service

LIBRARIES = ("starlette", "uvicorn", "prometheus_client")
"""Modules of requirements-serve.txt."""

HELP = "serve a trained model over OpenAI's HTTP interface"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = (
        f"example: {parser.prog} --workdir runs/quickstart --port 8000; with {API_KEY} in the environment, requests must carry it"
    )
    parser.add_argument("--step", type=int, help="step of the checkpoint; default: the newest")
    parser.add_argument("--name", help="name of the model in requests; default: the folder's")
    parser.add_argument("--host", default=ServeConfig.host, help="address to listen at (%(default)s: reachable from this machine only)")
    parser.add_argument("--port", type=int, default=ServeConfig.port, help="port; 0: any free one (%(default)s)")
    parser.add_argument("--slots", type=int, default=ServeConfig.slots, help="sequences that are decoded at one time (%(default)s)")
    parser.add_argument("--queue", type=int, default=ServeConfig.queue, help="sequences that may wait; more are refused (%(default)s)")
    parser.add_argument(
        "--allowed_origins",
        nargs="+",
        default=ServeConfig.allowed_origins,
        metavar="ORIGIN",
        help="origins whose pages may send requests from a browser, such as https://example.org; *: all; default: only the server's own",
    )
    parser.add_argument(
        "--grace", type=float, default=ServeConfig.grace, help="seconds for running requests to finish after SIGTERM (%(default)s)"
    )
    parser.add_argument("--cache_gb", type=float, help="memory for sequences on each device; default: most of what is free")
    parser.add_argument(
        "--warm", action="store_true", help="compile and keep the programs of every size first; takes minutes the first time"
    )


def main(args: argparse.Namespace) -> int:
    """Serve until a signal and return the exit code."""
    config = ServeConfig(
        host=args.host,
        port=args.port,
        slots=args.slots,
        queue=args.queue,
        allowed_origins=tuple(args.allowed_origins),
        grace=args.grace,
        cache_gb=args.cache_gb,
    )
    invocation.refuse_missing("serve", LIBRARIES)
    from teleflm_jax.generate import cache_budget, engine, programs
    from teleflm_jax.serve import access, app, engine_thread, metrics, served_model, server  # imported here since they need those libraries
    from teleflm_jax.serve.responses import vocabulary

    run, folder = options.load_trained(args)
    step = choose_step(folder, args.step)
    tokenizer = load_tokenizer(folder, run.model.vocab_size)
    served = served_model.load(
        args.name or folder.resolve().name, folder, tokenizer, context_length=run.model.context_length, vocab_size=run.model.vocab_size
    )
    key = os.environ.get(API_KEY)
    if key == "":
        raise UserError(f"got an empty {API_KEY}; allowed: a key, or none; set it, or unset it")
    listening = server.listen(config.host, config.port)  # before the weights, which may take minutes
    _enable_compilation_cache()
    decoder = load_decoder(folder, run, step)
    budget_bytes = cache_budget.SHARE * cache_budget.free_bytes() if config.cache_gb is None else config.cache_gb * 1e9
    budget = cache_budget.CacheBudget(decoder=decoder, bytes=budget_bytes)
    compiled = programs.Programs(decoder, chunk=engine.CHUNK, background=True)
    served = dataclasses.replace(served, context_length=budget.context_length)
    if args.warm:
        _warm_up(compiled, engine.warmup_programs(budget, config.slots))
    make = functools.partial(engine.Engine, decoder, tokenizer, slots=config.slots, budget=budget, compiled=compiled)
    thread = engine_thread.EngineThread(make, capacity=config.slots + config.queue)
    thread.start()
    service = app.Service(
        served=served,
        vocabulary=vocabulary(tokenizer),
        engine_thread=thread,
        metrics=metrics.create(thread),
        access=access.AccessPolicy(key=key, names=(config.host.lower(), socket.gethostname().lower()), origins=config.allowed_origins),
    )
    asyncio.run(server.serve(service, listening, grace=config.grace, ready=lambda _: _announce(service, listening, step, budget)))
    compiled.close()
    if not thread.ended or compiled.compiling:
        os._exit(0)  # the interpreter's own exit would take the devices away from a hung step, or wait for the compiler
    return 0


def _enable_compilation_cache() -> None:
    try:
        xla.keep_programs(os.environ)
    except UserError as error:
        print(f"compiled programs are not kept: {error}", file=sys.stderr)


def _warm_up(compiled: "Programs", needed: Sequence["Program"]) -> None:
    began = time.monotonic()
    for number, program in enumerate(needed, 1):
        compiled.compile(program)
        print(f"compiled {number} of {len(needed)} programs, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _announce(service: "Service", listening: socket.socket, step: int, budget: "CacheBudget") -> None:
    from teleflm_jax.serve import server

    print(f"serving {service.served.name}, step {step:,}, at {server.address(listening)}/v1", flush=True)
    if service.served.context_length < budget.decoder.context_length:
        print(
            f"texts have at most {service.served.context_length:,} of the model's {budget.decoder.context_length:,} tokens, for which "
            f"{budget.bytes / 1e9:.1f} GB on each device are not enough (--cache_gb)",
            file=sys.stderr,
        )
    if service.served.format is None:
        print(f"chat is off: {foreign.printable(str(service.served.no_chat))}", file=sys.stderr)
    if not server.is_local(listening):
        access = "with the key" if service.access.key else f"without a key (set {API_KEY} to ask for one)"
        print(
            f"{server.address(listening)} can be reached from other machines, {access}, and is not encrypted", file=sys.stderr, flush=True
        )
