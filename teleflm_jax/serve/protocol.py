"""Bodies of requests to what the engine is asked for; whatever OpenAI's interface has and we do not is refused, not passed over.

Source: OpenAI's API reference; top_k, min_p, repetition_penalty and chat_template_kwargs as in vLLM.
A whole number may be written as 16.0, as in JSON Schema.
"""

import dataclasses
import functools
import json
import pathlib
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tokenizers

from teleflm_jax import foreign
from teleflm_jax.errors import UserError
from teleflm_jax.generate import chat
from teleflm_jax.generate.request import LARGEST_SEED, MAX_LOGPROBS, SMALLEST_SEED, Request, numbered
from teleflm_jax.generate.sampling import LARGEST, MAX_BIASES, Sampling
from teleflm_jax.tokenizer import pieces, specials

SAMPLING = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""What OpenAI's interface takes for granted, which is not what the commands do."""
MAX_TOKENS = 16
"""Of a completion that names none, as with OpenAI; a chat's answer may fill the context."""
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1000
"""Longest stop string; all together may have four times as many. Looking for them costs up to a millisecond a token."""
LARGEST_NUMBER = 1e9
"""Largest absolute value of a setting that need not be whole."""
MAX_PROMPT_LOGPROBS = 1 << 18
"""Log-probabilities of prompts in one answer, which cost the client next to nothing to ask for."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
WITHOUT_EFFECT = (
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
    + ("parallel_tool_calls",)  # of tools that there are not
)
"""Fields that say nothing about the text."""
NEUTRAL = {
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "suffix": ("",),
    "modalities": (["text"],),
    "audio": (),
    "prediction": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    "web_search_options": (),
    "moderation": (),  # may withhold an answer, and adds scores to it
}
"""Fields that are not supported -> values, beside null, with which they change nothing."""
BOTH = ("model", "stream", "stream_options", "max_tokens", "n", "stop", "seed", "logprobs", *SAMPLING, "top_k", "logit_bias")
COMPLETION = (*BOTH, "prompt", "echo", "best_of")
CHAT = (*BOTH, "messages", "max_completion_tokens", "top_logprobs", "chat_template_kwargs")


class Refusal(Exception):
    """What a client is told in OpenAI's shape of an error."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, object]:
        """The response's."""
        kind = (
            "invalid_request_error"
            if self.status < 500 and self.status != 429
            else {429: "rate_limit_error"}.get(self.status, "server_error")
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Served:
    """The model that answers."""

    name: str
    tokenizer: tokenizers.Tokenizer
    ends: tuple[int, ...]
    """Ids that end a text."""
    context_length: int
    vocab_size: int
    format: chat.Format | None
    """None: it has no chat template, for the reason below."""
    no_chat: str = ""
    longest: int | None = None
    """Bytes of text that one token stands for at most (`pieces.longest`); None: there is no bound."""


def served(name: str, folder: pathlib.Path, tokenizer: tokenizers.Tokenizer, *, context_length: int, vocab_size: int) -> Served:
    """The model of a run's folder; without a chat template that works it serves completions alone.

    Its name, which a folder may give it, is Unicode: a lone surrogate becomes a question mark, as in the answers that tell it.
    """
    format, no_chat = None, ""
    try:
        format = chat.load(folder, tokenizer)
    except UserError as error:
        no_chat = str(error)
    sizes = {"context_length": context_length, "vocab_size": vocab_size}
    return Served(
        name=name.encode(errors="replace").decode(),
        tokenizer=tokenizer,
        ends=specials.of(tokenizer).ends,
        format=format,
        no_chat=no_chat,
        longest=pieces.longest(tokenizer),
        **sizes,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Call:
    """What a body asks for."""

    requests: tuple[Request, ...]
    """Of each prompt in turn, its `n` continuations; a choice of the answer has its request's place as index."""
    echo: tuple[str, ...]
    """Text in front of each choice."""
    stream: bool
    usage: bool
    """Whether a stream ends with the counts of tokens."""
    prompt_tokens: int
    chat: bool


def parse(body: bytes) -> dict[str, Any]:
    """The object that a body is; raises a `Refusal` if it is none."""
    try:
        found = foreign.parse_json(body)
    except ValueError as error:
        raise Refusal(f"got a body that is no JSON ({error}); allowed: a JSON object; change the body") from error
    if not isinstance(found, dict):
        raise Refusal(f"got a body that is {_kind(found)}; allowed: a JSON object; change the body")
    return found


def completion(body: Mapping[str, Any], served: Served, *, most: int) -> Call:
    """What a body to /v1/completions asks for, with at most `most` choices; raises a `Refusal`."""
    _check_fields(body, COMPLETION, served)
    texts, prompts = _prompts(body, served, most)
    logprobs = _whole(body, "logprobs", None, 0, MAX_LOGPROBS)
    n, best_of = _whole(body, "n", 1, 1, most), _whole(body, "best_of", None, 1, most)
    if best_of not in (None, n):
        raise Refusal(f"got best_of {best_of}; allowed: as many as n, {n}; leave it out", param="best_of")
    echo = tuple(text for text in texts for _ in range(n)) if _flag(body, "echo") else ("",) * (n * len(prompts))
    tell_prompt = _flag(body, "echo") and logprobs is not None
    if tell_prompt and (told := n * sum(map(len, prompts)) * (logprobs + 1)) > MAX_PROMPT_LOGPROBS:
        raise Refusal(
            f"got echo with {told:,} log-probabilities of the prompts' tokens; allowed: {MAX_PROMPT_LOGPROBS:,}; send several requests",
            param="echo",
        )
    return _call(
        body,
        served,
        prompts,
        n=n,
        most=most,
        max_tokens=_whole(body, "max_tokens", MAX_TOKENS, 0, None),
        logprobs=logprobs,
        stop_ids=served.ends,
        echo=echo,
        tell_prompt=tell_prompt,
    )


def conversation(body: Mapping[str, Any], served: Served, *, most: int) -> Call:
    """What a body to /v1/chat/completions asks for, with at most `most` choices; raises a `Refusal`."""
    _check_fields(body, CHAT, served)
    if served.format is None:
        raise Refusal(served.no_chat, param="messages")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise Refusal("got no messages; allowed: an array of one or more; add one", param="messages")
    if len(messages) > served.context_length:
        raise Refusal(f"got {len(messages):,} messages; allowed: at most {served.context_length:,}; remove some", param="messages")
    format, variables = served.format, body.get("chat_template_kwargs")
    if variables is not None:
        format = _plain("chat_template_kwargs", lambda: chat.given(served.format, variables))
    fits = functools.partial(_fits, served=served, param="messages")
    prompt = _plain("messages", lambda: chat.encode(format, [_message(number, each) for number, each in enumerate(messages)], check=fits))
    top = _whole(body, "top_logprobs", None, 0, MAX_LOGPROBS)
    if top and not _flag(body, "logprobs"):
        raise Refusal("got top_logprobs without logprobs; allowed: with logprobs true; add it", param="top_logprobs")
    limits = {_whole(body, name, None, 1, None) for name in ("max_tokens", "max_completion_tokens")} - {None}
    if len(limits) > 1:
        raise Refusal("got max_tokens and another max_completion_tokens; allowed: one of them; remove one", param="max_tokens")
    return _call(
        body,
        served,
        [prompt],
        n=(n := _whole(body, "n", 1, 1, most)),
        most=most,
        max_tokens=next(iter(limits), served.context_length),
        logprobs=(top or 0) if _flag(body, "logprobs") else None,
        stop_ids=chat.stop_ids(served.format),
        echo=("",) * n,
    )


def _call(body, served, prompts, *, n, most, max_tokens, logprobs, stop_ids, echo, tell_prompt=False) -> Call:
    if n * len(prompts) > most:
        raise Refusal(f"got {len(prompts)} prompts with n {n}; allowed: at most {most} choices in all; send several requests", param="n")
    for prompt in prompts:
        _refuse_long(len(prompt), served, "messages" if "messages" in body else "prompt")
    numbers = {name: _number(body, name, default) for name, default in SAMPLING.items()}
    top_k = max(0, _whole(body, "top_k", 0, -1, LARGEST))  # -1: vLLM's "all"
    sampling = _plain(None, lambda: Sampling(**numbers, top_k=top_k, logit_bias=_bias(body, served)))
    seed = _whole(body, "seed", None, SMALLEST_SEED, LARGEST_SEED)
    seed = secrets.randbelow(LARGEST_SEED + 1) if seed is None else seed
    asked = {"max_tokens": max_tokens, "sampling": sampling, "seed": seed, "stop": _stop(body), "stop_ids": stop_ids, "logprobs": logprobs}
    options, stream = body.get("stream_options"), _flag(body, "stream")
    if options is not None and not (stream and isinstance(options, dict) and options.keys() <= {"include_usage", "include_obfuscation"}):
        raise Refusal("got stream_options; allowed: with stream true, an object with include_usage; change it", param="stream_options")
    return Call(
        requests=tuple(numbered(Request(prompt=prompt, tell_prompt=tell_prompt, **asked) for prompt in prompts for _ in range(n))),
        echo=echo,
        stream=stream,
        usage=_flag(options or {}, "include_usage"),
        prompt_tokens=sum(map(len, prompts)),
        chat="messages" in body,
    )


def _check_fields(body: Mapping[str, Any], known: Sequence[str], served: Served) -> None:
    for name, value in body.items():
        if name in NEUTRAL:
            if value is not None and value not in NEUTRAL[name]:
                raise Refusal(f"got {name}, which this server does not support; allowed: requests without it; remove it", param=name)
        elif name not in known and name not in WITHOUT_EFFECT:
            raise Refusal(f"got the unknown field {name[:99]!r}; allowed: {', '.join(known)}; remove it", param=name[:99])
    if not isinstance(model := body.get("model"), str):
        raise Refusal(f"got model that is {_kind(model)}; allowed: the string {served.name!r}; change it", param="model")
    if model != served.name:
        raise Refusal(
            f"got the model {model[:99]!r}; allowed: {served.name!r}; change model", status=404, param="model", code="model_not_found"
        )


def _prompts(body: Mapping[str, Any], served: Served, most: int) -> tuple[list[str], list[tuple[int, ...]]]:
    """Texts and ids of one or several prompts, each a string or a list of ids."""
    prompt = "" if "prompt" in body and body["prompt"] is None else body.get("prompt")  # null: from the beginning of a text
    several = isinstance(prompt, list) and prompt and all(isinstance(each, str | list) for each in prompt)
    if several and len(prompt) > most:
        raise Refusal(f"got {len(prompt):,} prompts; allowed: at most {most}; send several requests", param="prompt")
    texts, prompts = [], []
    for each in prompt if several else [prompt]:
        if isinstance(each, str):
            texts.append(each)
            _fits(each, served, "prompt")
            prompts.append(_plain("prompt", lambda each=each: tuple(specials.prompt(served.tokenizer, each))))
        elif isinstance(each, list) and each and all(_is_whole(x) and 0 <= x < served.vocab_size for x in each):
            _refuse_long(len(each), served, "prompt")
            texts.append(served.tokenizer.decode(each, skip_special_tokens=True))
            prompts.append(tuple(each))
        else:
            allowed = f"a string, an array of ids from 0 to {served.vocab_size - 1}, or an array of such; change it"
            raise Refusal(f"got a prompt that is {_kind(each)}; allowed: {allowed}", param="prompt")
    return texts, prompts


def _fits(text: str, served: Served, param: str) -> None:
    """Refuse a text that cannot fit the context before it is encoded, which takes seconds for one of megabytes."""
    least = -(-len(text.encode()) // served.longest) if served.longest else 0
    _refuse_long(least, served, param, " or more")


def _refuse_long(tokens: int, served: Served, param: str, more: str = "") -> None:
    if tokens >= served.context_length:
        raise Refusal(
            f"got a prompt of {tokens:,}{more} tokens for a context of {served.context_length:,}; "
            f"allowed: at most {served.context_length - 1:,}; shorten it",
            param=param,
            code="context_length_exceeded",
        )


def _message(number: int, message: Any) -> chat.Message:
    place = f"messages[{number}]"
    if not isinstance(message, dict):
        raise Refusal(f"got {place} that is {_kind(message)}; allowed: an object with role and content; change it", param=place)
    for field, value in message.items():
        if field not in ("role", "content", "name") and value not in (None, [], {}):
            raise Refusal(f"got {place} with {field[:99]!r}; allowed: role, content and name; remove it", param=f"{place}.{field[:99]}")
    role, content, name = message.get("role"), message.get("content"), message.get("name")
    if not isinstance(role, str) or role not in ROLES:
        raise Refusal(f"got {place} without a known role; allowed: {', '.join(ROLES)}; change it", param=f"{place}.role")
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise Refusal(f"got {place} whose content is {_kind(content)}; allowed: text; change it", param=f"{place}.content")
    if not isinstance(name, str | None):
        raise Refusal(f"got {place} whose name is {_kind(name)}; allowed: text; change it", param=f"{place}.name")
    return chat.Message(role=ROLES[role], content=content, name=name)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    stop = [] if stop is None else [stop] if isinstance(stop, str) else stop
    right = isinstance(stop, list) and len(stop) <= MAX_STOPS
    if not right or not all(isinstance(each, str) and 0 < len(each) <= MAX_STOP_CHARACTERS for each in stop):
        allowed = f"a string or up to {MAX_STOPS}, each of 1 to {MAX_STOP_CHARACTERS} characters"
        raise Refusal(f"got stop that is {_kind(body['stop'])}; allowed: {allowed}; change it", param="stop")
    if (characters := sum(map(len, stop))) > 4 * MAX_STOP_CHARACTERS:
        allowed = f"at most {4 * MAX_STOP_CHARACTERS:,}; shorten them"
        raise Refusal(f"got stop strings of {characters:,} characters together; allowed: {allowed}", param="stop")
    return tuple(stop)


def _bias(body: Mapping[str, Any], served: Served) -> tuple[tuple[int, float], ...]:
    """Biases of `logit_bias`, whose names are ids in decimal digits; those of 0 change nothing."""
    given = body.get("logit_bias")
    given = {} if given is None else given
    if not isinstance(given, dict) or len(given) > MAX_BIASES:
        allowed = f"an object of at most {MAX_BIASES:,} ids, each with a number from -100 to 100; change it"
        raise Refusal(f"got logit_bias that is {_kind(given)}; allowed: {allowed}", param="logit_bias")
    for name in given:
        if not re.fullmatch("0|[1-9][0-9]{0,9}", name) or int(name) >= served.vocab_size:
            allowed = f"ids of the model's tokens, from 0 to {served.vocab_size - 1}, in digits; change it"
            raise Refusal(f"got logit_bias of {name[:99]!r}; allowed: {allowed}", param="logit_bias")
        if not _is_number(given[name]) or not -100 <= given[name] <= 100:
            raise Refusal(f"got logit_bias that is {_kind(given[name])}; allowed: a number from -100 to 100; change it", param="logit_bias")
    return tuple((int(name), float(value)) for name, value in given.items() if value)


def _whole(body: Mapping[str, Any], name: str, default: int | None, least: int, most: int | None) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not _is_whole(value) or value < least or (most is not None and value > most):
        allowed = f"a whole number from {least}" + ("" if most is None else f" to {most}")
        raise Refusal(f"got {name} that is {_kind(value)}; allowed: {allowed}; change it", param=name)
    return value


def _number(body: Mapping[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if not _is_number(value) or not abs(value) <= LARGEST_NUMBER:
        raise Refusal(f"got {name} that is {_kind(value)}; allowed: a number, at most 1e9; change it", param=name)
    return float(value)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise Refusal(f"got {name} that is {_kind(value)}; allowed: true or false; change it", param=name)
    return bool(value)


def _plain(param: str | None, work: Callable):
    """Turn a `UserError` into a `Refusal`; without `param` it is the word after `got`."""
    try:
        return work()
    except UserError as error:
        raise Refusal(str(error), param=param or str(error).split()[1]) from error


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    """A value in words, short whatever it is."""
    if value is None or isinstance(value, bool | int | float):
        return str(json.dumps(value))[:40]
    return f"{ {str: 'a string', list: 'an array', dict: 'an object'}[type(value)] } of length {len(value):,}"
