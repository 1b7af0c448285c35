"""Our model as lm-evaluation-harness's own model class, so that any of its tasks can ask it.

Only `suite.py` imports this module, once the harness is known to be installed (requirements-eval.txt).

In a run of several processes every one of them gets all requests in the same order and makes the same calls; to the harness each is the
only one.

Source: lm_eval.api.model of lm-evaluation-harness 0.4.13; where a text is cut and how stop strings end it follow its Hugging Face model.
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
from teleflm_jax.generate import chat, engine, score
from teleflm_jax.generate.request import Request, numbered, seed_of
from teleflm_jax.generate.sampling import Sampling
from teleflm_jax.tokenizer import specials

DEFAULT_TOKENS = 256
"""New tokens where a task does not say; the harness's own number."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
IGNORED = ("do_sample", "until", "max_gen_toks")
"""Settings of a request that are read apart from those of `SAMPLING`."""


class Harness(TemplateLM):
    """Answers the harness's requests."""

    def __init__(self, model: Model, watch: Callable[[Sequence], Iterable] = iter, pause: Callable[[], None] = lambda: None):
        """Make one.

        Args:
            model: what is asked, and how.
            watch: gets the batches of log-likelihoods and yields them one by one, such as a progress bar.
            pause: called before each batch and each step of texts that are written.
        """
        super().__init__()
        self.model, self.pause = model, pause
        self.watch = lambda batches: pausing(watch(batches), pause)
        self.shortened: collections.Counter[str | None] = collections.Counter()
        """Task -> its requests of which only the end of the context was read."""
        self._ids = specials.of(model.tokenizer)

    @property
    def eot_token_id(self) -> int:
        """Ends a text."""
        return self._ids.eos

    @property
    def prefix_token_id(self) -> int:
        """Stands in front of a text without context."""
        return self._ids.bos

    @property
    def max_length(self) -> int:
        """Longest text, in tokens."""
        return self.model.decoder.context_length

    @property
    def tokenizer_name(self) -> str:
        """What the harness's caches tell chat templates apart by."""
        return f"teleflm_jax {self.model.name}"

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template, where it is asked for."""
        return self.model.format.template.source if chat_template and self.model.format else None

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A dialogue as one text, `<s>` and the roles' marks written out."""
        said = [chat.Message(role=message["role"], content=message["content"]) for message in chat_history]
        return chat.write(self.model.format, said, answer=add_generation_prompt)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Ids of a text, behind what the tokenizer puts there (`<s>` where it is ours) unless that is not wanted or there already.

        Only where the chat template is in use do marks in the text become their ids: it alone writes any.
        """
        if self.model.format:
            ids = self.model.format.parsing.encode(string, add_special_tokens=False).ids
        else:
            ids = specials.encode(self.model.tokenizer, string)
        wanted = self.model.bos if add_special_tokens is None else add_special_tokens
        before = list(self._ids.before)
        return [*before, *ids] if wanted and ids[: len(before)] != before else ids

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-probability in nats of each continuation after its context, and whether it is the greedy one."""
        names = [f"item {request.doc_id} of {request.task_name}" for request in requests]
        if empty := [name for name, request in zip(names, requests, strict=True) if not request.args[1]]:
            raise UserError(f"got {empty[0]} with an empty continuation; allowed: one character or more; correct the task's data")
        pairs = super().loglikelihood(requests, disable_tqdm=True)
        found = score.score(self.model.decoder, pairs, batch_size=self.model.batch_size, watch=self.watch, name=names.__getitem__)
        self.shortened.update(r.task_name for r, pair in zip(requests, pairs, strict=True) if score.is_shortened(pair, self.max_length))
        return found

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Split at the harness's border; where a token spans it so that nothing would be left to score, each side by itself."""
        context_ids, continuation_ids = super()._encode_pair(context, continuation)
        return context_ids, continuation_ids or self.tok_encode(continuation, add_special_tokens=False)

    def _loglikelihood_tokens(self, requests, **kwargs: Any) -> list[score.Pair]:
        """What the harness's `loglikelihood` has made ids of; ours, which knows whose they are, scores them."""
        return [(context or [self.prefix_token_id], continuation) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = True) -> list[float]:
        """Log-probability in nats of whole texts, in windows as those of bits per byte."""
        pairs, owners = [], []
        for number, (text,) in enumerate(request.args for request in requests):
            for window in windows.cut(self.tok_encode(text, add_special_tokens=False), self.max_length, bos=self._ids.bos):
                tokens = window.tokens.tolist()
                pairs.append((tokens[: -window.num_new], tokens[-window.num_new :]))
                owners.append(number)
        totals = [0.0] * len(requests)
        found = score.score(self.model.decoder, pairs, batch_size=self.model.batch_size, watch=self.watch)
        for owner, (nats, _) in zip(owners, found, strict=True):
            totals[owner] += nats
        return totals

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = True) -> list[str]:
        """Continuations, each up to its first stop string; greedy unless a task says `do_sample`."""
        asked = []
        for request in requests:
            seed = seed_of(self.model.seed, request.task_name, request.doc_id)
            context, settings = request.args
            ids = self.tok_encode(context)
            asked.append(self._request(ids, settings, seed))
            self.shortened[request.task_name] += len(asked[-1].prompt) < len(ids)
        slots = self.model.batch_size
        completions = engine.complete(self.model.decoder, self.model.tokenizer, numbered(asked), slots=slots, pause=self.pause)
        return [completion.text for completion in completions]

    def _request(self, context: Sequence[int], settings: dict[str, Any], seed: int) -> Request:
        """One request; of a context too long only the end is read, so that all new tokens have room."""
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
        sampling = {"temperature": 0.0} if not known["do_sample"] else {"temperature": 1.0, "top_p": 1.0} | _chosen(known)
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
