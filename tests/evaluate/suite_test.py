"""Tasks, their data and what is drawn of them; what is asked is answered by a rule, so that no model is needed."""

import copy
import json
import pathlib
import types

import pytest

from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import suite
from teleflm_jax.evaluate.config import SuiteConfig
from teleflm_jax.evaluate.model import Model
from teleflm_jax.generate import chat as conversation
from tests.evaluate import asked

pytestmark = pytest.mark.filterwarnings("default")  # the harness's own warnings are not ours
NEEDED = pytest.mark.skipif(suite.importlib.util.find_spec("lm_eval") is None, reason="needs requirements-eval.txt")

C3 = [[["甲：早。", "乙：你好！"], [{"question": "谁说早？", "choice": ["甲", "乙乙乙"], "answer": "甲"}], "1"]]
CHID = [{"id": 0, "content": "他#idiom#地走了。", "candidates": ["心心", "一二三四", "五六七八"], "answer": 0}]
CSL = [{"id": 1, "abst": "光的论文。", "keyword": ["光", "论文"], "label": "0"}]


def filled(folder):
    asked.write(folder)
    asked.put(folder / "data/CLUE/C3/m-dev.json", json.dumps(C3))
    asked.put(folder / "data/CLUE/C3/d-dev.json", json.dumps(C3 * 2))
    for name, rows in (("chid", CHID), ("csl", CSL)):
        asked.put(folder / f"data/FewCLUE/{name}/test_public.json", "".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def folder(tmp_path):
    return filled(tmp_path)


@pytest.fixture(scope="module")
def indexed(tmp_path_factory):
    """A folder for several tests, beside which the harness's own tasks that they name, of thousands of files, are read once."""
    tasks, made = pytest.importorskip("lm_eval.tasks"), {}
    manager = tasks.TaskManager

    def copied(include_path, include_defaults=True):
        key = (*include_path, include_defaults)
        if key not in made:
            own = [pathlib.Path(tasks.__file__).parent / name for name in ("arc", "bbh", "hellaswag", "mmlu") if include_defaults]
            made[key] = manager(include_path=[*include_path, *map(str, own)], include_defaults=False)
        return copy.deepcopy(made[key])  # `suite.load` writes into it

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TaskManager", copied)
        yield filled(tmp_path_factory.mktemp("indexed"))


@pytest.fixture
def model(tmp_path, monkeypatch):
    """Finds a text the likelier the fewer tokens it has."""
    harness = pytest.importorskip("teleflm_jax.evaluate.harness")

    def score(decoder, pairs, *, batch_size, watch, name=None):
        return [(-1.0 * len(continuation), False) for _, continuation in pairs]

    monkeypatch.setattr(harness.loglikelihood, "loglikelihoods", score)
    return Model(name="rule", decoder=types.SimpleNamespace(context_length=asked.CONTEXT), tokenizer=asked.tokenizer(tmp_path))


def config(folder, tasks, **more):
    return SuiteConfig(tasks=tasks, data=str(folder / "data"), include=(str(folder / "tasks"),), **more)


@NEEDED
def test_chinese_tasks_read_the_files_as_published(folder, model):
    kept = {}
    scores = suite.measure(suite.load(config(folder, {"c3": 0, "chid": 0, "csl": 0})), model, keep=kept)
    assert {name: (score.metric, score.items) for name, score in scores.items()} == {
        "c3": ("acc_norm,none", 3),
        "chid": ("acc,none", 1),
        "csl": ("acc_norm,none", 1),
    }
    assert kept["c3"][0]["arguments"] == [
        ("甲：早。\n乙：你好！\n问题：谁说早？\n答案：", "甲"),
        ("甲：早。\n乙：你好！\n问题：谁说早？\n答案：", "乙乙乙"),
    ]
    assert [ending for _, ending in kept["chid"][0]["arguments"]] == ["心心地走了。", "一二三四地走了。", "五六七八地走了。"]
    assert [ending for _, ending in kept["csl"][0]["arguments"]] == ["光的论文。", "光的论文。\n关键词：光，论文"]
    assert scores["chid"].value == 1.0  # the shortest is right


@NEEDED
def test_examples_stand_in_front_and_a_share_is_always_the_same(folder, model):
    kept, again = {}, {}
    for found, seed in ((kept, 0), (again, 0)):
        work = suite.load(config(folder, {"choice": 3}, fractions={"choice": 0.5}, seed=seed))
        score = suite.measure(work, model, keep=found)["choice"]
    assert score.items == 4 and score.shots == 3
    assert [item["arguments"] for item in kept["choice"]] == [item["arguments"] for item in again["choice"]]
    assert all(item["arguments"][0][0].count("\n\n") == 3 for item in kept["choice"])
    other = suite.load(config(folder, {"choice": 3}, fractions={"choice": 0.5}, seed=1))
    assert len(other.samples["choice"]) == 4 and other.samples != work.samples


@NEEDED
def test_a_suite_can_be_asked_again(folder, model, monkeypatch):
    work = suite.load(config(folder, {"choice": 0}))
    first, second, kept = suite.measure(work, model), suite.measure(work, model), {}
    assert first == second
    suite.measure(work, model, keep=kept)
    assert all(len(response) == 1 for item in kept["choice"] for response in item["resps"])


@NEEDED
def test_the_random_state_of_others_is_left_alone(folder, model):
    suite.random.seed(5)
    before = suite.random.getstate()
    suite.measure(suite.load(config(folder, {"choice": 2})), model)
    assert suite.random.getstate() == before


@NEEDED
@pytest.mark.parametrize(
    "tasks, message",
    [
        ({"chioce": 0}, "got suite.tasks with 'chioce'; allowed: .*; change it to 'choice'"),
        ({"arc_challenge": 25}, r"got no test items of the data set allenai/ai2_arc \(ARC-Challenge\) .*ARC-Challenge/test.jsonl"),
        ({"choice": 5}, "got 5 examples for each question of choice, whose data have 4; allowed: at most 4; put"),
        ({"write": 8}, "got 8 examples for each question of write, whose data have 8; allowed: at most 7, as"),
        ({"bbh_cot_fewshot": 3, "mmlu": 5}, "got no test items of the data set SaylorTwift/bbh"),
    ],
)
def test_what_is_missing_is_one_line_before_any_work(indexed, tasks, message):
    with pytest.raises(UserError, match=message) as caught:
        suite.load(config(indexed, tasks))
    assert "\n" not in str(caught.value)


@NEEDED
def test_without_network_and_data_the_place_to_put_it_is_told(indexed, monkeypatch):
    import datasets.config

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True, raising=False)
    with pytest.raises(UserError, match="got no data set Rowan/hellaswag for the task hellaswag .*FOLDER/Rowan/hellaswag/.*jsonl"):
        suite.load(SuiteConfig(tasks={"hellaswag": 10}, include=(str(indexed / "tasks"),)))


