"""`info`: size, cost, schedule and µP values of a configuration, before anything is trained."""

import argparse
import json
from collections.abc import Sequence

import rich.console

from sharding.config import padded_vocab_size
from teleflm_jax import mup
from teleflm_jax.cli import options
from teleflm_jax.cli.tables import make_console, print_table
from teleflm_jax.model import size
from teleflm_jax.model.config import ModelConfig
from teleflm_jax.optim import schedule
from teleflm_jax.runs.config import RunConfig

HELP = "show the consequences of a configuration: parameters, FLOPs, tokens per step, µP's values, learning rates"

PRINTED_SIZES = {
    (64, 4, 512, 1_344): "283 M",
    (64, 64, 8_192, 21_824): "52.85 B",
    (80, 80, 10_240, 27_264): "102.3 B",
    (140, 160, 20_480, 98_304): "1,083.74 B",
}
"""(layers, heads, d_model, d_ff), with a vocabulary of 80,000 -> size as printed. Source: report, table 2; model card of Tele-FLM-1T."""
PRINTED_VOCABULARY = 80_000
PRINTED_NOTE = "283 M, 52.85 B and 102.3 B are 12Lh² + 2Vh, which counts the feed-forward as 8h²; 1,083.74 B is the exact count."

TENSOR_WAYS = (1, 4, 8, 16, 32)
BUDGETS_TOKENS = (2_000_000_000_000, 2_500_000_000_000)

FLOP_CONVENTIONS = {
    "6n": "6N: six per parameter, embedding included",
    "causal": "causal: matrix products + 6·L·s·h for attention under its mask",
    "full": "full: matrix products + 12·L·s·h, attention as though unmasked",
}


