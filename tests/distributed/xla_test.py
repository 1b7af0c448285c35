import os

import jax
import pytest

from teleflm_jax.distributed import xla
from teleflm_jax.errors import UserError


@pytest.fixture(autouse=True)
def untouched():
    """JAX's settings as they were."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = [getattr(jax.config, name) for name in names]
    yield
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


def test_programs_are_kept_in_the_users_own_folder(tmp_path):
    folder = xla.keep_programs({"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert folder == tmp_path / "cache" / "teleflm_jax" / "xla" and folder.stat().st_mode & 0o777 == 0o700
    assert jax.config.jax_compilation_cache_dir == str(folder)
    assert xla.keep_programs({"XDG_CACHE_HOME": "elsewhere", xla.CACHE_DIR: str(tmp_path / "named")}) == tmp_path / "named"


def test_an_empty_name_keeps_none():
    before = jax.config.jax_compilation_cache_dir
    assert xla.keep_programs({xla.CACHE_DIR: ""}) is None and jax.config.jax_compilation_cache_dir == before


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o702])
def test_a_folder_that_others_may_write_to_is_refused(tmp_path, mode):
    os.chmod(tmp_path, mode)
    with pytest.raises(UserError, match="others may write or you may not.*allowed: a folder of your own"):
        xla.keep_programs({xla.CACHE_DIR: str(tmp_path)})
    assert jax.config.jax_compilation_cache_dir != str(tmp_path)


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="got .*file/teleflm_jax/xla for compiled programs .*set JAX_COMPILATION_CACHE_DIR"):
        xla.keep_programs({"XDG_CACHE_HOME": str(tmp_path / "file")})


def test_a_folder_of_somebody_else_is_refused(tmp_path, monkeypatch):
    os.chmod(tmp_path, 0o755)
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(xla, "ROOT", 4343)
    with pytest.raises(UserError, match="allowed: a folder of your own"):
        xla.keep_programs({xla.CACHE_DIR: str(tmp_path)})