@NEEDED
def test_a_task_that_generates_more_than_the_context_holds_is_refused(folder, model):
    harness = pytest.importorskip("teleflm_jax.evaluate.harness")
    adapter = harness.Harness(model)
    with pytest.raises(UserError, match="got a task with 64 new tokens for a context of 64; allowed: .*set suite.max_tokens to 32"):
        adapter._request(adapter.tok_encode("the time"), {"max_gen_toks": 64, "until": []}, 0)
    settings = {"max_gen_toks": 16, "until": ["\n", "</s>"], "do_sample": True, "temperature": 0.7}
    request = adapter._request(adapter.tok_encode("the time " * 40), settings, 2)
    assert len(request.prompt) == 48 and request.stop == ("\n",) and request.stop_ids == (2,) and request.seed == 2
    assert request.sampling.temperature == 0.7 and request.sampling.top_p == 1.0
    assert adapter._request([1], {"until": "x", "temperature": 0.7, "do_sample": False, "max_gen_toks": 1}, 0).sampling.temperature == 0


@NEEDED
@pytest.mark.parametrize("context", ["", "time"])
def test_a_continuation_that_cannot_be_scored_whole_is_refused_by_its_item(tmp_path, context):
    harness = pytest.importorskip("teleflm_jax.evaluate.harness")
    nothing_to_work_with = types.SimpleNamespace(context_length=asked.CONTEXT)
    adapter = harness.Harness(Model(name="none", decoder=nothing_to_work_with, tokenizer=asked.tokenizer(tmp_path)))

    def ask(*continuations):
        adapter.loglikelihood(
            [harness.Instance("loglikelihood", {}, (context, each), 0, ("ending", number, 1)) for number, each in enumerate(continuations)]
        )

    with pytest.raises(UserError, match=r"got item 1 of ending with a continuation of \d+ tokens for a context of 64; allowed: 1 to 64, "):
        ask(" house", " " + asked.sentence(1, 90))
    with pytest.raises(UserError, match="got item 2 of ending with an empty continuation; allowed: one character or more"):
        ask(" house", " time", "")


