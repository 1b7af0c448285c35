"""Requests for continuations, and the pieces that are returned."""

import collections
import dataclasses
import hashlib
import random
from collections.abc import Iterable

import numpy as np

from teleflm_jax.errors import UserError
from teleflm_jax.generate.sampling import Sampling

SMALLEST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1
"""All 64-bit integers, signed or unsigned."""
LARGEST_CHOICE = 2**32 - 1
MAX_STOP_IDS = 32
MAX_LOGPROBS = 20
"""Most alternatives per token, as in OpenAI's interface."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt to continue."""

    prompt: tuple[int, ...]
    """Token ids."""
    max_tokens: int
    """Most new tokens; fewer if the context is full earlier. 0: the prompt is only read."""
    sampling: Sampling = Sampling()
    seed: int = 0
    """The same seed, choice and prompt give the same tokens."""
    choice: int = 0
    """Index among several continuations of the prompt."""
    stop: tuple[str, ...] = ()
    """Strings that end the text without being part of it."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the text."""
    logprobs: int | None = None
    """Likeliest tokens to return with each token; None: no log-probabilities."""
    prompt_logprobs: bool = False
    """Return the prompt's tokens with log-probabilities too; requires `logprobs`."""

    @property
    def key(self) -> np.ndarray:
        """Random key of the continuation, uint32 [2]: a hash of seed, choice and prompt, so that no two continuations share one."""
        negative = self.seed < 0  # the low 64 bits of a negative seed are those of a large one
        words = np.array([self.seed % 2**64, self.choice + (negative << 32), *self.prompt], "<u8")
        return np.frombuffer(hashlib.blake2b(words.tobytes(), digest_size=8).digest(), "<u4")

    def validate(self, *, context_length: int, vocab_size: int) -> None:
        """Raise a `UserError` if a model of this size can never serve the request."""
        if not self.prompt:
            raise UserError("got an empty prompt; allowed: one token or more; change the prompt")
        if not 0 <= min(self.prompt) <= max(self.prompt) < vocab_size:
            raise UserError(
                f"got a prompt with ids from {min(self.prompt)} to {max(self.prompt)}; allowed: 0 to {vocab_size - 1}; change it"
            )
        if len(self.prompt) >= context_length:
            raise UserError(
                f"got a prompt of {len(self.prompt):,} tokens (with what the tokenizer adds) for a context of {context_length:,}; "
                f"allowed: at most {context_length - 1:,}, which leaves room for one new token; shorten the prompt"
            )
        if self.max_tokens < 0:
            raise UserError(f"got max_tokens {self.max_tokens}; allowed: 0 or more; change max_tokens")
        for name, least, most in (("seed", SMALLEST_SEED, LARGEST_SEED), ("choice", 0, LARGEST_CHOICE)):
            if not least <= (value := getattr(self, name)) <= most:
                raise UserError(f"got {name} {value}; allowed: {least} to {most}; change {name}")
        if wrong := [index for index, _ in self.sampling.logit_bias if not 0 <= index < vocab_size]:
            raise UserError(f"got logit_bias of the id {wrong[0]}; allowed: 0 to {vocab_size - 1}; change it")
        if "" in self.stop:
            raise UserError("got an empty stop string; allowed: one character or more; change stop")
        if len(self.stop_ids) > MAX_STOP_IDS or min(self.stop_ids, default=0) < 0:
            raise UserError(f"got stop_ids {list(self.stop_ids)}; allowed: at most {MAX_STOP_IDS} ids from 0 up; change stop_ids")
        if self.logprobs is not None and not 0 <= self.logprobs <= MAX_LOGPROBS:
            raise UserError(f"got logprobs {self.logprobs}; allowed: 0 to {MAX_LOGPROBS}; change logprobs")
        if self.prompt_logprobs and self.logprobs is None:
            raise UserError("got prompt_logprobs without logprobs; allowed: with 0 or more; set logprobs")


def number_choices(requests: Iterable[Request]) -> list[Request]:
    """Return the requests with `choice` counted from 0 among those of equal seed and prompt, whatever other requests there are."""
    counts: collections.Counter[tuple] = collections.Counter()
    numbered = []
    for request in requests:
        same = request.seed, request.prompt
        numbered.append(dataclasses.replace(request, choice=counts[same]))
        counts[same] += 1
    return numbered


def derive_seed(seed: int, *names: object) -> int:
    """Return the seed of one item among many that share a seed; it depends on the item's names and not on its position."""
    return random.Random("/".join(map(str, (seed, *names)))).getrandbits(32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Token:
    """A token of a prompt or a continuation."""

    id: int
    logprob: float | None = None
    """Log-probability in nats under the model's own distribution; None for a prompt's first token."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """(Id, log-probability) of the likeliest tokens, likeliest first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextDelta:
    """New text and tokens of a continuation."""

    text: str
    tokens: tuple[Token, ...]
    """Includes an id that ended the text, which adds no text, as the last."""
    finish_reason: str | None = None
    """`stop`: a stop string or id; `length`: the token limit; None: not finished."""
    prompt: tuple[Token, ...] = ()
    """Tokens of the prompt, in the first piece, if the request asks for them."""
