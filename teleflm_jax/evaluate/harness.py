"""Adapter of our model to lm-evaluation-harness's model class, so that all of its tasks can be run.

Only `suite.py` imports this module, after checking that the harness is installed (requirements-eval.txt).

In a run of several processes each process gets all requests in the same order and makes the same calls; the harness sees one process.

Source: lm_eval.api.model of lm-evaluation-harness 0.4.13; truncation and stop strings follow its Hugging Face model.
"""

import collections
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs

from teleflm_jax.errors import UserError
from teleflm_jax.evaluate import windows
from teleflm_jax.evaluate.bpb import pausing
from teleflm_jax.evaluate.model import Model
from teleflm_jax.generate import chat, engine, loglikelihood
from teleflm_jax.generate.loglikelihood import Pair
from teleflm_jax.generate.request import Request, derive_seed, number_choices
from teleflm_jax.generate.sampling import Sampling
from teleflm_jax.tokenizer import specials

DEFAULT_TOKENS = 256
"""New tokens if a task names no number; the harness's default."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
IGNORED = ("do_sample", "until", "max_gen_toks")
"""Settings of a request that `SAMPLING` does not list and that are read separately."""


class Harness(TemplateLM):
    """Model class that answers the harness's requests."""

    def __init__(self, model: Model, watch: Callable[[Sequence], Iterable] = iter, pause: Callable[[], None] = lambda: None):
        """Wrap a model.

        Args:
            model: weights, tokenizer and prompting.
            watch: takes the batches of log-likelihoods and yields them one by one, for example a progress bar.
            pause: called before each batch and each step of generation.
        """
        super().__init__()
        self.model, self.pause = model, pause
        self.watch = lambda batches: pausing(watch(batches), pause)
        self.shortened: collections.Counter[str | None] = collections.Counter()
        """Task -> number of its requests whose context was truncated on the left."""
        self._ids = specials.of(model.tokenizer)

    @property
    def eot_token_id(self) -> int:
        """Id that ends a text."""
        return self._ids.eos

    @property
    def prefix_token_id(self) -> int:
        """Id before a text without context."""
        return self._ids.bos

    @property
    def max_length(self) -> int:
        """Longest text, in tokens."""
        return self.model.decoder.context_length

    @property
    def tokenizer_name(self) -> str:
        """Key of chat templates in the harness's caches."""
        return f"teleflm_jax {self.model.name}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """Return the chat template if it is requested."""
        return self.model.format.template.source if chat_template and self.model.format else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a dialogue as one text with `<s>` and the role markers."""
        assert self.model.format is not None  # without a chat template the harness writes no dialogues
        said = [chat.Message(role=message["role"], content=message["content"]) for message in chat_history]
        return chat.render(self.model.format, said, answer=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Return the ids of a text after the ids that the tokenizer adds (`<s>` for ours), unless they are unwanted or present already.

        Special tokens in the text become their ids only if the chat template, which writes them, is in use.
        """
        if self.model.format:
            ids = self.model.format.parsing.encode(string, add_special_tokens=False).ids
        else:
            ids = specials.encode(self.model.tokenizer, string)
        wanted = self.model.bos if add_special_tokens is None else add_special_tokens
        before = list(self._ids.before)
        return [*before, *ids] if wanted and ids[: len(before)] != before else ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Return the log-probability in nats of each continuation after its context, and True if it is the greedy one."""
        names = [f"item {request.doc_id} of {request.task_name}" for request in requests]
        if empty := [name for name, request in zip(names, requests, strict=True) if not request.args[1]]:
            raise UserError(f"got {empty[0]} with an empty continuation; allowed: one character or more; correct the task's data")
        pairs = super().loglikelihood(requests, disable_tqdm=True)
        found = loglikelihood.loglikelihoods(
            self.model.decoder, pairs, batch_size=self.model.batch_size, watch=self.watch, name=names.__getitem__
        )
        self.shortened.update(
            r.task_name for r, pair in zip(requests, pairs, strict=True) if loglikelihood.is_truncated(pair, self.max_length)
        )
        return found

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Split where the harness does; if a token spans the border and no token would be scored, encode each side by itself."""
        context_ids, continuation_ids = super()._encode_pair(context, continuation)
        return context_ids, continuation_ids or self.tok_encode(continuation, add_special_tokens=False)

    def _loglikelihood_tokens(self, requests, **kwargs: Any) -> list[Pair]:
        """Return the encoded pairs to our `loglikelihood`, which knows the requests and scores them."""
        return [(context or [self.prefix_token_id], continuation) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Return the log-probability in nats of whole texts, in the windows of bits per byte."""
        pairs, owners = [], []
        for number, (text,) in enumerate(request.args for request in requests):
            for window in windows.cut(self.tok_encode(text, add_special_tokens=False), self.max_length, bos=self._ids.bos):
                tokens = window.tokens.tolist()
                pairs.append((tokens[: -window.num_new], tokens[-window.num_new :]))
                owners.append(number)
        totals = [0.0] * len(requests)
        found = loglikelihood.loglikelihoods(self.model.decoder, pairs, batch_size=self.model.batch_size, watch=self.watch)
        for owner, (nats, _) in zip(owners, found, strict=True):
            totals[owner] += nats
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Return continuations, each up to its first stop string; greedy unless a task sets `do_sample`."""
        asked = []
        for request in requests:
            seed = derive_seed(self.model.seed, request.task_name, request.doc_id)
            context, settings = request.args
            ids = self.tok_encode(context)
            asked.append(self._request(ids, settings, seed))
            self.shortened[request.task_name] += len(asked[-1].prompt) < len(ids)
        slots = self.model.batch_size
        completions = engine.complete(self.model.decoder, self.model.tokenizer, number_choices(asked), slots=slots, pause=self.pause)
        return [completion.text for completion in completions]

    def _request(self, context: Sequence[int], settings: dict[str, Any], seed: int) -> Request:
        """Return one request; a long context is truncated on the left to leave room for all new tokens."""
        known = normalize_gen_kwargs(settings, DEFAULT_TOKENS)
        if unknown := known.keys() - {*SAMPLING, *IGNORED}:
            raise UserError(
                f"got a task with the generation setting {', '.join(sorted(unknown))}; allowed: {', '.join(SAMPLING)}; leave it out"
            )
        new = min(known["max_gen_toks"], self.model.max_tokens or known["max_gen_toks"])
        room = self.max_length - new
        if room < 1:
            raise UserError(
                f"got a task with {new:,} new tokens for a context of {self.max_length:,}; allowed: fewer than the context has; "
                f"set suite.max_tokens to {self.max_length // 2} or so"
            )
        sampling: dict[str, Any] = {"temperature": 0.0} if not known["do_sample"] else {"temperature": 1.0, "top_p": 1.0} | _chosen(known)
        return Request(
            prompt=tuple(context[-room:]),
            max_tokens=new,
            sampling=Sampling(**sampling),
            seed=seed,
            stop=tuple(text for text in known["until"] if text and text != self.model.tokenizer.id_to_token(self._ids.eos)),
            stop_ids=chat.stop_ids(self.model.format) if self.model.format else self._ids.ends,
        )


def _chosen(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: settings[name] for name in SAMPLING if settings.get(name) is not None}
