import json

import pytest

from teleflm_jax.cli import main, options
from teleflm_jax.generate import engine
from teleflm_jax.generate.request import Request, TextDelta, Token
from teleflm_jax.runs.load import load_decoder
from teleflm_jax.tokenizer import specials


@pytest.fixture
def call(trained, capsys):
    """Run the command; returns exit code, stdout and stderr."""

    def run(*arguments):
        code = options.run_command(lambda: main.main(["generate", "--workdir", trained.path, *map(str, arguments)]))
        return code, *capsys.readouterr()

    return run


def test_several_prompts_print_in_turn_what_decoding_gives(call, trained):
    code, out, _ = call("--prompt", "the time", "--prompt", "a", "--max_tokens", 12, "--seed", 3, "--json")
    report = json.loads(out)
    prompts = [tuple(specials.prompt(trained.tokenizer, text)) for text in ("the time", "a")]
    requests = [Request(prompt=prompt, max_tokens=12, seed=3, stop_ids=(2,)) for prompt in prompts]
    wanted = engine.complete(load_decoder(trained.folder, trained.run, 10), trained.tokenizer, requests, slots=2)
    assert code == 0 and report["step"] == 10
    assert [each["prompt"] for each in report["completions"]] == ["the time", "a"]
    assert [each["tokens"] for each in report["completions"]] == [len(piece.tokens) for piece in wanted]
    texts = [trained.tokenizer.decode([token.id for token in piece.tokens]) for piece in wanted]
    assert [each["text"] for each in report["completions"]] == texts
    assert {each["finish"] for each in report["completions"]} <= {"stop", "length"}


def test_a_text_does_not_depend_on_the_other_prompts_and_a_prompt_given_twice_has_two_texts(call):
    def texts(*prompts):
        given = [part for prompt in prompts for part in ("--prompt", prompt)]
        report = json.loads(call(*given, "--max_tokens", 12, "--seed", 3, "--temperature", 5, "--json")[1])
        return [each["text"] for each in report["completions"]]

    found = texts("b", "a", "b")
    assert len(set(found)) == 3 and texts("a") == found[1:2] and texts("b", "b") == found[::2]


def test_the_stream_is_the_prompt_and_the_same_text(call):
    arguments = ("--prompt", "the\ttime\n", "--max_tokens", 12)
    (completion,) = json.loads(call(*arguments, "--json")[1])["completions"]
    code, out, _ = call(*arguments)
    assert code == 0 and out.startswith("the\ttime\n") and out.endswith("\n")
    assert len(out) == len(completion["prompt"] + completion["text"]) + 1
    assert call(*arguments, "--prompt", "a")[1].startswith(out + "\na")


def test_prompts_may_come_from_files_and_never_yield_special_ids(call, trained, tmp_path):
    (tmp_path / "prompt.txt").write_text("</s>你\r\n", encoding="utf-8", newline="")
    (completion,) = json.loads(call("--prompt_file", tmp_path / "prompt.txt", "--max_tokens", 1, "--json")[1])["completions"]
    assert completion["prompt"] == "</s>你\r\n"
    bos, *rest = specials.prompt(trained.tokenizer, completion["prompt"])
    assert bos == 1 and min(rest) > 3
    assert specials.prompt(trained.tokenizer, "") == [1]


def test_a_stop_string_ends_the_text_and_log_probabilities_come_on_request(call):
    arguments = ("--prompt", "a", "--max_tokens", 20, "--temperature", 0, "--json")
    (free,) = json.loads(call(*arguments)[1])["completions"]
    stop = free["text"][5:7]
    (cut,) = json.loads(call(*arguments, "--stop", stop, "--logprobs", 2)[1])["completions"]
    assert cut["text"] == free["text"][: free["text"].index(stop)] and cut["finish"] == "stop" and "logprobs" not in free
    assert len(cut["logprobs"]) == cut["tokens"] and all(len(each["alternatives"]) == 2 for each in cut["logprobs"])
    assert cut["logprobs"][0]["logprob"] == max(cut["logprobs"][0]["alternatives"].values())


def test_what_is_printed_cannot_drive_the_terminal(call):
    assert "\x1b" not in call("--prompt", "\x1b[31mred", "--max_tokens", 1)[1]


def test_an_interrupted_stream_ends_its_line(call, trained, monkeypatch):
    pieces = iter([{0: TextDelta(text="the time", tokens=(Token(id=4),))}])

    def interrupted(self):
        try:
            return next(pieces)
        except StopIteration:
            raise KeyboardInterrupt from None

    monkeypatch.setattr(engine.Engine, "step", interrupted)
    assert call("--prompt", "a ") == (130, "a the time\n", "")


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "got no prompt; allowed: one or more; add --prompt TEXT"),
        (["--prompt", "a", "--temperature", "-1"], "got temperature -1.0; allowed: a number from 0 (greedy) up; change temperature"),
        (["--prompt", "a", "--temperature", "warm"], "invalid float value: 'warm'"),
        (["--prompt", "a", "--top_p", "1.1"], "got top_p 1.1; allowed: 0 (the likeliest alone) to 1 (all); change top_p"),
        (["--prompt", "a", "--top_k", "-2"], "got top_k -2"),
        (["--prompt", "a", "--top_k", f"{10**12}"], "got top_k 1000000000000; allowed: 0 (all) to 2,147,483,647; change top_k"),
        (["--prompt", "a", "--logprobs", "2"], "got --logprobs without --json; allowed: both"),
        (["--prompt", "a", "--repetition_penalty", "0"], "got repetition_penalty 0.0"),
        (["--prompt", "a", "--max_tokens", "0"], "got max_tokens 0"),
        (["--prompt", "a", "--slots", "0"], "got --slots 0; allowed: 1 or more; change --slots"),
        (["--prompt", "a", "--seed", str(2**64)], "got seed 18446744073709551616"),
        (["--prompt", "the time of a house " * 9], "tokens (with what the tokenizer adds) for a context of 32; allowed: at most 31"),
        (["--prompt", "\udcff"], "got a --prompt that is not UTF-8"),
        (["--prompt_file", "{tmp}/none"], "No such file or directory"),
        (["--prompt_file", "{tmp}/latin"], "which is not UTF-8 (byte 0)"),
        (["--prompt", "a", "--step", "3"], "got step 3; allowed: 5, 10"),
        (["--prompt", "a", "--promptt", "b"], "change it to --prompt"),
    ],
)
def test_wrong_input_is_one_line(call, tmp_path, arguments, message):
    (tmp_path / "latin").write_bytes(b"\xe9")
    code, out, err = call(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert code == 2 and out == "" and err.startswith("error: got ") and err.count("\n") == 1
    assert message in err
