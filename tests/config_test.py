"""Configuration: what gin lets pass is refused in one line that says where, and nothing is lost between a run and its config.gin."""

import dataclasses
import math
import string

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teleflm_jax import config
from teleflm_jax.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    width: int
    layers: int
    scale: float = 1.0
    name: str | None = None
    fast: bool = False
    domains: tuple[str, ...] = ()
    weights: dict[str, float] = dataclasses.field(default_factory=dict)
    paths: dict[str, str] = dataclasses.field(default_factory=dict)
    span: tuple[int, int] | None = None

    def __post_init__(self):
        if self.width % self.layers:
            raise UserError(f"got model.width={self.width} with model.layers={self.layers}; allowed: a multiple; change model.width")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Train:
    steps: int
    rate: float = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mesh:
    data: int = 0


SECTIONS = {"model": Model, "train": Train, "mesh": Mesh}
MODEL = ("model.width = 4", "model.layers = 2")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes gin files into the current folder."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return name

    return write


def parse_model(*bindings, files=()):
    return config.parse(files, [*MODEL, *bindings], {"model": Model})["model"]


def refused(*parts, files=(), bindings=(), sections=SECTIONS, optional=("train",)):
    """The one line of a refusal, which holds all `parts`."""
    with pytest.raises(UserError) as caught:
        config.parse(files, bindings, sections, optional)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("got ") and "; allowed" in line
    for part in parts:
        assert part in line
    return line


def test_bindings_macros_blocks_and_includes_make_dataclasses(write):
    write("models/small.gin", "wide = 8\nmodel.width = %wide\nmodel.layers = 2  # comment\nmodel.weights = {'en': %wide, 'zh': 0.5}\n")
    run = write("runs/run.gin", "include 'models/small.gin'\nmodel:\n  layers = 4\n  domains = ['en', 'zh']\ntrain.steps = 2.5e12\n")
    assert config.parse([run], ["wide = 16"], SECTIONS) == {
        "model": Model(width=16, layers=4, weights={"en": 16.0, "zh": 0.5}, domains=("en", "zh")),
        "train": Train(steps=2_500_000_000_000),
        "mesh": Mesh(),
    }


def test_a_section_may_be_spelled_like_the_class_that_gin_names(write):
    write("base.gin", "Model.width = 4\nModel:\n  layers = 2\n  span = (10, 13)\ntrain.steps = 1")
    run = write("run.gin", "include 'base.gin'\nTrain.steps = 2\nmodel.layers = 1")
    parsed = config.parse([run], ["Model.width = 6", "Mesh.data = 3"], SECTIONS)
    assert parsed == {"model": Model(width=6, layers=1, span=(10, 13)), "train": Train(steps=2), "mesh": Mesh(data=3)}
    refused("mesh.data twice", bindings=["Mesh.data = 1", "mesh.data = 1"])


def test_an_include_is_found_beside_its_file_from_here_and_in_the_repository(write):
    write("deep/near.gin", "train.steps = 1")
    write("here.gin", "model.width = 2")
    run = write("deep/run.gin", "include 'near.gin'\ninclude 'here.gin'\ninclude 'configs/mesh/single.gin'\nmodel.layers = 1")

    @dataclasses.dataclass(frozen=True)
    class RealMesh:
        data: int
        pipe: int
        tensor: int

    assert config.parse([run], [], {**SECTIONS, "mesh": RealMesh})["mesh"] == RealMesh(0, 1, 1)


def test_what_may_override(write):
    base = write("base.gin", "model.width = 4\nmodel.layers = 2\ntrain.steps = 1")
    over = write("over.gin", "include 'base.gin'\ntrain.steps = 2")
    other = write("other.gin", "train.steps = 3")
    assert config.parse([base], [], SECTIONS)["train"].steps == 1
    assert config.parse([over], [], SECTIONS)["train"].steps == 2
    assert config.parse([over, other], [], SECTIONS)["train"].steps == 3
    assert config.parse([over, other], ["train.steps = 4"], SECTIONS)["train"].steps == 4


