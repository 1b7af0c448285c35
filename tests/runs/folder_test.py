"""The folder of a run: what may be in it."""

import os

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.runs import folder as folders


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl", "metrics.tmp", "anything"])
@pytest.mark.parametrize("kind", ["link", "fifo", "broken"])
def test_a_folder_with_what_leads_out_of_it_is_not_written_to(tmp_path, name, kind):
    folder, outside = tmp_path / "run", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("kept")
    if kind == "fifo":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("../outside" if kind == "link" else "../none")
    with pytest.raises(UserError, match="not a plain file"), folders.locked(folder):
        raise AssertionError
    assert outside.read_text() == "kept" and [path.name for path in folder.iterdir()] == [name] and not (tmp_path / "none").exists()
