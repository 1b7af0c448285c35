"""Admission of requests by key, Host, Origin and content type.

A page of another site, opened in a browser on a machine that reaches the server, can send requests to it. A name that its owner points at
the server's address (DNS rebinding) makes them requests to the page's own origin, so without a key only names that no stranger owns are
answered; and requests of pages of other origins are refused unless the origin is allowed.
"""

import dataclasses
import hmac
import ipaddress
import re
from collections.abc import Mapping

from teleflm_jax.serve.config import ANY
from teleflm_jax.serve.protocol import Refusal

JSON = "application/json"
DEFAULT_PORT = re.compile(r":(?:80|443)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Gate:
    """The keys, names and origins that a server lets in."""

    key: str | None = None
    """The key that requests to /v1 must bear; None: none."""
    names: tuple[str, ...] = ()
    """Names of the server, beside its addresses and `localhost`."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may send requests; `*`: all."""


def headers(scope: Mapping) -> dict[str, str]:
    """Return a request's headers, the last of each name."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def refuse_stranger(gate: Gate, found: Mapping[str, str]) -> None:
    """Raise a `Refusal` where Host or Origin is that of another site."""
    host, origin = found.get("host"), found.get("origin")
    if gate.key is None and host is not None and not _is_own(_name(host), gate.names):
        raise Refusal(
            f"got the Host {host[:99]!r}; allowed: an address, localhost, or the name of --host; change the URL, or set a key",
            status=403,
            code="host_not_allowed",
        )
    if origin is not None and not ({ANY, origin.lower()} & set(gate.origins)) and _without_port(origin) != _without_port(f"//{host}"):
        raise Refusal(
            f"got a request of a page of {origin[:99]!r}; allowed: the server's own origin and those of --allowed_origins; add it there",
            status=403,
            code="origin_not_allowed",
        )


def refuse_keyless(gate: Gate, found: Mapping[str, str]) -> None:
    """Raise a `Refusal` where the server has a key that the request does not bear."""
    if gate.key is None:
        return
    scheme, _, given = found.get("authorization", "").strip().partition(" ")
    right = hmac.compare_digest(given.strip().encode("latin-1"), gate.key.encode())
    if scheme.lower() != "bearer" or not right:
        raise Refusal(
            "got no valid key; allowed: the server's, as `Authorization: Bearer KEY`; change it", status=401, code="invalid_api_key"
        )


def refuse_type(found: Mapping[str, str]) -> None:
    """Raise a `Refusal` where a body is not said to be JSON: pages of other sites may send all else without asking the server first."""
    given = found.get("content-type")
    if given is None or given.partition(";")[0].strip().lower() != JSON:
        told = "no Content-Type" if given is None else f"the Content-Type {given[:99]!r}"
        raise Refusal(f"got {told}; allowed: {JSON}; change the header", status=415, code="unsupported_content_type")


def _name(host: str) -> str:
    """Return a Host's name without its port."""
    name = host.lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


def _is_own(name: str, names: tuple[str, ...]) -> bool:
    if name in ("localhost", *names):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _without_port(origin: str) -> str:
    """Return what is after an origin's scheme, without a port that a scheme implies."""
    return DEFAULT_PORT.sub("", origin.lower().partition("//")[2])
