"""Our adapter against the harness's own Hugging Face model, on the same weights, items and tokenizer."""

import types

import pytest
import tokenizers

from teleflm_jax.evaluate import suite
from teleflm_jax.evaluate.config import SuiteConfig
from teleflm_jax.evaluate.model import Model
from teleflm_jax.tokenizer import load
from tests import tiny
from tests.evaluate import asked
from tests.huggingface import makes, makes_test
from tests.model.parity_test import llama

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # the harness's own warnings are not ours
]
pytest.importorskip("lm_eval", reason="lm-evaluation-harness is installed on Python 3.11 only (requirements-eval.txt)")
transformers = pytest.importorskip("transformers", reason="PyTorch is installed on Python 3.11 only (requirements-parity.txt)")


SHARED = {"tasks": {"choice": 2, "ending": 0, "write": 0}, "bos": True}
ROLLING = {"tasks": {"whole": 0}, "bos": False}
"""The harness's model would score `<s>` itself if it put one in front of a whole text."""


def peer(model, *, bos):
    """The harness's model: transformers' Llama with the same weights, and the tokenizer with `<s>` in front as Llama's have it."""
    from lm_eval.models.huggingface import HFLM

    words = tokenizers.Tokenizer.from_str(model.tokenizer.to_str())
    words.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    weights = llama(tiny.model(tiny.config(vocab_size=asked.VOCABULARY, context_length=asked.CONTEXT)))
    return HFLM(pretrained=weights, tokenizer=fast, batch_size=3, device="cpu", add_bos_token=bos, max_length=asked.CONTEXT)


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """Task -> (our items with their answers, the harness's), and our scores beside the harness's rows."""
    from lm_eval import evaluator

    folder, found, scores = asked.write(tmp_path_factory.mktemp("parity")), {}, {}
    for settings in (SHARED, ROLLING):
        config = SuiteConfig(**settings, data=str(folder / "data"), include=(str(folder / "tasks"),))
        model, kept = asked.model(folder, bos=config.bos, batch_size=3), {}
        mine = suite.measure(suite.load(config), model, keep=kept)
        theirs = evaluator.evaluate(lm=peer(model, bos=config.bos), task_dict=suite.load(config).loaded, bootstrap_iters=0)
        found |= {task: (kept[task], theirs["samples"][task]) for task in config.tasks}
        scores |= {task: (mine[task], theirs["results"][task]) for task in config.tasks}
    return found, scores


def test_the_same_items_are_asked_in_the_same_words(answers):
    for ours, theirs in answers[0].values():
        assert [item["arguments"] for item in ours] == [item["arguments"] for item in theirs]


@pytest.mark.parametrize("task", ["choice", "ending", "whole"])
def test_log_likelihoods_agree_and_so_does_what_is_greedy(answers, task):
    def nats(items):
        return [response[0] if task != "whole" else response for item in items for (response,) in item["resps"]]

    ours, theirs = answers[0][task]
    assert nats(ours) == pytest.approx(nats(theirs), rel=1e-6, abs=1e-4)
    assert task == "whole" or [item["resps"][0][0][1] for item in ours] == [item["resps"][0][0][1] for item in theirs]


def test_greedy_texts_are_the_same_and_end_at_stop_strings(answers):
    ours, theirs = answers[0]["write"]
    assert [item["resps"] for item in ours] == [item["resps"] for item in theirs]
    assert any(item["resps"][0][0] for item in ours)


def test_the_same_items_are_right(answers):
    ours, theirs = answers[0]["choice"]
    assert [item["acc"] for item in ours] == [item["acc"] for item in theirs]
    assert 0 < sum(item["acc"] for item in ours) < len(ours)
    for mine, row in answers[1].values():
        for metric, value in mine.metrics.items():
            if "_stderr" not in metric:
                assert value == pytest.approx(row[metric], rel=1e-4), metric


@pytest.mark.parametrize("make", ["Llama 2", "Llama 3", "Qwen 2", "TeleChat", "Tele-FLM"])
def test_texts_of_an_imported_model_begin_as_the_harness_has_them(tmp_path, make):
    from lm_eval.models.huggingface import HFLM

    from teleflm_jax.evaluate import harness

    makes.write(tmp_path / "theirs", make, **makes_test.SHAPE)
    run, _ = makes_test.taken(tmp_path / "theirs")
    ours = harness.Harness(Model(name="m", decoder=None, tokenizer=load.load(run / "tokenizer.json")))
    theirs = types.SimpleNamespace(custom_prefix_token_id=None, add_bos_token=None)
    theirs.tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "theirs")
    theirs.prefix_token_id = HFLM.prefix_token_id.fget(theirs)
    assert (ours.prefix_token_id, ours.eot_token_id) == (theirs.prefix_token_id, HFLM.eot_token_id.fget(theirs))
    for text in ("the time", ""):
        assert ours.tok_encode(text) == HFLM.tok_encode(theirs, text)
    assert ours.tok_encode("the", add_special_tokens=False) == HFLM.tok_encode(theirs, "the", add_special_tokens=False)