def test_a_file_included_twice_binds_once(write):
    write("base.gin", "model.width = 4\nmodel.layers = 2")
    write("a.gin", "include 'base.gin'\ntrain.steps = 1")
    write("b.gin", "include './base.gin'\nmesh.data = 1")
    run = write("run.gin", "include 'a.gin'\ninclude 'b.gin'")
    assert config.parse([run], [], SECTIONS)["mesh"] == Mesh(data=1)


def test_a_sibling_may_override_what_it_includes_itself(write):
    write("base.gin", "model.width = 4\nmodel.layers = 2\ntrain.steps = 1")
    write("more.gin", "include 'base.gin'\ntrain.steps = 2")
    run = write("run.gin", "include 'base.gin'\ninclude 'more.gin'")
    assert config.parse([run], [], SECTIONS)["train"].steps == 2
    run = write("back.gin", "include 'more.gin'\ninclude 'base.gin'")
    refused("train.steps twice (more.gin:2, and base.gin:3 through the include at back.gin:2)", files=[run])


def test_two_parses_share_nothing(write):
    run = write("run.gin", "w = 4\nmodel.width = %w\nmodel.layers = 2\nmesh.data = 7")
    assert config.parse([run], [], SECTIONS, ["train"])["mesh"].data == 7
    assert config.parse([], list(MODEL), SECTIONS, ["train"])["mesh"].data == 0
    refused("undefined macro %w", bindings=["model.width = %w"])


def test_an_optional_section_is_absent_only_when_nothing_binds_it():
    assert set(config.parse([], list(MODEL), SECTIONS, ["train", "mesh"])) == {"model", "mesh"}
    refused("got no value for train.steps", bindings=[*MODEL, "train.rate = 1"])
    refused("model.width", "model.layers", "--gin_param 'model.width = ...'", bindings=[], sections={"model": Model})


