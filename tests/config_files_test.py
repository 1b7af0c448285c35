"""The search for a gin file: the path as given, then the package's configurations, and nothing outside of both."""

import os
import pathlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from teleflm_jax import config
from teleflm_jax.config import files
from teleflm_jax.errors import UserError
from teleflm_jax.mup import MupConfig
from teleflm_jax.optim.config import OptimizerConfig
from teleflm_jax.plan.config import CLUSTERS
from tests import job

SECTIONS = {"optimizer": OptimizerConfig, "mup": MupConfig}
PACKAGED = config.parse([str(files.CONFIGS / "optim/teleflm.gin")], [], SECTIONS)["optimizer"]
MINE = "optimizer.warmup_steps = 5\n"
NAMES = st.lists(st.sampled_from(["a", "configs", "..", ".", "", "runs", "quickstart.gin", "~", "\0", "é", "C:", "a\n", " "]), max_size=6)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def parse(name):
    return config.parse([name], [], SECTIONS)["optimizer"]


def test_the_packages_configurations_are_the_checkouts():
    checkout = job.ROOT / "configs"
    assert files.CONFIGS.resolve() == checkout and CLUSTERS.resolve() == checkout / "clusters"


@pytest.mark.parametrize("name", ["optim/teleflm.gin", "configs/optim/teleflm.gin", "./optim/teleflm.gin"])
def test_a_file_of_the_current_folder_comes_before_the_packages(name, here):
    assert parse(name) == PACKAGED
    (here / name).parent.mkdir(parents=True)
    assert parse(name) == PACKAGED  # the folder alone changes nothing
    (here / name).write_text(MINE)
    assert parse(name).warmup_steps == 5


@pytest.mark.parametrize("name", ["optim/teleflm.gin", "configs/optim/teleflm.gin"])
def test_an_include_is_looked_for_beside_its_file_then_here_then_in_the_package(name, here):
    (here / "mine").mkdir()
    (here / "mine/run.gin").write_text(f"include '{name}'\n")
    assert parse("mine/run.gin") == PACKAGED
    for folder, steps in ((here, 5), (here / "mine", 7)):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(f"optimizer.warmup_steps = {steps}\n")
        assert parse("mine/run.gin").warmup_steps == steps


def test_what_is_here_and_cannot_be_read_is_not_replaced_by_the_packages(here):
    (here / "optim").mkdir()
    place = here / "optim/teleflm.gin"
    place.symlink_to("gone.gin")
    with pytest.raises(UserError, match="got --gin_file optim/teleflm.gin, which does not exist"):
        parse("optim/teleflm.gin")
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(UserError, match="is not a plain file"):
        parse("optim/teleflm.gin")
    place.unlink()
    place.mkdir()
    with pytest.raises(UserError, match="is not a plain file"):
        parse("optim/teleflm.gin")


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(NAMES.map("/".join))
def test_only_a_name_inside_the_packages_configurations_is_looked_for_there(name):
    given_, *packaged = files.candidates(name)
    assert given_ == pathlib.Path(name)
    for path in packaged:
        assert pathlib.Path(os.path.normpath(path)).is_relative_to(files.CONFIGS)
    if pathlib.PurePath(name).is_absolute() or ".." in name.split("/"):
        assert not packaged


@pytest.mark.parametrize(
    "name",
    [
        "../config/read.py",
        "configs/../../errors.py",
        "runs/../optim/teleflm.gin",
        "/optim/teleflm.gin",
        "\0",
        "optim/teleflm.gin\0",
        "optim/teleflm.gin/x",
        "a" * 5_000,
        "runs",
    ],
)
@pytest.mark.parametrize("included", [False, True])
def test_a_hostile_name_is_one_line(name, included, here):
    if included:
        (here / "run.gin").write_text(f"include {name!r}\n")
    with pytest.raises(UserError, match="^got .*; allowed: .*; change") as caught:
        parse("run.gin" if included else name)
    assert "\n" not in str(caught.value)