@NEEDED
def test_texts_of_which_only_the_end_is_read_are_counted_and_told(folder, model, monkeypatch):
    harness, kept = pytest.importorskip("teleflm_jax.evaluate.harness"), {}
    monkeypatch.setattr(
        harness.engine, "complete", lambda decoder, tokenizer, requests, *, slots, pause: [types.SimpleNamespace(text="") for _ in requests]
    )
    scores = suite.measure(suite.load(config(folder, {"choice": 4, "ending": 0, "write": 7, "whole": 0})), model, keep=kept)

    def longer(task, limit, count):
        texts = ["".join(arguments[:count]) for item in kept[task] for arguments in item["arguments"]]
        return sum(len(model.tokenizer.encode(text).ids) + 1 > limit for text in texts)

    expected = {"choice": longer("choice", 65, 2), "ending": 0, "write": longer("write", 64 - 12, 1), "whole": 0}
    assert {name: score.shortened for name, score in scores.items()} == expected
    assert expected["choice"] > 0 and expected["write"] > 0
    assert suite.remarks(scores) == [
        f"{name}: of {expected[name]} text(s) only the end was read, as they are longer than the model's context"
        for name in ("choice", "write")
    ]


@NEEDED
def test_each_answer_of_each_item_has_random_numbers_of_its_own_whatever_else_is_asked(model, monkeypatch):
    harness, seen = pytest.importorskip("teleflm_jax.evaluate.harness"), []

    def complete(decoder, tokenizer, requests, *, slots, pause):
        seen.append([tuple(request.key) for request in requests])
        return [types.SimpleNamespace(text="") for _ in requests]

    def item(task, number, context):
        return harness.Instance("generate_until", {}, (context, {"max_gen_toks": 4, "do_sample": True, "until": []}), 0, (task, number, 3))

    monkeypatch.setattr(harness.engine, "complete", complete)
    alike = [item("a", 0, "time house"), item("a", 1, "house time"), item("a", 2, "time house"), item("b", 0, "time house")]
    repeated = [each for each in alike for _ in range(3)]
    adapter = harness.Harness(model)
    for asked_for in (repeated, repeated[6:], repeated[::-1]):
        adapter.generate_until(asked_for)
    everything, fewer, turned = seen
    assert len(set(everything)) == 12 and fewer == everything[6:]
    assert {frozenset(turned[i : i + 3]) for i in range(0, 12, 3)} == {frozenset(everything[i : i + 3]) for i in range(0, 12, 3)}


@NEEDED
def test_marks_of_roles_are_ids_only_in_what_the_chat_template_wrote(model, tmp_path):
    harness = pytest.importorskip("teleflm_jax.evaluate.harness")
    template = "{{ bos_token }}{% for m in messages %}<_user>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<_bot>{% endif %}"
    (tmp_path / "chat_template.jinja").write_text(template, encoding="utf-8")
    format = conversation.load(tmp_path, model.tokenizer)
    plain, chat = (harness.Harness(suite.dataclasses.replace(model, format=each)) for each in (None, format))
    text = chat.apply_chat_template([{"role": "user", "content": "time"}])
    assert text == "<s><_user>time<_bot>" and chat.apply_chat_template([], add_generation_prompt=False) == "<s>"
    assert chat.tok_encode(text)[:2] == [1, 25] and chat.tok_encode(text)[-1] == 26 and chat.tok_encode(text).count(1) == 1
    assert 25 not in plain.tok_encode(text) and plain.tok_encode(text)[0] == 1


def test_without_the_harness_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setattr(suite.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="run pip install 'teleflm_jax\\[eval\\]'"):
        suite.load(SuiteConfig(tasks={"hellaswag": 10}))


def test_code_is_not_run_unless_that_is_allowed(tmp_path):
    with pytest.raises(UserError, match="got humaneval alone, .*; allowed: suite.allow_code = True"):
        suite.load(SuiteConfig(tasks={"humaneval": 0}, data=str(tmp_path)))
    with pytest.raises(UserError, match="got no test items of the data set openai/openai_humaneval"):
        suite.load(SuiteConfig(tasks={"humaneval": 0}, data=str(tmp_path), allow_code=True))


@NEEDED
def test_tasks_beside_code_that_is_not_allowed_are_measured(folder):
    work = suite.load(config(folder, {"csl": 0, "humaneval": 0}))
    assert set(work.loaded["tasks"]) == {"csl"} and not work.problems and "suite.allow_code = True" in work.remarks[0]


@pytest.mark.parametrize(
    "settings",
    [
        {"tasks": {"a": -1}},
        {"fractions": {"a": 0.5}},
        {"tasks": {"a": 0}, "fractions": {"a": 0.0}},
        {"code_samples": 4},
        {"batch_size": 0},
        {"seed": -1},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(UserError, match="got suite.*; allowed: .*; change suite"):
        SuiteConfig(**settings)
