"""Parsing of request bodies into requests for the engine; fields of OpenAI's interface that we lack are refused, not ignored.

Source: OpenAI's API reference; top_k, min_p, repetition_penalty and chat_template_kwargs as in vLLM.
A whole number may be written as 16.0, as in JSON Schema.
"""

import dataclasses
import functools
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeGuard, TypeVar, overload

from teleflm_jax import foreign
from teleflm_jax.errors import UserError
from teleflm_jax.generate import chat
from teleflm_jax.generate.request import LARGEST_SEED, MAX_LOGPROBS, SMALLEST_SEED, Request, number_choices
from teleflm_jax.generate.sampling import LARGEST, MAX_BIASES, Sampling
from teleflm_jax.serve.served_model import ServedModel
from teleflm_jax.tokenizer import specials

T = TypeVar("T")
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""Defaults of OpenAI's interface, which differ from those of the commands."""
MAX_TOKENS = 16
"""Default of a completion, as in OpenAI's interface; a chat's answer may fill the context."""
MAX_STOPS = 64
MAX_STOP_CHARACTERS = 1000
"""Longest stop string; all together may have four times as many. Searching for them takes up to a millisecond a token."""
LARGEST_NUMBER = 1e9
"""Largest absolute value of a setting that is not an integer."""
MAX_PROMPT_LOGPROBS = 1 << 18
"""Most log-probabilities of prompts in one answer, since a small request can ask for many."""
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
IGNORED_FIELDS = (
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
    + ("parallel_tool_calls",)  # there are no tools
)
"""Fields that do not affect the text."""
UNSUPPORTED_FIELDS = {
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
"""Unsupported fields, with the values besides null that change nothing."""
BOTH = ("model", "stream", "stream_options", "max_tokens", "n", "stop", "seed", "logprobs", *SAMPLING, "top_k", "logit_bias")
COMPLETION = (*BOTH, "prompt", "echo", "best_of")
CHAT = (*BOTH, "messages", "max_completion_tokens", "top_logprobs", "chat_template_kwargs")


class ApiError(Exception):
    """An error that the client gets in OpenAI's format."""

    def __init__(self, message: str, *, status: int = 400, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code

    def body(self) -> dict[str, object]:
        """Return the body of the response."""
        kind = (
            "invalid_request_error"
            if self.status < 500 and self.status != 429
            else {429: "rate_limit_error"}.get(self.status, "server_error")
        )
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParsedBody:
    """A parsed request body."""

    requests: tuple[Request, ...]
    """The `n` continuations of each prompt in turn; the index of a request is that of its choice in the answer."""
    echo: tuple[str, ...]
    """Text before each choice."""
    stream: bool
    usage: bool
    """True if a stream ends with the token counts."""
    prompt_tokens: int
    chat: bool


def parse_json(body: bytes) -> dict[str, Any]:
    """Return a body's JSON object; raise an `ApiError` if it is not one."""
    try:
        value = foreign.parse_json(body)
    except ValueError as error:
        raise ApiError(f"got a body that is not JSON ({error}); allowed: a JSON object; change the body") from error
    if not isinstance(value, dict):
        raise ApiError(f"got a body that is {_describe(value)}; allowed: a JSON object; change the body")
    return value


def parse_completion(body: Mapping[str, Any], served: ServedModel, *, max_choices: int) -> ParsedBody:
    """Parse a body to /v1/completions; raise an `ApiError` if it is invalid."""
    _check_fields(body, COMPLETION, served)
    texts, prompts = _prompts(body, served, max_choices)
    logprobs = _integer(body, "logprobs", None, 0, MAX_LOGPROBS)
    n, best_of = _integer(body, "n", 1, 1, max_choices), _integer(body, "best_of", None, 1, max_choices)
    if best_of not in (None, n):
        raise ApiError(f"got best_of {best_of}; allowed: as many as n, {n}; leave it out", param="best_of")
    echo = tuple(text for text in texts for _ in range(n)) if _boolean(body, "echo") else ("",) * (n * len(prompts))
    prompt_logprobs = _boolean(body, "echo") and logprobs is not None
    if prompt_logprobs and logprobs is not None and (total := n * sum(map(len, prompts)) * (logprobs + 1)) > MAX_PROMPT_LOGPROBS:
        raise ApiError(
            f"got echo with {total:,} log-probabilities of the prompts' tokens; allowed: {MAX_PROMPT_LOGPROBS:,}; send several requests",
            param="echo",
        )
    return _parsed_body(
        body,
        served,
        prompts,
        n=n,
        max_choices=max_choices,
        max_tokens=_integer(body, "max_tokens", MAX_TOKENS, 0, None),
        logprobs=logprobs,
        stop_ids=served.ends,
        echo=echo,
        prompt_logprobs=prompt_logprobs,
    )


def parse_chat(body: Mapping[str, Any], served: ServedModel, *, max_choices: int) -> ParsedBody:
    """Parse a body to /v1/chat/completions; raise an `ApiError` if it is invalid."""
    _check_fields(body, CHAT, served)
    if served.format is None:
        raise ApiError(served.no_chat, param="messages")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ApiError("got no messages; allowed: an array of one or more; add one", param="messages")
    if len(messages) > served.context_length:
        raise ApiError(f"got {len(messages):,} messages; allowed: at most {served.context_length:,}; remove some", param="messages")
    plain, variables = served.format, body.get("chat_template_kwargs")
    format = plain
    if variables is not None:
        format = _as_api_error("chat_template_kwargs", lambda: chat.with_variables(plain, variables))
    fits = functools.partial(_fits, served=served, param="messages")
    prompt = _as_api_error(
        "messages", lambda: chat.encode(format, [_message(number, each) for number, each in enumerate(messages)], check=fits)
    )
    top = _integer(body, "top_logprobs", None, 0, MAX_LOGPROBS)
    if top and not _boolean(body, "logprobs"):
        raise ApiError("got top_logprobs without logprobs; allowed: with logprobs true; add it", param="top_logprobs")
    names = ("max_tokens", "max_completion_tokens")
    limits = {limit for name in names if (limit := _integer(body, name, None, 1, None)) is not None}
    if len(limits) > 1:
        raise ApiError("got max_tokens and another max_completion_tokens; allowed: one of them; remove one", param="max_tokens")
    return _parsed_body(
        body,
        served,
        [prompt],
        n=(n := _integer(body, "n", 1, 1, max_choices)),
        max_choices=max_choices,
        max_tokens=next(iter(limits), served.context_length),
        logprobs=(top or 0) if _boolean(body, "logprobs") else None,
        stop_ids=chat.stop_ids(served.format),
        echo=("",) * n,
    )


def _parsed_body(
    body: Mapping[str, Any],
    served: ServedModel,
    prompts: Sequence[tuple[int, ...]],
    *,
    n: int,
    max_choices: int,
    max_tokens: int,
    logprobs: int | None,
    stop_ids: tuple[int, ...],
    echo: tuple[str, ...],
    prompt_logprobs: bool = False,
) -> ParsedBody:
    if n * len(prompts) > max_choices:
        raise ApiError(
            f"got {len(prompts)} prompts with n {n}; allowed: at most {max_choices} choices in all; send several requests", param="n"
        )
    for prompt in prompts:
        _refuse_long(len(prompt), served, "messages" if "messages" in body else "prompt")
    numbers = {name: _number(body, name, default) for name, default in SAMPLING.items()}
    top_k = max(0, _integer(body, "top_k", 0, -1, LARGEST))  # -1 means all, as in vLLM
    sampling = _as_api_error(None, lambda: Sampling(**numbers, top_k=top_k, logit_bias=_bias(body, served)))
    seed = _integer(body, "seed", None, SMALLEST_SEED, LARGEST_SEED)
    seed = secrets.randbelow(LARGEST_SEED + 1) if seed is None else seed
    common = {"max_tokens": max_tokens, "sampling": sampling, "seed": seed, "stop": _stop(body), "stop_ids": stop_ids, "logprobs": logprobs}
    options, stream = body.get("stream_options"), _boolean(body, "stream")
    if options is not None and not (stream and isinstance(options, dict) and options.keys() <= {"include_usage", "include_obfuscation"}):
        raise ApiError("got stream_options; allowed: with stream true, an object with include_usage; change it", param="stream_options")
    return ParsedBody(
        requests=tuple(
            number_choices(Request(prompt=prompt, prompt_logprobs=prompt_logprobs, **common) for prompt in prompts for _ in range(n))
        ),
        echo=echo,
        stream=stream,
        usage=_boolean(options or {}, "include_usage"),
        prompt_tokens=sum(map(len, prompts)),
        chat="messages" in body,
    )


def _check_fields(body: Mapping[str, Any], known: Sequence[str], served: ServedModel) -> None:
    for name, value in body.items():
        if name in UNSUPPORTED_FIELDS:
            if value is not None and value not in UNSUPPORTED_FIELDS[name]:
                raise ApiError(f"got {name}, which this server does not support; allowed: requests without it; remove it", param=name)
        elif name not in known and name not in IGNORED_FIELDS:
            raise ApiError(f"got the unknown field {name[:99]!r}; allowed: {', '.join(known)}; remove it", param=name[:99])
    if not isinstance(model := body.get("model"), str):
        raise ApiError(f"got model that is {_describe(model)}; allowed: the string {served.name!r}; change it", param="model")
    if model != served.name:
        raise ApiError(
            f"got the model {model[:99]!r}; allowed: {served.name!r}; change model", status=404, param="model", code="model_not_found"
        )


def _prompts(body: Mapping[str, Any], served: ServedModel, max_choices: int) -> tuple[list[str], list[tuple[int, ...]]]:
    """Return the texts and ids of one or several prompts, each a string or a list of ids."""
    prompt = "" if "prompt" in body and body["prompt"] is None else body.get("prompt")  # null: the beginning of a text
    several = isinstance(prompt, list) and prompt and all(isinstance(each, str | list) for each in prompt)
    given = prompt if several and isinstance(prompt, list) else [prompt]
    if several and len(given) > max_choices:
        raise ApiError(f"got {len(given):,} prompts; allowed: at most {max_choices}; send several requests", param="prompt")
    texts, prompts = [], []
    for each in given:
        if isinstance(each, str):
            texts.append(each)
            _fits(each, served, "prompt")
            prompts.append(_as_api_error("prompt", lambda each=each: tuple(specials.prompt(served.tokenizer, each))))
        elif isinstance(each, list) and each and all(_is_integer(x) and 0 <= x < served.vocab_size for x in each):
            _refuse_long(len(each), served, "prompt")
            texts.append(served.tokenizer.decode(each, skip_special_tokens=True))
            prompts.append(tuple(each))
        else:
            allowed = f"a string, an array of ids from 0 to {served.vocab_size - 1}, or an array of such; change it"
            raise ApiError(f"got a prompt that is {_describe(each)}; allowed: {allowed}", param="prompt")
    return texts, prompts


def _fits(text: str, served: ServedModel, param: str) -> None:
    """Refuse a text that cannot fit the context before it is encoded, which takes seconds for megabytes."""
    least = -(-len(text.encode()) // served.max_token_bytes) if served.max_token_bytes else 0
    _refuse_long(least, served, param, " or more")


def _refuse_long(tokens: int, served: ServedModel, param: str, more: str = "") -> None:
    if tokens >= served.context_length:
        raise ApiError(
            f"got a prompt of {tokens:,}{more} tokens for a context of {served.context_length:,}; "
            f"allowed: at most {served.context_length - 1:,}; shorten it",
            param=param,
            code="context_length_exceeded",
        )


def _message(number: int, message: Any) -> chat.Message:
    place = f"messages[{number}]"
    if not isinstance(message, dict):
        raise ApiError(f"got {place} that is {_describe(message)}; allowed: an object with role and content; change it", param=place)
    for field, value in message.items():
        if field not in ("role", "content", "name") and value not in (None, [], {}):
            raise ApiError(f"got {place} with {field[:99]!r}; allowed: role, content and name; remove it", param=f"{place}.{field[:99]}")
    role, content, name = message.get("role"), message.get("content"), message.get("name")
    if not isinstance(role, str) or role not in ROLES:
        raise ApiError(f"got {place} without a known role; allowed: {', '.join(ROLES)}; change it", param=f"{place}.role")
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise ApiError(f"got {place} whose content is {_describe(content)}; allowed: text; change it", param=f"{place}.content")
    if not isinstance(name, str | None):
        raise ApiError(f"got {place} whose name is {_describe(name)}; allowed: text; change it", param=f"{place}.name")
    return chat.Message(role=ROLES[role], content=content, name=name)


def _is_text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _stop(body: Mapping[str, Any]) -> tuple[str, ...]:
    stop = body.get("stop")
    stop = [] if stop is None else [stop] if isinstance(stop, str) else stop
    valid = isinstance(stop, list) and len(stop) <= MAX_STOPS
    if not valid or not all(isinstance(each, str) and 0 < len(each) <= MAX_STOP_CHARACTERS for each in stop):
        allowed = f"a string or up to {MAX_STOPS}, each of 1 to {MAX_STOP_CHARACTERS} characters"
        raise ApiError(f"got stop that is {_describe(body['stop'])}; allowed: {allowed}; change it", param="stop")
    if (characters := sum(map(len, stop))) > 4 * MAX_STOP_CHARACTERS:
        allowed = f"at most {4 * MAX_STOP_CHARACTERS:,}; shorten them"
        raise ApiError(f"got stop strings of {characters:,} characters together; allowed: {allowed}", param="stop")
    return tuple(stop)


def _bias(body: Mapping[str, Any], served: ServedModel) -> tuple[tuple[int, float], ...]:
    """Parse `logit_bias`, whose names are ids in decimal digits; biases of 0 are left out."""
    given = body.get("logit_bias")
    given = {} if given is None else given
    if not isinstance(given, dict) or len(given) > MAX_BIASES:
        allowed = f"an object of at most {MAX_BIASES:,} ids, each with a number from -100 to 100; change it"
        raise ApiError(f"got logit_bias that is {_describe(given)}; allowed: {allowed}", param="logit_bias")
    for name in given:
        if not re.fullmatch("0|[1-9][0-9]{0,9}", name) or int(name) >= served.vocab_size:
            allowed = f"ids of the model's tokens, from 0 to {served.vocab_size - 1}, in digits; change it"
            raise ApiError(f"got logit_bias of {name[:99]!r}; allowed: {allowed}", param="logit_bias")
        if not _is_number(given[name]) or not -100 <= given[name] <= 100:
            raise ApiError(
                f"got logit_bias that is {_describe(given[name])}; allowed: a number from -100 to 100; change it", param="logit_bias"
            )
    return tuple((int(name), float(value)) for name, value in given.items() if value)


@overload
def _integer(body: Mapping[str, Any], name: str, default: int, least: int, most: int | None) -> int: ...


@overload
def _integer(body: Mapping[str, Any], name: str, default: None, least: int, most: int | None) -> int | None: ...


def _integer(body: Mapping[str, Any], name: str, default: int | None, least: int, most: int | None) -> int | None:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not _is_integer(value) or value < least or (most is not None and value > most):
        allowed = f"a whole number from {least}" + ("" if most is None else f" to {most}")
        raise ApiError(f"got {name} that is {_describe(value)}; allowed: {allowed}; change it", param=name)
    return value


def _number(body: Mapping[str, Any], name: str, default: float) -> float:
    value = body.get(name)
    if value is None:
        return default
    if not _is_number(value) or not abs(value) <= LARGEST_NUMBER:
        raise ApiError(f"got {name} that is {_describe(value)}; allowed: a number, at most 1e9; change it", param=name)
    return float(value)


def _boolean(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if not isinstance(value, bool | None):
        raise ApiError(f"got {name} that is {_describe(value)}; allowed: true or false; change it", param=name)
    return bool(value)


def _as_api_error(param: str | None, work: Callable[[], T]) -> T:
    """Turn a `UserError` into an `ApiError`; by default `param` is the word after `got`."""
    try:
        return work()
    except UserError as error:
        raise ApiError(str(error), param=param or str(error).split()[1]) from error


def _is_integer(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _describe(value: Any) -> str:
    """Describe a value in a few words."""
    if value is None or isinstance(value, bool | int | float):
        return str(json.dumps(value))[:40]
    return f"{ {str: 'a string', list: 'an array', dict: 'an object'}[type(value)] } of length {len(value):,}"