def test_an_override_leaves_a_macro_of_the_file_used(write):
    run = write("run.gin", "w = 4\nmodel.width = %w\nmodel.layers = 2")
    assert config.parse([run], ["model.width = 6"], SECTIONS, ["train"])["model"].width == 6


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("modle.width = 4", ("'modle'", "run.gin:3", "change it to model.width")),
        ("model.widht = 4", ("model.widht", "run.gin:3", "change it to model.width")),
        ("mesh.zzz = 4", ("mesh.zzz", "allowed in mesh: data", "change or remove it")),
        ("a.b.c = 4", ("'a.b'",)),
        ("steps = 4\ntrain.steps = %stpes", ("%stpes", "run.gin:4", "change it to %steps")),
        ("train.steps = %gin.REQUIERD", ("change it to %gin.REQUIRED",)),
        ("train.steps = %gin.REQUIRED", ("no value for train.steps (a whole number, required at run.gin:3)",)),
        ("s = %gin.REQUIRED\ntrain.steps = %s", ("train.steps", "run.gin:4")),
        ("steps = 4", ("macro steps", "run.gin:3", "nothing uses", "change it to train.steps")),
        ("hue = 4", ("macro hue", "change or remove it")),
        ("mesh.steps = 4", ("mesh.steps", "change it to train.steps")),
        ("loop.steps = 4", ("'loop'", "change it to train.steps")),
        ("a = %b\nb = %a", ("stands for itself", "run.gin:3")),
        ("c = %a\na = %b\nb = %a\ntrain.steps = %c", ("macro a (run.gin:4), which stands for itself",)),
        ("model.width = 4", ("model.width twice (run.gin:1 and run.gin:3)",)),
        ("mesh.data = 1\nmodel:\n  scale = 1\n  scale = 2", ("model.scale twice (run.gin:5 and run.gin:6)",)),
        ("mesh.data = True", ("mesh.data = True (run.gin:3)", "a whole number")),
        ("mesh.data = 2.5", ("a whole number",)),
        ("mesh.data = 1e300", ("with all its digits",)),
        ("mesh.data = 1e999", ("a whole number",)),
        ("mesh.data = '4'", ("a whole number",)),
        ("model.scale = False", ("a number",)),
        ("model.fast = 1", ("True or False",)),
        ("model.name = 4", ("text in quotes or None",)),
        ("model.domains = 'en'", ("a list [text in quotes, ...]",)),
        ("model.domains = ('en', 4)", ("model.domains[1] = 4", "text in quotes")),
        ("model.span = (1, 2, 3)", ("model.span = (1, 2, 3) (run.gin:3)", "a list [a whole number, a whole number] or None")),
        ("model.span = (1, 'b')", ("a list [a whole number, a whole number] or None",)),
        ("Mesh.data = '4'", ("got mesh.data = '4' (run.gin:3)",)),
        ("Mesh.dta = 4", ("unknown field mesh.dta", "change it to mesh.data")),
        ("Modle.width = 4", ("'modle'", "change it to model.width")),
        ("MESH.data = 4", ("'mESH'", "change it to mesh.data")),
        ("Model.width = 4", ("model.width twice (run.gin:1 and run.gin:3)",)),
        ("Mesh:\n  data = 1\nmesh:\n  data = 1", ("mesh.data twice (run.gin:4 and run.gin:6)",)),
        ("model.weights = {'en': '4'}", ("model.weights['en'] = '4'", "a number")),
        ("model.weights = {4: 4}", ("a key of model.weights = 4",)),
        ("model.weights = {'en': 4, 'zh': 1, 'en': 4}", ("'en' occurs twice",)),
        ("k = 'en'\nmodel.weights = {%k: 4}", ("%k is a key",)),
        ("model.name = bfloat16", ("run.gin:3", "bfloat16 is neither a number nor in quotes")),
        ("mesh.data = 4 4", ("run.gin:3", "not gin")),
        ("mesh.data = (4", ("run.gin:3", "not gin")),
        ("mesh.data", ("run.gin:3", "not gin")),
        ("model.name = 'abc", ("run.gin:3", "not gin")),
        ("model.weights = {[1]: 2}", ("not gin", "unhashable")),
        ("tower/mesh.data = 4", ("scope of tower/mesh.data", "change it to mesh.data")),
        ("mesh.data = @train", ("reference @train",)),
        ("model.domains = ['en', @a/train()]", ("reference @a/train",)),
        ("import os", ("'import os' (run.gin:3)",)),
        ("from os import path", ("'from os import path'",)),
        ("include 'nothing.gin'", ("include 'nothing.gin' (run.gin:3)", "does not exist")),
        ("include 'ran.gin'", ("change the path to run.gin",)),
        ("include 'configs/mesh/singel.gin'", ("include 'configs/mesh/singel.gin' (run.gin:3)", "configs/mesh/single.gin")),
        ("include '.'", ("not a plain file",)),
        ("include 'run.gin'", ("include 'run.gin' (run.gin:3)", "no cycle")),
        ("include unquoted.gin", ("run.gin:3", "not gin")),
    ],
)
def test_a_mistake_in_a_file_is_one_line_with_its_place(write, text, parts):
    run = write("run.gin", "\n".join([*MODEL, text]))
    refused(*parts, files=[run])


def test_duplicates_over_files(write):
    write("a.gin", "train.steps = 1\n")
    write("b.gin", "\ntrain.steps = 1\n")
    siblings = write("siblings.gin", "include 'a.gin'\ninclude 'b.gin'")
    refused("train.steps twice (a.gin:1, and b.gin:2 through the include at siblings.gin:2)", files=[siblings])
    late = write("late.gin", "train.steps = 3\ninclude 'a.gin'")
    refused("train.steps twice (late.gin:1, and a.gin:1", "move the include above it", files=[late])
    refused("twice", "--gin_param 'mesh.data = 1'", bindings=["mesh.data = 1", "mesh.data = 2"])


def test_an_include_cycle_over_two_files_is_refused(write):
    write("a.gin", "include 'b.gin'")
    write("b.gin", "include './a.gin'")
    refused("include './a.gin' (b.gin:1)", "no cycle", files=["a.gin"])


