"""lm-evaluation-harness's own clients of OpenAI's interface against our server, and our adapter on the same weights and items."""

import pytest
import tokenizers

from teleflm_jax.evaluate import suite
from teleflm_jax.evaluate.config import SuiteConfig
from teleflm_jax.generate import chat
from teleflm_jax.generate.engine import Engine
from teleflm_jax.serve import served_model
from tests.evaluate import asked
from tests.serve import servers

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("default"),  # the harness's own warnings are not ours
]
pytest.importorskip("lm_eval", reason="lm-evaluation-harness is installed on Python 3.11 only (requirements-eval.txt)")
transformers = pytest.importorskip("transformers", reason="transformers is installed on Python 3.11 only (requirements-parity.txt)")
pytest.importorskip("tenacity", reason="the harness's clients need it (requirements-parity.txt)")


@pytest.fixture(scope="module")
def asking(tmp_path_factory):
    """Ask tasks of our adapter and of a client of the harness; returns the items of both, and both tables, by task."""
    from lm_eval import evaluator
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    folder = asked.write(tmp_path_factory.mktemp("parity"))
    model = asked.model(folder, batch_size=4)
    words = tokenizers.Tokenizer.from_str(model.tokenizer.to_str())
    words.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=words, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    fast.save_pretrained(folder / "exported")
    served = served_model.load("tiny", folder, model.tokenizer, context_length=asked.CONTEXT, vocab_size=asked.VOCABULARY)

    def ask(tasks, *, bos=True, talk=False, **settings):
        config = SuiteConfig(tasks=tasks, bos=bos, chat=talk, data=str(folder / "data"), include=(str(folder / "tasks"),))
        format = chat.load(folder, model.tokenizer) if talk else None
        kept, told = {}, {"model": "tiny", "max_length": asked.CONTEXT} | settings
        ours = suite.measure(suite.load(config), suite.dataclasses.replace(model, bos=bos, format=format), keep=kept)
        if talk:
            client = LocalChatCompletion(base_url=f"{running.url}/v1/chat/completions", **told)
        else:
            tokens = {"tokenizer": str(folder / "exported"), "tokenizer_backend": "huggingface", "add_bos_token": bos}
            client = LocalCompletionsAPI(base_url=f"{running.url}/v1/completions", **tokens, **told)
        loaded = suite.load(config).loaded
        theirs = evaluator.evaluate(lm=client, task_dict=loaded, bootstrap_iters=0, apply_chat_template=talk)
        return {task: (kept[task], theirs["samples"][task], ours[task].metrics, theirs["results"][task]) for task in tasks}

    with servers.running(served, lambda: Engine(model.decoder, model.tokenizer, slots=4), slots=4) as running:
        yield ask


def agree(mine, row):
    """Metrics of both, within the rounding of float32."""
    assert mine
    for metric, value in mine.items():
        if "_stderr" not in metric:
            assert value == pytest.approx(row[metric], rel=1e-4), metric


@pytest.mark.parametrize("settings", [{"batch_size": 3}, {"num_concurrent": 2}])
def test_log_likelihoods_and_scores_are_those_of_our_adapter(asking, settings):
    for ours, theirs, mine, row in asking({"choice": 2, "ending": 0}, **settings).values():
        for own, other in zip(ours, theirs, strict=True):
            for (nats, greedy), (their_nats, their_greedy) in zip(
                [resp for (resp,) in own["resps"]], [resp for (resp,) in other["resps"]], strict=True
            ):
                assert nats == pytest.approx(their_nats, rel=1e-5, abs=1e-4) and greedy == their_greedy
        agree(mine, row)


def test_whole_texts_that_fit_the_context_score_the_same(asking):
    ours, theirs, _, _ = asking({"whole": 0}, bos=False)["whole"]
    pairs = [(own["resps"][0], other["resps"][0]) for own, other in zip(ours, theirs, strict=True)]
    equal = [own[0] == pytest.approx(other[0], rel=1e-5) for own, other in pairs]
    assert equal[0] and not all(equal)  # the harness cuts a longer one for a context without its last token


@pytest.mark.parametrize("talk", [False, True], ids=["local-completions", "local-chat-completions"])
def test_greedy_texts_are_those_of_our_adapter(asking, talk):
    ours, theirs, mine, row = asking({"write": 0}, talk=talk)["write"]
    assert [item["resps"] for item in ours] == [item["resps"] for item in theirs]
    assert any(item["resps"][0][0] for item in ours)
    agree(mine, row)
