"""Admission by Host, Origin, content type and key."""

import http.client

import pytest

from teleflm_jax.serve import access
from teleflm_jax.serve.access import AccessPolicy
from tests.serve import servers
from tests.serve.refusals_test import RIGHT, send


def stranger(settings, **headers):
    """The code of the refusal of a request with such headers; None: it is let in."""
    try:
        access.check_host_and_origin(settings, headers)
    except access.ApiError as refusal:
        assert refusal.status == 403
        return refusal.code
    return None


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:8000", "127.0.0.1", "127.0.0.1:80", "[::1]:8000", "[::1]", "192.168.1.5:8000", "box", "Box:8000", None],
)
def test_addresses_and_own_names_are_answered(host):
    assert stranger(AccessPolicy(names=("box",)), **({} if host is None else {"host": host})) is None


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "a@localhost", "localhost@a", "", "x:y:z"]
    + ["[evil]", "localhost/", "localhost?", "127.1", "2130706433"],
)
def test_other_names_are_refused_without_a_key_and_answered_with_one(host):
    assert stranger(AccessPolicy(names=("box",)), host=host) == "host_not_allowed"
    assert stranger(AccessPolicy(names=("box",), key="k"), host=host) is None


@pytest.mark.parametrize(
    "host, origin, right",
    [
        ("localhost:8000", "http://localhost:8000", True),
        ("localhost", "http://localhost:80", True),
        ("[::1]:8000", "http://[::1]:8000", True),
        ("localhost:8000", "https://good.example", True),
        ("localhost:8000", "HTTPS://GOOD.example", True),
        ("localhost:8000", "http://good.example", False),
        ("localhost:8000", "https://good.example.evil.example", False),
        ("localhost:8000", "https://good.example:444", False),
        ("localhost:8000", "http://localhost:3000", False),
        ("localhost:8000", "http://127.0.0.1:8000", False),
        ("localhost:8000", "null", False),
        ("localhost:8000", "", False),
        ("localhost:8000", "file://", False),
    ],
)
def test_pages_of_other_origins_are_refused_unless_allowed(host, origin, right):
    for key in (None, "k"):
        wanted = None if right else "origin_not_allowed"
        assert stranger(AccessPolicy(key=key, origins=("https://good.example",)), host=host, origin=origin) == wanted
        assert stranger(AccessPolicy(key=key, origins=("*",)), host=host, origin=origin) is None


def test_a_rebound_name_and_another_sites_page_reach_no_route(by_hand):
    for path in ("/health", "/metrics", "/v1/models", "/v1/completions"):
        method, body = ("POST", RIGHT) if path == "/v1/completions" else ("GET", None)
        assert send(by_hand, body, path, method, Host="evil.example:8000", Origin="http://evil.example:8000")[0] == 403
        status, headers, told = send(by_hand, body, path, method, Origin="http://evil.example")
        assert status == 403 and told["error"]["code"] == "origin_not_allowed" and "Access-Control-Allow-Origin" not in headers
    assert by_hand.engine.idle and send(by_hand, None, "/v1/models", "OPTIONS", Origin="http://evil.example")[0] == 403


@pytest.mark.parametrize(
    "given", ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", "", "text/plain; a=application/json"]
)
def test_bodies_of_another_type_are_refused(by_hand, given):
    status, _, told = send(by_hand, RIGHT, **{"Content-Type": given})
    assert status == 415 and told["error"]["code"] == "unsupported_content_type" and by_hand.engine.idle


@pytest.mark.parametrize("given", ["application/json; charset=utf-8", "Application/JSON ;x=y", "application/json"])
def test_json_is_known_in_all_its_spellings(by_hand, given):
    by_hand.engine.orders.put("step")
    assert send(by_hand, RIGHT, **{"Content-Type": given})[0] == 200


@pytest.mark.parametrize("path", ["/v1/models/", "/health/", "/v1/completions/", "/v1//models", "/"])
def test_no_path_is_redirected(by_hand, path):
    status, headers, told = send(by_hand, None, path, "GET", Host="localhost")
    assert status == 404 and "Location" not in headers and told["error"]["type"] == "invalid_request_error"


def test_a_key_is_read_as_http_allows_it(served):
    with servers.running(served, servers.ByHand, slots=1, key="sesame") as running:
        for right in ("Bearer sesame", "bearer sesame", "BEARER  sesame", " Bearer sesame "):
            assert send(running, None, "/v1/models", "GET", Authorization=right)[0] == 200
        for wrong in (
            "Bearer",
            "Bearer ",
            "sesame",
            "Basic sesame",
            "Bearersesame",
            "Bearer Sesame",
            "Bearer sesame x",
            "Bearer s\xe9",
        ):
            status, headers, _ = send(running, None, "/v1/models", "GET", Authorization=wrong)
            assert status == 401 and headers["WWW-Authenticate"] == "Bearer"


def test_pages_of_allowed_origins_are_answered_with_and_without_a_key(served):
    page = "https://page.example"
    asked = {
        "Origin": page,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
    }
    for key in (None, "sesame"):
        engine = servers.ByHand()
        with servers.running(served, lambda engine=engine: engine, slots=1, key=key, origins=(page,)) as running:
            status, headers = preflight(running, asked)
            assert status == 200 and headers["Access-Control-Allow-Origin"] == page and "POST" in headers["Access-Control-Allow-Methods"]
            assert {"authorization", "content-type", "x-stainless-os"} <= set(
                headers["Access-Control-Allow-Headers"].lower().replace(" ", "").split(",")
            )
            assert "Access-Control-Allow-Credentials" not in headers
            assert preflight(running, asked | {"Origin": "https://other.example"})[0] == 403
            engine.orders.put("step")
            bearer = {} if key is None else {"Authorization": f"Bearer {key}"}
            status, headers, _ = send(running, RIGHT, Origin=page, **bearer)
            assert status == 200 and headers["Access-Control-Allow-Origin"] == page and headers["Vary"] == "Origin"
            assert headers["Access-Control-Expose-Headers"] == "Retry-After"
            status, headers, _ = send(running, b"{", Origin=page)
            assert status == (400 if key is None else 401) and headers["Access-Control-Allow-Origin"] == page


def preflight(running, headers):
    connection = http.client.HTTPConnection(running.url.removeprefix("http://"), timeout=servers.SECONDS)
    connection.request("OPTIONS", "/v1/chat/completions", headers=headers)
    with connection.getresponse() as response:
        response.read()
        found = response.status, response.headers
    connection.close()
    return found


def test_metrics_have_a_label_for_each_route_and_one_for_all_else(by_hand):
    for path in ("/a", "/b/c", "/v1/models/x", "/v1/models/y/z", "/v1/completions/"):
        send(by_hand, None, path, "GET")
    send(by_hand, RIGHT | {"max_tokens": -1})
    servers.until(lambda: by_hand.service.metrics.requests.labels("/v1/completions", 400)._value.get() == 1)
    text = by_hand.service.metrics.text().decode()
    rows = {
        line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith("teleflm_requests_total")
    }
    assert rows == {
        'teleflm_requests_total{route="other",status="404"}': 3,
        'teleflm_requests_total{route="/v1/models/{name}",status="404"}': 2,
        'teleflm_requests_total{route="/v1/completions",status="400"}': 1,
    }
