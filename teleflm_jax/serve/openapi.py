"""The server's OpenAPI 3.1 description: its routes, and the fields of bodies as `protocol` checks them."""

from collections.abc import Iterable, Mapping
from typing import Any

from teleflm_jax.generate import chat
from teleflm_jax.generate.request import LARGEST_SEED, MAX_LOGPROBS, SMALLEST_SEED
from teleflm_jax.generate.sampling import LARGEST, MAX_BIASES
from teleflm_jax.serve.protocol import (
    CHAT,
    COMPLETION,
    IGNORED_FIELDS,
    LARGEST_NUMBER,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    ROLES,
    UNSUPPORTED_FIELDS,
)
from teleflm_jax.serve.served_model import ServedModel

Schema = dict[str, Any]
ERRORS = {
    "400": "the request is wrong; the message says what is allowed",
    "401": "the server has a key that the request does not carry",
    "403": "the Host or the Origin belongs to another site",
    "404": "there is no such model",
    "408": "the body did not arrive in time",
    "413": "the body is too large",
    "415": "the content type is not JSON",
    "429": "the queue is full",
    "500": "the engine failed",
    "503": "the server is stopping, or has no room for the body",
}
TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": ["boolean", "null"]}
OBJECT: Schema = {"type": "object"}
EVENTS: Schema = {"description": "Server-sent events; the data of each is a chunk in JSON, and of the last `[DONE]`."}
"""Without a type, since some clients apply a stream's schema to each event, as OpenAPI 3.2 does, and others to the text."""


