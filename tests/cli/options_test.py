"""What commands share: where a configuration comes from, and that a wrong input is one line and exit code 2."""

import dataclasses
import errno
import os
import subprocess
import sys

import pytest

from teleflm_jax import config
from teleflm_jax.cli import main, options
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate.config import SuiteConfig

SIZES = {"num_layers": 1, "d_model": 8, "num_heads": 2, "num_kv_heads": 2, "d_ff": 8, "vocab_size": 9, "context_length": 4}
SHAPE = "".join(f"model.{name} = {size}\n" for name, size in SIZES.items())


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder, with a gin file and a run's folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shape.gin").write_text(SHAPE)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.gin").write_text(SHAPE + "model.norm_epsilon = 0.5\n")
    return tmp_path


def parse(*argv):
    parser = options.make_parser("prog", "A description.")
    options.add_arguments(parser)
    return parser.parse_args(argv)


def load(*argv):
    return options.load(parse(*argv), optional=("data", "train"))


def test_a_gin_file_a_run_s_folder_and_a_plain_argument_name_a_configuration(here):
    for argv in (
        ["--gin_file", "shape.gin"],
        ["shape.gin"],
        ["shape.gin", "--workdir", "run"],
        ["--workdir", "run", "--gin_file", "shape.gin"],
    ):
        assert load(*argv).model.norm_epsilon == 1e-5, argv
    for argv in (["--workdir", "run"], ["run"], ["run/"], ["run/config.gin"], ["--gin_param", "model.vocab_size = 8", "run"]):
        assert load(*argv).model.norm_epsilon == 0.5, argv
    assert load("run", "--gin_param", "model.norm_epsilon = 0.25", "--gin_param", "model.d_ff = 3").model.norm_epsilon == 0.25
    assert load("run").train is None


def test_paths_begin_at_the_current_folder_and_are_absolute_from_then_on(here, tmp_path_factory, monkeypatch):
    data = {"data.tokenizer": "t.json", "data.packed": "../packed/", "data.sources": {"web": "web", "code": "/raw/code"}}
    values = data | {"data.proportions": {"web": 1.0, "code": 1.0}, "suite.data": "a b/[0]", "suite.include": ("x", "/y")}
    values |= {"train.steps": 1, "train.batch_size": 1, "train.init_from": "runs/base@10"}
    found = load("shape.gin", *(argument for name, value in values.items() for argument in ("--gin_param", f"{name} = {value!r}")))
    assert (found.data.tokenizer, found.data.packed) == (f"{here}/t.json", f"{here}/../packed")  # `..` of a link is not the link's place
    assert found.data.sources == {"web": f"{here}/web", "code": "/raw/code"}
    assert (found.suite.data, found.suite.include) == (f"{here}/a b/[0]", (f"{here}/x", "/y"))
    assert found.train.init_from == f"{here}/runs/base@10"
    assert load("shape.gin").suite.data is None
    (here / "run/config.gin").write_text(config.dump({name: getattr(found, name) for name in options.SECTIONS}))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    withheld = ("suite.data", "suite.include")
    assert load(str(here / "run")) == dataclasses.replace(found, suite=SuiteConfig(), withheld=withheld)
    again = [f"--gin_param={name} = {getattr(found.suite, name.split('.')[1])!r}" for name in withheld]
    assert load(str(here / "run"), *again) == found


def test_records_are_not_read_below_a_folder_whose_name_is_not_utf_8(here):
    binding = f"data.packed = {os.fsdecode(b'caf' + bytes([233]))!r}"
    with pytest.raises(UserError, match="got data.packed='.*udce9'; allowed: a path in UTF-8"):
        load("shape.gin", *("--gin_param", binding, "--gin_param", "data.tokenizer = 't'", "--gin_param", "data.proportions = {'a': 1.0}"))


def test_a_name_that_the_terminal_cannot_show_is_printed_escaped():
    script = "import sys; from teleflm_jax.cli import options; sys.exit(options.run_command(lambda: print('caf\\udce9')))"
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "caf\\udce9\n"), done.stderr


def test_the_run_s_folder_need_not_exist_but_must_be_named(here):
    assert str(options.workdir(parse("--workdir", "new"))) == "new"
    assert str(options.workdir(parse("shape.gin", "--workdir", "new"))) == "new"
    assert str(options.workdir(parse("run"))) == "run"
    for argv in ([], ["shape.gin"]):
        with pytest.raises(UserError, match=r"got no folder.*--workdir"):
            options.workdir(parse(*argv))


