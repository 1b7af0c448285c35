"""`teleflm COMMAND …` or `python -m teleflm_jax COMMAND …`: find the command's module by name and import only that one."""

import ast
import difflib
import importlib
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

from teleflm_jax import invocation
from teleflm_jax.cli import options
from teleflm_jax.errors import UserError

COMMANDS = {
    "info": "teleflm_jax.cli.info",
    "corpus": "teleflm_jax.cli.corpus",
    "tokenizer": "teleflm_jax.cli.tokenizer",
    "pack": "teleflm_jax.cli.pack",
    "train": "teleflm_jax.cli.train",
    "search": "teleflm_jax.cli.search",
    "eval": "teleflm_jax.cli.evaluate",
    "generate": "teleflm_jax.cli.generate",
    "chat": "teleflm_jax.cli.chat",
    "serve": "teleflm_jax.cli.serve",
    "launch": "teleflm_jax.cli.launch",
    "preflight": "teleflm_jax.cli.preflight",
    "plan": "teleflm_jax.cli.plan",
    "checkpoints": "teleflm_jax.cli.checkpoints",
    "report": "teleflm_jax.cli.report",
    "export": "teleflm_jax.cli.export",
    "import": "teleflm_jax.cli.importing",
}
"""Command -> module with `HELP`, `arguments(parser)`, which may also set `parser.epilog` to another example, and `main(args)`."""


def main(argv: Sequence[str]) -> int | None:
    """Run one command.

    Raises:
        UserError: the command is unknown, or it refuses its input.
    """
    program = invocation.program()
    if not argv:
        raise UserError(f"got no command; allowed: {', '.join(COMMANDS)}; see {program} --help")
    name, *rest = argv
    if name in ("-h", "--help"):
        print(overview())
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        change = f"change it to {near[0]}" if near else f"see {program} --help"
        raise UserError(f"got the unknown command {name!r}; allowed: {', '.join(COMMANDS)}; {change}")
    return _run(name, f"{program} {name}", rest)


def overview() -> str:
    """Return the list of commands."""
    program = invocation.program()
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:{width}}{summary(module)}" for name, module in COMMANDS.items()]
    example = f"example: {program} info --gin_file configs/runs/pretrain_52b.gin"
    return "\n".join([f"usage: {program} COMMAND ...", "", *lines, "", f"{program} COMMAND --help shows a command's options.", example])


def summary(module: str) -> str:
    """Return a command's `HELP` from its source, since importing every command would import jax to print a list."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None  # COMMANDS names files
    assignments = (node for node in ast.parse(pathlib.Path(spec.origin).read_bytes()).body if isinstance(node, ast.Assign))
    return next(ast.literal_eval(node.value) for node in assignments if ast.unparse(node.targets[0]) == "HELP")


def script(name: str, argv: Sequence[str]) -> int:
    """Run a command as the checkout's `NAME.py` does; return the exit code."""
    return options.run_command(lambda: _run(name, f"python {name}.py", argv))


def _run(name: str, prog: str, argv: Sequence[str]) -> int | None:
    command = importlib.import_module(COMMANDS[name])
    parser = options.make_parser(prog, command.HELP)
    command.arguments(parser)
    return command.main(parser.parse_args(argv))


def entry() -> int:
    """Run the command of the process's arguments; return the exit code."""
    return options.run_command(lambda: main(sys.argv[1:]))
