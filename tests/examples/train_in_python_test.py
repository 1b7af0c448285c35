import pathlib

import train_in_python

EXAMPLE = pathlib.Path(train_in_python.__file__)


def test_a_text_becomes_a_model_that_writes(tmp_path, capsys):
    written = train_in_python.main(EXAMPLE.parents[1] / "README.md", tmp_path, steps=12)
    assert written and "completed at step 12: " in capsys.readouterr().out
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 40
