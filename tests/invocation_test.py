"""Help and errors name the program as it was called, and an extra by commands that work beside a wheel and in a checkout."""

import importlib
import re
import sys

import pytest

from teleflm_jax import invocation
from teleflm_jax.cli import main, options
from teleflm_jax.errors import UserError
from tests import job

CALLS = [
    ("/usr/bin/teleflm", "teleflm"),
    ("teleflm", "teleflm"),
    ("/x/teleflm_jax/__main__.py", "python -m teleflm_jax"),
    ("train.py", "python -m teleflm_jax"),
    ("-c", "python -m teleflm_jax"),
]


@pytest.mark.parametrize(("called", "name"), CALLS)
def test_messages_name_the_program_as_it_was_called(called, name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [called])
    assert invocation.command("pack --force") == f"{name} pack --force"
    assert main.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: {name} COMMAND") and f"example: {name} info" in shown
    for wrong in ([], ["nope"], ["zzz"], ["info", "--zzz"]):
        with pytest.raises(UserError) as caught:
            main.main(wrong)
        assert f"see {name} " in str(caught.value)


@pytest.mark.parametrize("command", main.COMMANDS)
def test_a_command_is_described_and_parsed_alike_under_both_names(command, monkeypatch, capsys):
    module = importlib.import_module(main.COMMANDS[command])
    assert re.fullmatch(r"[a-z][^\n]*[^.\n]", module.HELP) and main.summary(main.COMMANDS[command]) == module.HELP
    texts = []
    for called, name in CALLS[1:3]:
        monkeypatch.setattr(sys, "argv", [called])
        with pytest.raises(SystemExit) as caught:
            main.main([command, "--help"])
        assert caught.value.code == 0
        texts.append(" ".join(capsys.readouterr().out.split()))
        assert texts[-1].startswith(f"usage: {name} {command}") and f"example: {name} " in texts[-1]
    assert texts[0] == texts[1].replace("python -m teleflm_jax", "teleflm")


def test_train_and_eval_are_commands_with_the_bodies_of_the_two_scripts():
    assert main.COMMANDS["train"] == "teleflm_jax.cli.train" and main.COMMANDS["eval"] == "teleflm_jax.cli.evaluate"
    for name in ("train", "eval"):
        assert f'sys.exit(main.script("{name}", sys.argv[1:]))' in (job.ROOT / f"{name}.py").read_text(encoding="utf-8")
    parser = options.make_parser("x", "")
    importlib.import_module(main.COMMANDS["train"]).arguments(parser)
    assert parser.parse_args(["--workdir", "w", "--dry_run"]).dry_run


def test_a_missing_extra_is_named_with_how_to_install_it():
    invocation.refuse_missing("serve", ["sys", "json"])
    with pytest.raises(UserError) as caught:
        invocation.refuse_missing("serve", ["sys", "no_such_module", "no_such_other"])
    message = str(caught.value)
    assert message.startswith("got no module no_such_module; allowed: ") and "no_such_other" not in message
    assert "pip install 'teleflm_jax[serve]', or in a checkout pip install -r requirements-serve.txt" in message
