import pathlib

import train_in_python


def test_a_text_becomes_a_model_that_writes(tmp_path, capsys):
    text = tmp_path / "book.txt"
    text.write_text("The time of the house is the time of its door. " * 400, encoding="utf-8")
    written = train_in_python.main(text, tmp_path / "work", steps=3)
    assert written and "completed at step 3: " in capsys.readouterr().out
    assert len(pathlib.Path(train_in_python.__file__).read_text(encoding="utf-8").splitlines()) <= 40
