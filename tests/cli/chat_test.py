import io
import signal
import sys

import pytest

from teleflm_jax.cli import chat as command
from teleflm_jax.cli import main, options
from teleflm_jax.generate import chat
from teleflm_jax.generate.chat import Message
from teleflm_jax.generate.engine import complete
from teleflm_jax.generate.request import Request, TextDelta, Token
from teleflm_jax.generate.sampling import GREEDY
from teleflm_jax.runs.load import load_decoder


class Parrot:
    """An engine that says what it is told to, piece by piece, and remembers what it was asked."""

    def __init__(self, *answers, context_length=200, during=lambda: None):
        self.answers, self.context_length, self.during = list(answers), context_length, during
        self.asked, self.dropped, self.left = [], [], []

    @property
    def idle(self):
        return not self.left

    def add(self, request):
        self.asked.append(request)
        self.left = list(self.answers.pop(0))
        return len(self.asked)

    def drop(self, ticket):
        self.dropped.append(ticket)
        self.left = []

    def step(self):
        text = self.left.pop(0)
        self.during()
        return {len(self.asked): TextDelta(text=text, tokens=(Token(id=4),), finish_reason=None if self.left else "stop")}


@pytest.fixture
def format(trained):
    return chat.load(trained.folder, trained.tokenizer)


@pytest.fixture
def talk(format, monkeypatch, capsys):
    """Have a conversation through pipes; returns stdout and stderr."""

    def run(engine, *lines, before=(), max_tokens=50):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(f"{line}\n" for line in lines).encode())))
        request = Request(prompt=(1,), max_tokens=max_tokens, stop_ids=(2,))
        command.talk(command.Assistant(engine=engine, format=format, request=request), before, interactive=False)
        return tuple(capsys.readouterr())

    return run


def message(role, content):
    return Message(role=role, content=content)


def test_answers_are_printed_line_by_line_and_remembered(talk, format):
    engine = Parrot(["the ", "time"], ["of\n", "12"], ["x"])
    system = message("system", "be")
    assert talk(engine, "a", "b", "", "/clear", "c", before=(system,)) == ("the time\nof\n12\nx\n", "")
    first, second, third = (request.prompt for request in engine.asked)
    turn = (message("user", "a"), message("assistant", "the time"))
    assert first == chat.encode(format, (system, turn[0]))
    assert second == chat.encode(format, (system, *turn, message("user", "b")))
    assert third == chat.encode(format, (system, message("user", "c")))
    assert [(request.seed, request.choice) for request in engine.asked] == [(0, 0), (0, 1), (0, 2)]


def test_exit_leaves_and_unknown_commands_are_named(talk):
    out, err = talk(Parrot(["x"]), "/help me", "/exit", "a")
    assert out == "" and err == "error: got /help; allowed: /clear, /exit; begin a message with another character\n"


def test_ctrl_c_stops_an_answer_and_the_conversation_goes_on(talk, format):
    pressed = iter([lambda: None, lambda: signal.raise_signal(signal.SIGINT)])
    engine = Parrot(["the ", "time ", "is"], ["x"], during=lambda: next(pressed, lambda: None)())
    before = signal.getsignal(signal.SIGINT)
    assert talk(engine, "a", "b") == ("the time \nx\n", "")
    turn = (message("user", "a"), message("assistant", "the time "))
    assert engine.asked[1].prompt == chat.encode(format, (*turn, message("user", "b"))) and engine.dropped == [1, 2]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_full_context_is_said_and_the_oldest_turns_are_forgotten(talk, format):
    engine = Parrot(["a" * 10], ["b" * 10], ["c"], context_length=60)
    out, err = talk(engine, "1" * 10, "2" * 10, "3" * 10, max_tokens=10)
    assert err == "the context is full: the oldest 1 turn(s) are forgotten\n" and out.endswith("\nc\n")
    left = (message("user", "2" * 10), message("assistant", "b" * 10), message("user", "3" * 10))
    assert engine.asked[2].prompt == chat.encode(format, left)


def test_a_message_that_cannot_be_sent_is_named_and_not_remembered(talk, format):
    engine = Parrot(["x"], context_length=60)
    out, err = talk(engine, "1" * 60, "a", max_tokens=10)
    assert err == "error: got a message with which a conversation has 63 tokens; allowed: at most 50; shorten it\n"
    assert out == "x\n" and engine.asked[0].prompt == chat.encode(format, [message("user", "a")])


def test_what_the_model_writes_cannot_drive_the_terminal(talk):
    assert talk(Parrot(["\x1b[31mred"]), "a")[0] == "\N{REPLACEMENT CHARACTER}[31mred\n"


def test_at_a_terminal_ctrl_c_stays_and_ctrl_d_leaves(format, monkeypatch, capsys):
    keys = iter([KeyboardInterrupt, "a", EOFError])

    def typed(prompt):
        key = next(keys)
        if isinstance(key, str):
            return key
        raise key

    monkeypatch.setattr("builtins.input", typed)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    request = Request(prompt=(1,), max_tokens=50)
    command.talk(command.Assistant(engine=Parrot(["x"]), format=format, request=request), (), interactive=True)
    out, err = capsys.readouterr()
    assert out == "x\n\n" and err.startswith("Ctrl-C stops an answer; /clear: ") and "/exit or Ctrl-D leaves" in err


def test_the_command_talks_with_a_runs_model(trained, format, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"the time\n\xff\n")))
    arguments = ["--workdir", trained.path, "--system", "be", "--temperature", "0", "--max_tokens", "8"]
    assert options.run_command(lambda: main.main(["chat", *arguments])) == 0
    prompt = chat.encode(format, [message("system", "be"), message("user", "the time")])
    request = Request(prompt=prompt, max_tokens=8, sampling=GREEDY, stop_ids=chat.stop_ids(format))
    (wanted,) = complete(load_decoder(trained.folder, trained.run, 10), trained.tokenizer, [request], slots=1)
    out, err = capsys.readouterr()
    assert out.startswith(command.text.printable(wanted.text) + "\n") and out.count("\n") >= 2 and "error" not in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--temperature", "-1"], "got temperature -1.0"),
        (["--max_tokens", "0"], "got max_tokens 0"),
        (["--step", "3"], "got step 3; allowed: 5, 10"),
        (["--system", "\udcff"], "got a message with a lone surrogate"),
        (["--system", "the time of a house " * 9], "tokens; allowed: at most 16; shorten it"),
        (["--sistem", "a"], "change it to --system"),
        (["--template_kwargs", "{"], "got --template_kwargs that is no JSON"),
        (["--template_kwargs", '{"messages": 1}'], "got --template_kwargs with the name 'messages'"),
    ],
)
def test_wrong_input_is_one_line(trained, capsys, arguments, message):
    assert options.run_command(lambda: main.main(["chat", "--workdir", trained.path, *arguments])) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: got ") and err.count("\n") == 1 and message in err
