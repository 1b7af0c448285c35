"""A stranger's gin files: refused in a line within bounded time and memory, without showing what they make the reader open."""

import os
import tracemalloc

import pytest

from teleflm_jax import config, foreign
from teleflm_jax.config import read, values
from teleflm_jax.errors import UserError
from teleflm_jax.runs.config import SECTIONS

OPTIONAL = ("model", "data", "train")


def refusal(text, tmp_path, saved=False):
    """The line that a text is refused with, and the most memory that refusing it took."""
    path = tmp_path / "config.gin"
    path.write_text(text, encoding="utf-8")
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            config.parse([str(path)], [], SECTIONS, OPTIONAL, saved=str(path) if saved else None)
        assert tracemalloc.get_traced_memory()[1] < 1 << 27
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def laughs(levels):
    macros = ["a = (1, 1, 1, 1, 1, 1, 1, 1, 1, 1)"]
    macros += [f"{name} = ({f'%{before}, ' * 10})" for before, name in zip("abcdefgh", "bcdefghi", strict=False)][: levels - 1]
    return "\n".join([*macros, f"suite.include = %{'abcdefghi'[levels - 1]}"])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (laughs(9), "got f (PATH:6) of 1,111,111 items and characters"),
        (
            "a = ('" + "'\n'".join(["x" * 9_000] * 10) + "')\nb = (" + "%a, " * 10 + ")\nsuite.include = %b",
            "of 900,011 items and characters",
        ),
        ("a = ('x', %b)\nb = ['y', %a]\nsuite.include = %a", "stands for itself"),
        ("".join(f"a{i} = %a{i + 1}\n" for i in range(2_000)) + "a2000 = 1\nsuite.include = %a0", "inside each other"),
        ("a2000 = 1\n" + "".join(f"a{i} = %a{i + 1}\n" for i in reversed(range(2_000))) + "suite.include = %a0", "65 deep"),
        ("suite.include = " + "(" * 10_000, "not gin: more than 64 values inside each other"),
        ("suite.include = " + "[" * 65 + "]" * 65, "65 deep"),
        ("suite.include = " + "{1: " * 66 + "1" + "}" * 66, "not gin: more than 64 values inside each other"),
        ("train.steps = " + "9" * 101, "a number of more than 100 characters"),
        ("tokenizer.vocab_size = 0x" + "f" * 98, "below 2^63"),
        ("tokenizer.vocab_size = 9223372036854775808", "below 2^63"),
        ("train.steps = 10**100000", "not gin: Expected newline"),
        ("a" * 201 + " = 1", "a name of more than 200 characters"),
        ("suite.include = '" + "x" * read.LONGEST_LINE + "'", "a line of more than 16,384 characters"),
        ("# x\n" * (read.LARGEST // 4 + 1), "with more than 524,288 bytes"),
        ("import os", "nothing reads imports"),
        ("suite.include = @os.system()", "the reference @os.system"),
    ],
)
def test_what_grows_is_refused_before_it_does(text, part, tmp_path):
    assert part.replace("PATH", str(tmp_path / "config.gin")) in refusal(text, tmp_path)


def test_what_stays_within_the_limits_is_read(tmp_path):
    path = tmp_path / "run.gin"
    unused = "\n".join(["a = ('x', 'x')", *(f"a{i} = %a" for i in range(60)), "suite.include = ('x',)"])
    assert len(foreign.printable(refusal(unused, tmp_path))) <= foreign.LONGEST_LINE + 3
    path.write_text("\n".join(["a60 = 'x'", *(f"a{i} = %a{i + 1}" for i in range(60)), "suite.include = (%a0, %a0)"]))
    found = config.parse([str(path)], [], {"suite": SECTIONS["suite"]})
    assert found["suite"].include == ("x", "x")
    path.write_text("\n".join(["suite.include = ('a' 'b' r'\\c'", *["''"] * 2_000, ",)"]))
    assert config.parse([str(path)], [], {"suite": SECTIONS["suite"]})["suite"].include == ("ab\\c",)
    text = config.dump({"suite": SECTIONS["suite"](include=tuple(f"task_{i}" for i in range(5_000)))})
    assert max(map(len, text.splitlines())) < values.WIDTH + 100
    path.write_text(text)
    assert config.parse([str(path)], [], {"suite": SECTIONS["suite"]})["suite"].include[-1] == "task_4999"


@pytest.mark.parametrize(
    "name", ["/dev/zero", "fifo", "/etc", "/proc/self/environ", "/proc/self/mem", "secret", "a\\0b", "x" * 5_000, "/" * 999]
)
def test_an_include_reads_plain_files_and_shows_none_of_their_text(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    (tmp_path / "secret").write_text("root:x:0:0:root\n")
    monkeypatch.setenv("AAA", "root:x:0")
    line = refusal(f"include '{name}'", tmp_path)
    assert "root:" not in line
    assert "AAA" not in line


def test_an_included_file_s_mistake_is_told_by_its_place_alone(tmp_path):
    (tmp_path / "secret").write_text("train.steps = 4\nkey = hunter2\n")
    assert refusal("include 'secret'", tmp_path).startswith(f"got a line that is not gin ({tmp_path / 'secret'}:2, an included file)")


def test_includes_are_counted(tmp_path):
    for i in range(40):
        (tmp_path / f"{i}.gin").write_text(f"include '{i + 1}.gin'\n" * (2 if i > 28 else 1))
    (tmp_path / "40.gin").write_text("")
    assert "17 includes deep" in refusal("include '0.gin'", tmp_path)
    assert "as file 257" in refusal("include '29.gin'", tmp_path)
    (tmp_path / "40.gin").write_text("# x\n" * (read.LARGEST // 8))
    assert "together 524,288 characters" in refusal("include '40.gin'\n" * 3, tmp_path)


def test_a_run_s_own_configuration_includes_nothing(tmp_path):
    (tmp_path / "more.gin").write_text("")
    assert "got include 'more.gin'" in refusal("include 'more.gin'", tmp_path, saved=True)