def describe(served: ServedModel, max_choices: int) -> Schema:
    """Return the description of a server.

    Args:
        served: the model.
        max_choices: most choices of a request.
    """
    fields = _fields(served, max_choices)
    bodies = {
        "completion": _body(fields | {"logprobs": _integer(0, MAX_LOGPROBS), "max_tokens": _integer(0)}, COMPLETION, ["model", "prompt"]),
        "conversation": _body(fields | {"logprobs": FLAG, "max_tokens": _integer(1)}, CHAT, ["model", "messages"]),
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "teleflm_jax", "version": "1", "description": "A language model behind OpenAI's interface."},
        "paths": {
            "/v1/completions": _post("completion", "The texts, or with `stream` events with pieces of them.", "TextCompletion"),
            "/v1/chat/completions": _post("conversation", "The answers, or with `stream` events with pieces of them.", "ChatCompletion"),
            "/v1/models": _get("The model.", _json("Models"), "401", "503"),
            "/v1/models/{name}": _get("The model.", _json("Model"), "401", "404", "503")
            | {"parameters": [{"name": "name", "in": "path", "required": True, "schema": {"const": served.name}}]},
            "/health": _get("Requests are answered.", _json("Health"))
            | {"summary": "Whether requests are answered; if not, 503 with the same body."},
            "/metrics": _get("Counters in Prometheus's format.", {"text/plain": {"schema": TEXT}}),
            "/openapi.json": _get("This description.", {"application/json": {"schema": OBJECT}}),
        },
        "components": {"schemas": bodies | RESPONSES, "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _fields(served: ServedModel, max_choices: int) -> Mapping[str, Schema]:
    """Return the schemas of fields; the caller adds those that differ between the routes."""
    prompt = [TEXT, {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": served.vocab_size - 1}}]
    stop = {"type": "string", "minLength": 1, "maxLength": MAX_STOP_CHARACTERS}
    return {
        "model": {"const": served.name},
        "prompt": {
            "anyOf": [{"type": "null"}, *prompt, {"type": "array", "minItems": 1, "maxItems": max_choices, "items": {"anyOf": prompt}}]
        },
        "messages": {"type": "array", "minItems": 1, "maxItems": served.context_length, "items": _message()},
        "chat_template_kwargs": {
            "type": ["object", "null"],
            "propertyNames": {"pattern": f"^(?!({'|'.join(chat.RESERVED_VARIABLES)})$)({chat.NAME.pattern})$"},
            "description": f"Variables of the chat template: at most {chat.MAX_VARIABLES:,} characters of JSON, without special tokens.",
        },
        "max_completion_tokens": _integer(1),
        "n": _integer(1, max_choices),
        "best_of": _integer(1, max_choices) | {"description": "As many as n."},
        "echo": FLAG,
        "stream": FLAG,
        "stream_options": {
            "type": ["object", "null"],
            "properties": {"include_usage": FLAG, "include_obfuscation": {}},
            "additionalProperties": False,
            "description": "With stream true.",
        },
        "stop": {"anyOf": [{"type": "null"}, stop, {"type": "array", "maxItems": MAX_STOPS, "items": stop}]},
        "seed": _integer(SMALLEST_SEED, LARGEST_SEED),
        "top_logprobs": _integer(0, MAX_LOGPROBS) | {"description": "With logprobs true."},
        "temperature": _number(0, LARGEST_NUMBER),
        "top_p": _number(0, 1),
        "top_k": _integer(-1, LARGEST) | {"description": "0 and -1: all."},
        "min_p": _number(0, 1),
        "presence_penalty": _number(-2, 2),
        "frequency_penalty": _number(-2, 2),
        "logit_bias": {
            "type": ["object", "null"],
            "maxProperties": MAX_BIASES,
            "propertyNames": {"pattern": "^(0|[1-9][0-9]{0,9})$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "description": "Ids of tokens.",
        },
        "repetition_penalty": _number(None, LARGEST_NUMBER) | {"exclusiveMinimum": 0},
    }


def _integer(least: int, most: int | None = None) -> Schema:
    return {"type": ["integer", "null"], "minimum": least} | ({} if most is None else {"maximum": most})


def _number(least: float | None, most: float) -> Schema:
    return {"type": ["number", "null"], "maximum": most} | ({} if least is None else {"minimum": least})


def _message() -> Schema:
    part = {"type": "object", "properties": {"type": {"const": "text"}, "text": TEXT}, "required": ["type", "text"]}
    fields = {
        "role": {"enum": list(ROLES)},
        "name": {"type": ["string", "null"]},
        "content": {"anyOf": [TEXT, {"type": "array", "items": part}]},
    }
    return {"type": "object", "properties": fields, "required": ["role", "content"], "additionalProperties": {"enum": [None, [], {}]}}


def _body(fields: Mapping[str, Schema], known: Iterable[str], required: list[str]) -> Schema:
    properties = {name: fields[name] for name in known}
    properties |= {name: {"enum": [None, *values], "description": "Not supported."} for name, values in UNSUPPORTED_FIELDS.items()}
    properties |= {name: {"description": "Has no effect."} for name in IGNORED_FIELDS}
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _post(body: str, description: str, answer: str) -> Schema:
    content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body}"}}}
    success = {"description": description, "content": _json(answer) | {"text/event-stream": {"schema": EVENTS}}}
    operation = {
        "operationId": body,
        "requestBody": {"required": True, "content": content},
        "responses": {"200": success} | _errors(*ERRORS),
    }
    return {"post": operation | {"security": [{"key": []}, {}]}}


def _get(description: str, content: Schema, *errors: str) -> Schema:
    return {"get": {"responses": {"200": {"description": description, "content": content}} | _errors("403", *errors)}}


def _errors(*codes: str) -> Schema:
    return {code: {"description": ERRORS[code], "content": _json("Error")} for code in codes}


def _json(name: str) -> Schema:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _object(fields: Schema, *optional: str) -> Schema:
    """Return the schema of an object with exactly these fields."""
    required = [name for name in fields if name not in optional]
    return {"type": "object", "properties": fields, "required": required, "additionalProperties": False}


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


_FINISH = {"enum": ["stop", "length"]}
_USAGE = _object({name: COUNT for name in ("prompt_tokens", "completion_tokens", "total_tokens")})
_TOKEN = {"token": TEXT, "logprob": {"type": "number"}, "bytes": _or_null(_array({"type": "integer", "minimum": 0, "maximum": 255}))}
_CHAT_LOGPROBS = _object({"content": _array(_object(_TOKEN | {"top_logprobs": _array(_object(_TOKEN))})), "refusal": {"type": "null"}})
_LOGPROBS = _object(
    {
        "tokens": _array(TEXT),
        "token_logprobs": _array({"type": ["number", "null"]}),
        "top_logprobs": _array(_or_null({"type": "object", "additionalProperties": {"type": "number"}})),
        "text_offset": _array(COUNT),
    }
)
_MESSAGE = _object({"role": {"const": "assistant"}, "content": TEXT, "refusal": {"type": "null"}})


def _answer(kind: str, content: Schema, logprobs: Schema) -> Schema:
    choice = _object({"index": COUNT, **content, "logprobs": _or_null(logprobs), "finish_reason": _FINISH})
    return _object({"id": TEXT, "created": COUNT, "model": TEXT, "object": {"const": kind}, "choices": _array(choice), "usage": _USAGE})


_MODEL = _object({"id": TEXT, "object": {"const": "model"}, "created": COUNT, "owned_by": TEXT, "max_model_len": COUNT})
RESPONSES: Schema = {
    "TextCompletion": _answer("text_completion", {"text": TEXT}, _LOGPROBS),
    "ChatCompletion": _answer("chat.completion", {"message": _MESSAGE}, _CHAT_LOGPROBS),
    "Model": _MODEL,
    "Models": _object({"object": {"const": "list"}, "data": _array(_MODEL)}),
    "Health": _object(
        {
            "status": {"enum": ["ok", "stopping", "broken"]},
            "texts": COUNT,
            "engine_failures": COUNT,
            "last_failure": {"type": ["string", "null"]},
        }
    ),
    "Error": _object(
        {"error": _object({"message": TEXT, "type": TEXT, "param": {"type": ["string", "null"]}, "code": {"type": ["string", "null"]}})}
    ),
}