def arguments(parser: argparse.ArgumentParser):
    """Add the command's options."""
    options.add_arguments(parser)
    parser.add_argument(
        "--at_tokens",
        nargs="+",
        type=_tokens,
        default=(),
        metavar="N",
        help="token counts to print learning rates at, such as 2.5e12; default: along the schedule",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def main(args: argparse.Namespace):
    """Print the facts."""
    facts = describe(options.load(args, optional=("data", "train")), args.at_tokens)
    if args.json:
        print(json.dumps(facts))
    else:
        _print(facts)


def describe(run: RunConfig, at_tokens: Sequence[int] = ()) -> dict:
    """Return everything that `info` prints, as plain values; entries that need `train.*` are None if the configuration has none."""
    model = run.model
    count = size.parameters(model)
    rule = mup.at_width(run.mup, model.d_model)
    return {
        "parameters": {**count, "total": sum(count.values()), "printed": printed_size(model)},
        "vocabulary": {
            "rows": model.vocab_size,
            "tensor": run.mesh.tensor,
            "padded": {ways: padded_vocab_size(model.vocab_size, ways) for ways in sorted({*TENSOR_WAYS, run.mesh.tensor})},
        },
        "flops_per_token": size.flops_per_token(model),
        "mup": {
            "d_model": model.d_model,
            "base_width": run.mup.base_width,
            "roles": {
                role: {"std": r.std, "learning_rate": r.learning_rate, "minimum_learning_rate": r.minimum_learning_rate}
                for role, r in rule.rules.items()
            },
            "input_multiplier": rule.input_multiplier,
            "output_multiplier": rule.output_multiplier,
        },
        "training": _training(run) if run.train else None,
        "learning_rates": [_rates(run, rule, tokens) for tokens in at_tokens or _milestones(run)] if run.train else None,
    }


def printed_size(model: ModelConfig) -> str | None:
    """Return the size that the paper prints for this shape; None for other shapes."""
    if model.vocab_size != PRINTED_VOCABULARY or model.num_kv_heads != model.num_heads:
        return None
    return PRINTED_SIZES.get((model.num_layers, model.num_heads, model.d_model, model.d_ff))


def _training(run: RunConfig) -> dict:
    tokens_per_step = run.train.batch_size * run.model.context_length
    tokens = run.train.steps * tokens_per_step
    return {
        "sequences_per_step": run.train.batch_size,
        "tokens_per_step": tokens_per_step,
        "steps": run.train.steps,
        "tokens": tokens,
        "flops": tokens * size.flops_per_token(run.model)["causal"],
        "schedule_name": run.optimizer.schedule,
        "decay_step": schedule.decay_step(run.optimizer, tokens_per_step),
        "schedule": schedule.end(run.optimizer, tokens_per_step, run.train.steps),
        "steps_to": {budget: -(-budget // tokens_per_step) for budget in BUDGETS_TOKENS},
    }


def _milestones(run: RunConfig) -> list[int]:
    """Return the tokens to show rates at: the start, each phase's end, two and four fifths of the last (1T and 2T of the paper's)."""
    borders = schedule.borders(run.optimizer, run.train.batch_size * run.model.context_length)
    return sorted({0, *borders, borders[-1] * 2 // 5, borders[-1] * 4 // 5})


def _rates(run: RunConfig, rule: mup.Mup, tokens: int) -> dict:
    tokens_per_step = run.train.batch_size * run.model.context_length

    def rate(role):
        r = rule.rules[role]
        return schedule.learning_rate(
            r.learning_rate, r.minimum_learning_rate, tokens=tokens, tokens_per_step=tokens_per_step, config=run.optimizer
        )

    return {
        "tokens": tokens,
        "step": -(-tokens // tokens_per_step),
        "learning_rate": rate(mup.VECTOR),
        "matrix_learning_rate": rate(mup.MATRIX),
    }


def _tokens(text: str) -> int:
    try:
        value = int(text) if text.isdecimal() else float(text)
        if not (value >= 0 and value == int(value)):
            raise ValueError(text)
        return int(value)
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is not a token count such as 2000000 or 2.5e12") from None


def _print(facts: dict):
    console = make_console()
    _print_sizes(console, facts)
    _print_flops(console, facts)
    _print_vocabulary(console, facts)
    _print_mup(console, facts)
    if facts["training"]:
        _print_training(console, facts)
        _print_learning_rates(console, facts)
    else:
        console.print("No train.* is bound, so there are no steps and no learning rates to show.")


def _print_sizes(console: rich.console.Console, facts: dict):
    count = dict(facts["parameters"])
    printed, total = count.pop("printed"), count["total"]
    rows = [(name, f"{number:,}", f"{number / total:.1%}") for name, number in count.items()]
    rows += [("the paper prints", printed, "")] if printed else []
    print_table(console, "Parameters", ("component", "count", "share"), rows, PRINTED_NOTE if printed else "")


def _print_flops(console: rich.console.Console, facts: dict):
    rows = [(FLOP_CONVENTIONS[name], f"{flops:,}", f"{flops / 1e9:,.3f}") for name, flops in facts["flops_per_token"].items()]
    print_table(console, "Training FLOPs per token", ("convention", "FLOPs", "GFLOPs"), rows)


def _print_vocabulary(console: rich.console.Console, facts: dict):
    vocabulary = facts["vocabulary"]
    rows = [
        (f"{ways} (this mesh)" if ways == vocabulary["tensor"] else str(ways), f"{padded:,}", f"{padded - vocabulary['rows']:,}")
        for ways, padded in vocabulary["padded"].items()
    ]
    title = f"Vocabulary: {vocabulary['rows']:,} rows, padded to the next multiple of 128 · tensor"
    print_table(console, title, ("tensor", "rows", "added"), rows)


def _print_mup(console: rich.console.Console, facts: dict):
    values = facts["mup"]
    rows = [
        (
            role,
            f"{rule['std']:.4g}" if rule["std"] else "starts at 1",
            f"{rule['learning_rate']:.4g}",
            f"{rule['minimum_learning_rate']:.4g}",
        )
        for role, rule in values["roles"].items()
    ]
    title = f"µP at width {values['d_model']:,}, base width {values['base_width']:,}, r = {values['d_model'] / values['base_width']:g}"
    note = f"Input multiplier {values['input_multiplier']:.4g}, output multiplier {values['output_multiplier']:.4g}."
    print_table(console, title, ("role", "std", "learning rate", "minimum"), rows, note)


def _print_training(console: rich.console.Console, facts: dict):
    training = facts["training"]
    per_step = training["tokens_per_step"]
    rows = [
        (f"one step of {training['sequences_per_step']:,} sequences", "1", f"{per_step:,}"),
        ("this run", f"{training['steps']:,}", f"{training['tokens']:,}"),
        *((f"to {budget / 1e12:g}T tokens", f"{steps:,}", f"{steps * per_step:,}") for budget, steps in training["steps_to"].items()),
    ]
    note = f"This run takes {training['flops']:.3g} FLOPs (causal); {training['schedule']}."
    print_table(console, "Training", ("", "steps", "tokens"), rows, note)


def _print_learning_rates(console: rich.console.Console, facts: dict):
    rows = [
        (f"{row['tokens']:,}", f"{row['step']:,}", f"{row['learning_rate']:.3e}", f"{row['matrix_learning_rate']:.3e}")
        for row in facts["learning_rates"]
    ]
    note = "Of the update that starts after so many tokens; the last warm-up step has the peak already."
    title = f"Learning rates, schedule {facts['training']['schedule_name']}"
    print_table(console, title, ("tokens", "step", "vector-like", "matrix-like"), rows, note)