def test_a_trained_run_is_its_folder_whatever_gin_files_say(here):
    run, folder = options.load_trained(parse("run"))
    assert run.model.norm_epsilon == 0.5 and run.train is None and str(folder) == "run"
    (here / "theirs").mkdir()
    (here / "theirs/config.json").touch()
    for argv, message in (
        (["new"], "got new, which is not there; allowed: the folder of a run that was trained or imported; change the folder"),
        (["--gin_file", "shape.gin", "--workdir", "new"], "got new, which is not there"),
        (["theirs"], "got theirs without config.gin; .*; import it first, .*: python -m teleflm_jax import --from theirs"),
    ):
        with pytest.raises(UserError, match=message):
            options.load_trained(parse(*argv))


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], "got no configuration"),
        (["--workdir", "new"], "got new without config.gin"),
        (["nothing.gin"], "nothing.gin, which is not there"),
        (["run", "--workdir", "new"], "got two folders, run and --workdir new"),
        (
            ["--gin_fiel", "shape.gin"],
            "unknown argument '--gin_fiel'; allowed: --help, --gin_file, --gin_param, --workdir; change it to --gin_file",
        ),
        (["--gin", "shape.gin"], "unknown argument '--gin'"),
        (["shape.gin", "another"], "unknown argument 'another'"),
        (["--gin_file"], "got argument --gin_file: expected one argument"),
        (["shape.gin", "--gin_param", "model.d_ff = 1", "--gin_param", "model.d_ff = 2"], "model.d_ff twice"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(here, capsys, argv, parts):
    assert options.run_command(lambda: load(*argv) and None) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: got ") and err.count("\n") == 1 and "; allowed" in err
    assert parts in err


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_the_machine_s_refusals_are_one_line(capsys, number):
    def fail():
        raise OSError(number, os.strerror(number), "some\nfile")

    assert options.run_command(fail) == 2
    err = capsys.readouterr().err
    assert err == err.splitlines()[0] + "\n"
    assert err.startswith("error: got some file: ") and "; allowed: " in err


@pytest.mark.parametrize(
    "bug", [ValueError("x"), KeyError("x"), OSError(errno.EBADF, "x"), ConnectionResetError("x"), BrokenPipeError("a worker's")]
)
def test_a_bug_keeps_its_traceback(bug):
    def fail():
        raise bug

    with pytest.raises(type(bug)):
        options.run_command(fail)


def test_a_command_s_exit_code_is_kept():
    assert options.run_command(lambda: None) == 0
    assert options.run_command(lambda: 75) == 75


def test_help_ends_with_an_example(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    assert "example: prog --gin_file configs/runs/quickstart.gin" in " ".join(capsys.readouterr().out.split())


def test_a_reader_that_leaves_is_no_error():
    script = "import sys; from teleflm_jax.cli import options; sys.exit(options.run_command(lambda: print('x' * 10**6)))"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == options.PIPE_CLOSED


def run_main(capsys, *argv):
    code = options.run_command(lambda: main.main(argv))
    return code, *capsys.readouterr()


def test_an_unknown_command_names_the_nearest(capsys):
    code, out, err = run_main(capsys, "tokeniser")
    assert (code, out) == (2, "")
    assert "'tokeniser'" in err and "change it to tokenizer" in err and err.count("\n") == 1
    code, out, err = run_main(capsys)
    assert code == 2 and err.startswith("error: got no command; allowed: info, ")


def test_the_commands_are_listed_with_what_they_do(capsys):
    code, out, _ = run_main(capsys, "--help")
    assert code == 0
    for name in main.COMMANDS:
        assert f"\n  {name} " in out


@pytest.mark.parametrize("argv", [["--help"], ["info", "--help"], ["tokenizer", "--help"], ["pack", "--help"]])
def test_commands_that_need_no_jax_do_not_import_it(argv):
    script = (
        "import sys; from teleflm_jax.cli import main\n"
        f"try: main.main({argv})\n"
        "except SystemExit: pass\n"
        "sys.exit(sorted({'jax', 'flax', 'optax', 'grain'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "example: " in done.stdout
