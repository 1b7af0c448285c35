"""The server's own description tells what `protocol` does."""

import pytest

from teleflm_jax.serve import openapi, protocol
from tests.serve.refusals_test import RIGHT, TALK, send

MAX_CHOICES = 4


@pytest.fixture(scope="module")
def described(served):
    return openapi.describe(served, MAX_CHOICES)


def test_the_fields_are_those_that_are_read(described):
    for name, fields in (("completion", protocol.COMPLETION), ("conversation", protocol.CHAT)):
        schema = described["components"]["schemas"][name]
        assert schema["properties"].keys() == {*fields, *protocol.UNSUPPORTED_FIELDS, *protocol.IGNORED_FIELDS}
        assert schema["additionalProperties"] is False


def test_the_server_gives_its_description(by_hand, described):
    assert send(by_hand, None, "/openapi.json", "GET")[::2] == (200, described)
    routes = [path for path in described["paths"]]
    for path in routes:
        method, other = ("POST", "GET") if "post" in described["paths"][path] else ("GET", "POST")
        assert send(by_hand, b"{}", path.replace("{name}", "tiny"), method)[0] in (200, 400) if path != "/metrics" else True
        assert send(by_hand, None, path.replace("{name}", "tiny"), other)[0] == 405


@pytest.mark.parametrize(
    "name, body, read", [("completion", RIGHT, protocol.parse_completion), ("conversation", TALK, protocol.parse_chat)]
)
def test_the_bounds_are_those_that_are_checked(served, described, name, body, read):
    """At each bound a number is taken, and beyond it refused."""
    with_others = {"best_of": {"n": lambda value: value}, "top_logprobs": {"logprobs": lambda _: True}}

    def accepted(field, value):
        others = {other: of(value) for other, of in with_others.get(field, {}).items()}
        try:
            read(body | {field: value} | others, served, max_choices=MAX_CHOICES)
        except protocol.ApiError as refusal:
            assert refusal.param in (field, "n")
            return False
        return True

    checked = 0
    for field, schema in described["components"]["schemas"][name]["properties"].items():
        step = 1 if "integer" in schema.get("type", ()) else 1e-3
        for bound, sign in (("minimum", -1), ("maximum", 1)):
            if bound in schema:
                beyond = schema[bound] + sign * max(step, abs(schema[bound]) * 1e-9 if step < 1 else 0)
                assert accepted(field, schema[bound]) and not accepted(field, beyond), (field, bound)
                checked += 1
        if "exclusiveMinimum" in schema:
            assert accepted(field, schema["exclusiveMinimum"] + 1e-3) and not accepted(field, schema["exclusiveMinimum"]), field
            checked += 1
        if "type" in schema and "null" in schema["type"] and field not in ("top_logprobs", "best_of"):
            assert accepted(field, None), field
        wrong = {"no such": 1} if field == "chat_template_kwargs" else {"no": "such"}
        assert field in protocol.IGNORED_FIELDS or not accepted(field, wrong), field
    assert checked >= 15