def test_files_that_cannot_be_read(write, tmp_path):
    write("quickstart.gin", "")
    refused("--gin_file quikstart.gin, which does not exist", "change the path to quickstart.gin", files=["quikstart.gin"])
    refused(
        "no/such/folder/run.gin, which does not exist",
        f"(looked for: {tmp_path}/no/such/folder/run.gin, ",
        files=["no/such/folder/run.gin"],
    )
    write("deep/a.gin", "include 'b.gin'")
    refused("include 'b.gin'", f"(looked for: {tmp_path}/deep/b.gin, {tmp_path}/b.gin, ", files=["deep/a.gin"])
    refused("not a plain file", files=[tmp_path])
    (tmp_path / "latin.gin").write_bytes(b"# caf\xe9\n")
    refused("latin.gin, which is not UTF-8 at byte 5", files=["latin.gin"])


def test_mistakes_in_parameters():
    refused("--gin_param 'mesh.dta = 1'", "change it to mesh.data", bindings=["mesh.dta = 1"])
    refused("empty --gin_param", bindings=[" "])
    refused("an include in --gin_param", "change it to --gin_file x.gin", bindings=["include 'x.gin'"])


def test_a_section_s_own_refusal_names_the_bindings(write):
    run = write("run.gin", "model.width = 5\n\nmodel.layers = 2")
    refused("change model.width (run.gin:1, run.gin:3)", files=[run])


def test_numbers_keep_their_type():
    model = parse_model("model.scale = 3", "train_free = 1.0", "model.weights = {'a': %train_free}")
    assert type(model.scale) is float and model.weights == {"a": 1.0}
    assert parse_model("model.scale = -1e999").scale == -math.inf
    assert config.parse([], ["mesh.data = 9007199254740993"], {"mesh": Mesh})["mesh"].data == 2**53 + 1


texts = st.text() | st.sampled_from(
    ["", "'", '"', "'''", "\\", "\n", "\r\n", "%x", "@y()", "#", "\x00", "\u2028", "中文 🙂", 'it\'s "so"', "\ud800"]
)
whole = st.integers(-(2**63) + 1, 2**63 - 1)
floats = st.floats(allow_nan=False) | st.sampled_from([5e-324, 1.7976931348623157e308, 0.1 + 0.2, -0.0])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.builds(
        Model,
        width=whole,
        layers=st.just(1),
        scale=floats,
        name=st.none() | texts,
        fast=st.booleans(),
        domains=st.lists(texts, max_size=3).map(tuple),
        weights=st.dictionaries(texts, floats, max_size=3),
        paths=st.dictionaries(texts, texts, max_size=3),
        span=st.none() | st.tuples(whole, whole),
    ),
    train=st.builds(Train, steps=whole, rate=floats),
)
def test_what_is_written_reads_back_equal(tmp_path, model, train):
    sections = {"train": train, "model": model, "mesh": Mesh()}
    path = tmp_path / "config.gin"
    path.write_bytes(config.dump(sections).encode())
    back = config.parse([str(path)], [], SECTIONS)
    assert back == sections
    assert list(back["model"].weights) == list(model.weights), "the order of domains is part of a run"
    assert math.copysign(1, back["model"].scale) == math.copysign(1, model.scale)
    assert config.dump(back) == config.dump(sections)


def test_dump_writes_defaults_in_a_stable_order_and_refuses_what_gin_cannot_say():
    text = config.dump({"train": Train(steps=3), "mesh": Mesh()})
    assert text.splitlines()[1:] == ["", "mesh.data = 0", "", "train.steps = 3", "train.rate = 0.1"]
    with pytest.raises(ValueError, match="not-a-number"):
        config.dump({"train": Train(steps=3, rate=math.nan)})
    with pytest.raises(TypeError, match="no way to write"):
        config.dump({"train": Train(steps=3, rate=1j)})


pieces = st.sampled_from(
    [
        "model",
        ".width",
        " = ",
        "4",
        "\n",
        "%x",
        "@",
        "include ",
        "'x'",
        "(",
        ")",
        "{",
        "}",
        ":",
        ",",
        "  ",
        "-",
        "/",
        "import ",
        "#",
        "[",
        "'",
        "1e999",
    ]
)


@given(text=st.lists(pieces | st.text(string.printable, max_size=3), max_size=12).map("".join))
def test_any_text_is_read_or_refused_in_one_line(text):
    try:
        config.parse([], [text], SECTIONS, SECTIONS)
    except UserError as error:
        assert "\n" not in str(error)
