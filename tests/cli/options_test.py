"""What commands share: where a configuration comes from, and that a wrong input is one line and exit code 2."""

import dataclasses
import errno
import importlib
import os
import signal
import subprocess
import sys

import pytest

from teleflm_jax import config
from teleflm_jax.cli import main, options
from teleflm_jax.errors import UserError
from teleflm_jax.evaluate.config import SuiteConfig
from teleflm_jax.runs.config import SECTIONS
from tests import job

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


def test_of_gin_files_the_later_one_decides_and_a_plain_argument_comes_first(here):
    for name, epsilon in (("one", 0.25), ("two", 0.125)):
        (here / f"{name}.gin").write_text(f"model.norm_epsilon = {epsilon}\n")
    assert load("one.gin", "--gin_file", "shape.gin", "--gin_file", "two.gin").model.norm_epsilon == 0.125
    assert load("one.gin", "--gin_file", "two.gin", "--gin_file", "shape.gin").model.norm_epsilon == 0.125


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
    (here / "run/config.gin").write_text(config.dump({name: getattr(found, name) for name in SECTIONS}))
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
        (["new"], "got new, which does not exist; allowed: the folder of a run that was trained or imported; change the folder"),
        (["--gin_file", "shape.gin", "--workdir", "new"], "got new, which does not exist"),
        (["theirs"], "got theirs without config.gin; .*; import it first, .*: python -m teleflm_jax import --from theirs"),
    ):
        with pytest.raises(UserError, match=message):
            options.load_trained(parse(*argv))


@pytest.mark.parametrize(
    ("argv", "parts"),
    [
        ([], "got no configuration"),
        (["--workdir", "new"], "got new without config.gin"),
        (["nothing.gin"], "nothing.gin, which does not exist"),
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
    assert process.wait() == options.PIPE_CLOSED == 128 + signal.SIGPIPE


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


def test_a_tilde_begins_a_path_wherever_one_is_given(here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    (here / "more.gin").write_text("include '~/shape.gin'\nmodel.norm_epsilon = 0.125\n")
    assert load("--gin_file=~/more.gin").model.norm_epsilon == 0.125
    assert load("--workdir=~/run").model.norm_epsilon == load("~/run").model.norm_epsilon == 0.5
    assert options.workdir(parse("--workdir=~/run")) == here / "run"
    values = {"data.tokenizer": "~/t.json", "data.packed": "~/packed", "data.sources": {"web": "~/web"}, "data.proportions": {"web": 1.0}}
    values |= {"train.steps": 1, "train.batch_size": 1, "train.init_from": "~/base@1", "suite.include": ("~", "~~")}
    found = load("shape.gin", *(argument for name, value in values.items() for argument in ("--gin_param", f"{name} = {value!r}")))
    assert (found.data.tokenizer, found.data.packed, found.data.sources) == (f"{here}/t.json", f"{here}/packed", {"web": f"{here}/web"})
    assert (found.train.init_from, found.suite.include) == (f"{here}/base@1", (str(here), f"{here}/~~"))


def test_every_option_that_names_a_path_takes_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of/mine")
    for command, module in main.COMMANDS.items():
        parser = options.make_parser(command, "")
        importlib.import_module(module).arguments(parser)
        for action in parser._actions:
            if action.metavar in ("FILE", "FOLDER", "PATH", "RUN", "FILE.html", "PLACE", "RUN[@STEP]"):
                assert action.type and action.type("~/x") == "/home/of/mine/x", (command, action.dest)


def test_jax_s_variables_change_nothing(tmp_path):
    """Bits of weights, and a sum that the strict modes refuse, with jax read before and after the command begins."""
    script = (
        "import sys\nif sys.argv[1] == 'before': import jax\n"
        "from teleflm_jax.cli import options\n"
        "def main():\n"
        "    import jax, jax.numpy as jnp\n"
        "    x = jax.random.normal(jax.random.key(3), (4,)) + jnp.arange(4)[None]\n"
        "    print(x.dtype, jax.device_get(x).tobytes().hex(), jnp.asarray(1.5).dtype)\n"
        "sys.exit(options.run_command(main))\n"
    )
    wrong = {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_THREEFRY_PARTITIONABLE": "0", "JAX_RANDOM_SEED_OFFSET": "7"}
    wrong |= {"JAX_NUMPY_RANK_PROMOTION": "raise", "JAX_NUMPY_DTYPE_PROMOTION": "strict"}
    found = []
    for when, variables in (("after", {"JAX_ENABLE_X64": "0"}), ("before", wrong), ("after", wrong)):
        environment = {**job.BARE, "JAX_PLATFORMS": "cpu", **variables}
        done = subprocess.run([sys.executable, "-c", script, when], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        found.append((done.stdout, done.stderr))
    assert found[0][0].startswith("float32 ") and found[0][0].endswith(" float32\n")
    assert {out for out, _ in found} == {found[0][0]}
    told = "".join(f"{name}={value} is set and has no effect on this command\n" for name, value in wrong.items())
    assert [err for _, err in found] == ["", told, told]


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_without_devices_is_a_line(platform):
    script = "import sys, jax\nfrom teleflm_jax.cli import options\nsys.exit(options.run_command(lambda: print(jax.process_index())))"
    environment = {**job.BARE, "JAX_PLATFORMS": platform}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert f"error: got JAX_PLATFORMS='{platform}', for which jax finds no device" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])
def test_output_that_is_ascii_shows_other_letters_as_escapes(variables):
    script = "import sys\nfrom teleflm_jax.cli import options\nsys.exit(options.run_command(lambda: print('\\u4f60\\xb7')))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, env={**job.BARE, **variables})
    assert (done.returncode, done.stdout, done.stderr) == (0, b"\\u4f60\\xb7\n", b"")
