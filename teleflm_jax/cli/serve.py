"""`serve`: a trained model behind OpenAI's HTTP interface."""

import argparse
import asyncio
import dataclasses
import functools
import os
import socket
import sys
import time
from collections.abc import Sequence

from teleflm_jax import foreign, invocation
from teleflm_jax.cli import options
from teleflm_jax.distributed import xla
from teleflm_jax.errors import UserError
from teleflm_jax.runs.load import choose_step, load_decoder, load_tokenizer
from teleflm_jax.serve.config import API_KEY, ServeConfig

LIBRARIES = ("starlette", "uvicorn", "prometheus_client")
"""Of requirements-serve.txt."""

HELP = "serve a trained model by OpenAI's HTTP interface"


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.epilog = (
        f"example: {parser.prog} --workdir runs/quickstart --port 8000; with {API_KEY} in the environment, requests must bear it"
    )
    parser.add_argument("--step", type=int, help="of the checkpoint; default: the newest")
    parser.add_argument("--name", help="of the model, which requests give; default: the folder's")
    parser.add_argument("--host", default=ServeConfig.host, help="address to listen at (%(default)s: from this machine only)")
    parser.add_argument("--port", type=int, default=ServeConfig.port, help="0: any that is free (%(default)s)")
    parser.add_argument("--slots", type=int, default=ServeConfig.slots, help="texts that are continued at one time (%(default)s)")
    parser.add_argument("--queue", type=int, default=ServeConfig.queue, help="texts that may wait; more are refused (%(default)s)")
    parser.add_argument(
        "--allowed_origins",
        nargs="+",
        default=ServeConfig.allowed_origins,
        metavar="ORIGIN",
        help="whose pages may send requests from a browser, such as https://example.org; *: all; default: none but the server's own",
    )
    parser.add_argument("--grace", type=float, default=ServeConfig.grace, help="seconds to finish in after SIGTERM (%(default)s)")
    parser.add_argument("--cache_gb", type=float, help="memory for texts on each device; default: most of what is free then")
    parser.add_argument("--warm", action="store_true", help="compile the programs of every size first, minutes once; they are kept")


def main(args: argparse.Namespace) -> int:
    """Serve until a signal. Returns the exit code."""
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
    from teleflm_jax.generate import engine, programs, room
    from teleflm_jax.serve import app, gate, metrics, protocol, server, worker  # here, since they need those libraries
    from teleflm_jax.serve.answers import vocabulary

    run, folder = options.load_trained(args)
    step = choose_step(folder, args.step)
    tokenizer = load_tokenizer(folder, run.model.vocab_size)
    served = protocol.served(
        args.name or folder.resolve().name, folder, tokenizer, context_length=run.model.context_length, vocab_size=run.model.vocab_size
    )
    key = os.environ.get(API_KEY)
    if key == "":
        raise UserError(f"got an empty {API_KEY}; allowed: a key, or none; set it, or unset it")
    listening = server.listen(config.host, config.port)  # before the weights, which may take minutes
    _keep_programs()
    decoder = load_decoder(folder, run, step)
    most = room.Room(decoder=decoder, bytes=room.SHARE * room.free_bytes() if config.cache_gb is None else config.cache_gb * 1e9)
    compiled = programs.Programs(decoder, chunk=engine.CHUNK, beside=True)
    served = dataclasses.replace(served, context_length=most.context_length)
    if args.warm:
        _warm(compiled, engine.sizes(most, config.slots))
    make = functools.partial(engine.Engine, decoder, tokenizer, slots=config.slots, room=most, programs=compiled)
    running = worker.Worker(make, capacity=config.slots + config.queue)
    running.start()
    service = app.Service(
        served=served,
        vocabulary=vocabulary(tokenizer),
        worker=running,
        metrics=metrics.metrics(running),
        gate=gate.Gate(key=key, names=(config.host.lower(), socket.gethostname().lower()), origins=config.allowed_origins),
    )
    asyncio.run(server.serve(service, listening, grace=config.grace, ready=lambda _: _tell(service, listening, step, most)))
    compiled.end()
    if not running.ended or compiled.compiling:
        os._exit(0)  # in a step that hangs, whose devices the interpreter's own end would take away under it, or in the compiler
    return 0


def _keep_programs() -> None:
    try:
        xla.keep_programs(os.environ)
    except UserError as error:
        print(f"compiled programs are not kept: {error}", file=sys.stderr)


def _warm(compiled, sizes: Sequence[tuple]) -> None:
    began = time.monotonic()
    for number, program in enumerate(sizes, 1):
        compiled.compile(program)
        print(f"compiled {number} of {len(sizes)} programs, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


def _tell(service, listening, step: int, most) -> None:
    from teleflm_jax.serve import server

    print(f"serving {service.served.name}, step {step:,}, at {server.address(listening)}/v1", flush=True)
    if service.served.context_length < most.decoder.context_length:
        print(
            f"texts have at most {service.served.context_length:,} of the model's {most.decoder.context_length:,} tokens, for which "
            f"{most.bytes / 1e9:.1f} GB on each device do not suffice (--cache_gb)",
            file=sys.stderr,
        )
    if service.served.format is None:
        print(f"chat is off: {foreign.printable(str(service.served.no_chat))}", file=sys.stderr)
    if not server.is_local(listening):
        safe = "with the key" if service.gate.key else f"without a key (set {API_KEY} to ask for one)"
        print(f"{server.address(listening)} can be reached from other machines, {safe}, and is not encrypted", file=sys.stderr, flush=True)
