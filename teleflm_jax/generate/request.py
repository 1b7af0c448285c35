"""What is asked for, and what comes back."""

import collections
import dataclasses
import hashlib
import random
from collections.abc import Iterable

import numpy as np

from teleflm_jax.errors import UserError
from teleflm_jax.generate.sampling import Sampling

SMALLEST_SEED, LARGEST_SEED = -(2**63), 2**64 - 1
"""Whatever has 64 bits, with a sign or without."""
LARGEST_NUMBER = 2**32 - 1
MAX_STOP_IDS = 32
MAX_LOGPROBS = 20
"""Alternatives per token; what OpenAI's interface allows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A text to continue."""

    prompt: tuple[int, ...]
    """Token ids."""
    max_tokens: int
    """New tokens; fewer where the context is full before. 0: the prompt is only read."""
    sampling: Sampling = Sampling()
    seed: int = 0
    """The same seed, number and prompt give the same tokens."""
    number: int = 0
    """Which of several continuations of the prompt."""
    stop: tuple[str, ...] = ()
    """Strings that end the text, and do not belong to it."""
    stop_ids: tuple[int, ...] = ()
    """Ids that end the text."""
    logprobs: int | None = None
    """Likeliest tokens that are told with each; None: no log-probabilities."""
    tell_prompt: bool = False
    """Whether the prompt's tokens are told too, with log-probabilities, which must be asked for."""

    @property
    def key(self) -> np.ndarray:
        """Key of the text's random numbers, uint32 [2]: a hash of seed, number and prompt, so that no two texts share random numbers."""
        negative = self.seed < 0  # its low 64 bits are those of a large seed
        words = np.array([self.seed % 2**64, self.number + (negative << 32), *self.prompt], "<u8")
        return np.frombuffer(hashlib.blake2b(words.tobytes(), digest_size=8).digest(), "<u4")

    def refuse(self, *, context_length: int, vocab_size: int) -> None:
        """Raise a `UserError` for what a model of this size can never serve."""
        if not self.prompt:
            raise UserError("got an empty prompt; allowed: one token or more; change the prompt")
        if not 0 <= min(self.prompt) <= max(self.prompt) < vocab_size:
            raise UserError(
                f"got a prompt with ids from {min(self.prompt)} to {max(self.prompt)}; allowed: 0 to {vocab_size - 1}; change it"
            )
        if len(self.prompt) >= context_length:
            raise UserError(
                f"got a prompt of {len(self.prompt):,} tokens (with what the tokenizer adds) for a context of {context_length:,}; "
                f"allowed: at most {context_length - 1:,}, so that one new token has room; shorten the prompt"
            )
        if self.max_tokens < 0:
            raise UserError(f"got max_tokens {self.max_tokens}; allowed: 0 or more; change max_tokens")
        for name, least, most in (("seed", SMALLEST_SEED, LARGEST_SEED), ("number", 0, LARGEST_NUMBER)):
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
        if self.tell_prompt and self.logprobs is None:
            raise UserError("got tell_prompt without logprobs; allowed: with 0 or more; set logprobs")


def numbered(requests: Iterable[Request]) -> list[Request]:
    """Number the requests that have the same seed and prompt from 0 on; the others among them change nothing."""
    counts: collections.Counter[tuple] = collections.Counter()
    made = []
    for request in requests:
        same = request.seed, request.prompt
        made.append(dataclasses.replace(request, number=counts[same]))
        counts[same] += 1
    return made


def seed_of(seed: int, *names: object) -> int:
    """The seed of one item among many that share a seed, by the item's names and not by its place."""
    return random.Random("/".join(map(str, (seed, *names)))).getrandbits(32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Token:
    """One new token."""

    id: int
    logprob: float | None = None
    """In nats, of the model's own distribution; a prompt's first token has none."""
    alternatives: tuple[tuple[int, float], ...] = ()
    """(Id, log-probability) of the likeliest, likeliest first."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """What is new of a text."""

    text: str
    tokens: tuple[Token, ...]
    """An id that ended the text is the last of them, and gives no text."""
    finish: str | None = None
    """`stop`: a stop string or id; `length`: all tokens that it might have; None: more is to come."""
    prompt: tuple[Token, ...] = ()
    """In the first piece, where the request asks for them, the prompt's tokens."""
