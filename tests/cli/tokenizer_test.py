import json

import pytest

from teleflm_jax.cli import main
from teleflm_jax.errors import UserError
from teleflm_jax.tokenizer import load, patterns


@pytest.fixture
def bindings(tmp_path):
    rows = [{"text": f"Document {index} says: the quick brown fox number {index} jumps.", "family": str(index)} for index in range(400)]
    (tmp_path / "english.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nbroken\n")
    (tmp_path / "chinese.txt").write_text("狐狸跳过了懒狗。" * 50, encoding="utf-8")
    return {
        "data.sources": {"english": str(tmp_path / "english.jsonl"), "chinese": str(tmp_path / "chinese.txt")},
        "data.proportions": {"english": 2.0, "chinese": 1.0, "code": 1.0},
        "data.tokenizer": str(tmp_path / "out" / "tokenizer.json"),
        "data.packed": str(tmp_path / "packed"),
        "tokenizer.vocab_size": 400,
        "tokenizer.sample_documents": 90,
    }


def flags(bindings, **changes):
    changed = bindings | {name.replace("__", "."): value for name, value in changes.items()}
    return [part for name, value in changed.items() for part in ("--gin_param", f"{name} = {value!r}")]


def run(capsys, *argv):
    main.main(["tokenizer", *argv])
    return capsys.readouterr()


def test_train_writes_the_tokenizer_and_says_what_it_sampled(bindings, tmp_path, capsys):
    shown = run(capsys, "train", *flags(bindings))
    path = tmp_path / "out" / "tokenizer.json"
    assert load.load(path).get_vocab_size() == 400
    assert "english: 60 documents" in shown.err and "1 not JSON" in shown.err and "without code" in shown.err
    assert "chinese: 1 documents, 0.0 MB, all there are (wanted 30)" in shown.err
    assert sorted(file.name for file in path.parent.iterdir()) == ["tokenizer.json", "tokenizer.sample.json"]


def test_train_again_keeps_the_same_and_refuses_another(bindings, tmp_path, capsys):
    run(capsys, "train", *flags(bindings))
    path = tmp_path / "out" / "tokenizer.json"
    before = path.read_bytes()
    assert "exists already" in run(capsys, "train", *flags(bindings)).out
    other = flags(bindings, tokenizer__vocab_size=399)
    with pytest.raises(UserError, match="--force"):
        main.main(["tokenizer", "train", *other])
    assert path.read_bytes() == before
    run(capsys, "train", *other, "--force")
    assert path.read_bytes() != before


def test_another_pattern_is_another_tokenizer(bindings, tmp_path, capsys):
    run(capsys, "train", *flags(bindings))
    other = flags(bindings, tokenizer__pattern="qwen2")
    with pytest.raises(UserError, match="--force"):
        main.main(["tokenizer", "train", *other])
    run(capsys, "train", *other, "--force")
    made = json.loads((tmp_path / "out" / "tokenizer.json").read_text(encoding="utf-8"))
    assert made["pre_tokenizer"]["pretokenizers"][0]["pattern"] == {"Regex": patterns.QWEN2}
    assert "exists already" in run(capsys, "train", *other).out


def test_failed_training_leaves_no_trace(bindings, tmp_path, capsys):
    with pytest.raises(UserError, match="lower tokenizer.vocab_size"):
        main.main(["tokenizer", "train", *flags(bindings, tokenizer__vocab_size=50_000)])
    assert not list((tmp_path / "out").iterdir())


def test_no_sources_is_refused(bindings):
    with pytest.raises(UserError, match="data.sources"):
        main.main(["tokenizer", "train", *flags(bindings, data__sources={})])


def test_report_measures_by_domain_beside_others(bindings, tmp_path, capsys):
    run(capsys, "train", *flags(bindings))
    path, text = tmp_path / "out" / "tokenizer.json", tmp_path / "digits.txt"
    text.write_text("0123456789" * 10)
    argv = ["report", *flags(bindings), "--text", f"english={text}", "--text", f"chinese={tmp_path / 'chinese.txt'}", "--beside", str(path)]
    found = json.loads(run(capsys, *argv, "--json", "--published").out)
    assert found["tokens_per_byte"][str(path)]["english"] == 1.0
    assert found["weights"] == {"english": pytest.approx(2 / 3), "chinese": pytest.approx(1 / 3)}
    assert found["published"]["Tele-FLM"]["english"] == 0.248
    table = run(capsys, *argv, "--published").out
    assert "weighted by data.proportions" in table and "1.000" in table and "0.261" in table


def test_report_needs_text(bindings, capsys):
    run(capsys, "train", *flags(bindings))
    for wrong in ([], ["--text", "english"]):
        with pytest.raises(UserError, match="--text"):
            main.main(["tokenizer", "report", *flags(bindings), *wrong])
