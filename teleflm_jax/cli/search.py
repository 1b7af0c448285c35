"""`search run | report | transfer | predict | coordinates`: hyper-parameters on narrow models, and their transfer to wide ones."""

import argparse

from teleflm_jax.cli import options

HELP = "search hyper-parameters on a narrow model, prove their transfer, predict a wide model's loss"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the sub-commands and their options."""
    parser.epilog = f"example: {parser.prog} run --gin_file configs/runs/search_quickstart.gin --workdir searches/one"
    commands = parser.add_subparsers(dest="subcommand", metavar="{run,report,transfer,predict,coordinates}", required=True)
    run = _sub_command(
        commands, "run", "train the trials of a search that no other worker trains", "--gin_file configs/runs/search_quickstart.gin"
    )
    _of_study(commands, "report", "rank the points of a search; writes report.html and chosen.gin", "searches/one")
    transfer = _sub_command(
        commands,
        "transfer",
        "train every rate at every width, and show how the best rate moves with the width",
        "--gin_file configs/runs/transfer_quickstart.gin",
    )
    for command in (run, transfer):
        command.add_argument("--yes", action="store_true", help="allow a grid with more points than search.limit_points")
    predict = _of_study(commands, "predict", "fit L(C) = a·C^b + c to narrow models and predict wider ones", "searches/widths")
    predict.add_argument("--rate", type=float, metavar="VALUE", help="of the searched setting, where each width has several points")
    predict.add_argument(
        "--width", type=int, action="append", default=[], metavar="D", help="width to predict; repeatable; default: the widest trained"
    )
    predict.add_argument(
        "--model", type=options.path, action="append", default=[], metavar="FILE", help="gin file of a model to predict; repeatable"
    )
    coordinates = _sub_command(
        commands,
        "coordinates",
        "show how activations and their change depend on the width",
        "--gin_file configs/runs/transfer_quickstart.gin",
    )
    coordinates.set_defaults(yes=True)
    coordinates.add_argument("--steps", type=int, default=4, metavar="N", help="updates after which activations are compared (default 4)")


def main(args: argparse.Namespace) -> int | None:
    """Run the sub-command; return the exit code."""
    from teleflm_jax.cli import searching  # after parsing, so that --help and mistakes need no jax

    return searching.COMMANDS[args.subcommand](args)


def _sub_command(commands: argparse._SubParsersAction, name: str, description: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
    parser.epilog = f"example: {parser.prog} {example} --workdir searches/{'one' if name == 'run' else name}"
    options.add_arguments(parser)
    return parser


def _of_study(commands: argparse._SubParsersAction, name: str, description: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=description, description=description, allow_abbrev=False)
    parser.epilog = f"example: {parser.prog} {example}"
    parser.add_argument("study", type=options.path, metavar="STUDY", help="the folder of a search; its trials may be in training")
    parser.add_argument("--out", type=options.path, metavar="FILE.html", help="the page; default: in the study's folder")
    return parser
