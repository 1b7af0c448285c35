"""Access control by key, Host, Origin and content type.

A page of another site, opened in a browser on a machine that reaches the server, can send requests to it. If the owner of a name points it
at the server's address (DNS rebinding), they are requests to the page's own origin. Without a key, the server therefore answers only names
that no stranger can own, and it refuses requests from pages of other origins unless the origin is allowed.
"""

import dataclasses
import hmac
import ipaddress
import re
from collections.abc import Mapping

from teleflm_jax.serve.config import ANY
from teleflm_jax.serve.protocol import ApiError

JSON = "application/json"
DEFAULT_PORT = re.compile(r":(?:80|443)$")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AccessPolicy:
    """Key, names and origins that a server accepts."""

    key: str | None = None
    """Key that requests to /v1 must carry; None: no key."""
    names: tuple[str, ...] = ()
    """Names of the server besides its addresses and `localhost`."""
    origins: tuple[str, ...] = ()
    """Origins whose pages may send requests; `*`: all."""


def headers(scope: Mapping) -> dict[str, str]:
    """Return a request's headers; the last of each name counts."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def check_host_and_origin(policy: AccessPolicy, fields: Mapping[str, str]) -> None:
    """Raise an `ApiError` if Host or Origin belongs to another site."""
    host, origin = fields.get("host"), fields.get("origin")
    if policy.key is None and host is not None and not _is_own(_name(host), policy.names):
        raise ApiError(
            f"got the Host {host[:99]!r}; allowed: an address, localhost, or the name of --host; change the URL, or set a key",
            status=403,
            code="host_not_allowed",
        )
    if origin is not None and not ({ANY, origin.lower()} & set(policy.origins)) and _without_port(origin) != _without_port(f"//{host}"):
        raise ApiError(
            f"got a request from a page of {origin[:99]!r}; allowed: the server's own origin and those of --allowed_origins; add it there",
            status=403,
            code="origin_not_allowed",
        )


def check_key(policy: AccessPolicy, fields: Mapping[str, str]) -> None:
    """Raise an `ApiError` if the server has a key that the request does not carry."""
    if policy.key is None:
        return
    scheme, _, given = fields.get("authorization", "").strip().partition(" ")
    valid = hmac.compare_digest(given.strip().encode("latin-1"), policy.key.encode())
    if scheme.lower() != "bearer" or not valid:
        raise ApiError(
            "got no valid key; allowed: the server's, as `Authorization: Bearer KEY`; change it", status=401, code="invalid_api_key"
        )


def check_content_type(fields: Mapping[str, str]) -> None:
    """Raise an `ApiError` if the content type is not JSON: pages of other sites may send all others without a preflight request."""
    given = fields.get("content-type")
    if given is None or given.partition(";")[0].strip().lower() != JSON:
        shown = "no Content-Type" if given is None else f"the Content-Type {given[:99]!r}"
        raise ApiError(f"got {shown}; allowed: {JSON}; change the header", status=415, code="unsupported_content_type")


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
    """Return an origin without its scheme and without a default port."""
    return DEFAULT_PORT.sub("", origin.lower().partition("//")[2])
