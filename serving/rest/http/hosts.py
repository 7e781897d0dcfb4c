"""Determine the host of a request (RFC 9112, section 3.2), and check that it is allowed.

A web page can resolve its own host name to an address of this machine (DNS rebinding). The browser then treats the
server as part of the page's site and lets the page read its replies, but it still sends the page's host name.
"""

from __future__ import annotations

import re

from serving.errors import StatusError, invalid_argument
from serving.rest.http.messages import Request
from serving.settings.hosts import HOST_NAME, is_ipv6, normalize_host

AUTHORITY = re.compile(rf"(?:\[([^]]*)\]|({HOST_NAME.pattern}))(?::[0-9]*)?")
ABSOLUTE_FORM = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


class Misdirected(StatusError):
    """A request is for a host or a scheme that this server does not serve (RFC 9110, section 7.4)."""

    def __init__(self, message: str) -> None:
        super().__init__("PERMISSION_DENIED", message)


def resolve(request: Request, allowed: frozenset[str] | None) -> Request:
    """Return the request with its target as path and query (or *), without scheme and host.

    Raises: INVALID_ARGUMENT for an invalid target or Host; Misdirected for a host that is not allowed.
    """
    target, header = request.target, request.headers.get(b"host")
    if header is None and request.version >= "1.1":
        raise invalid_argument("The request has no Host header: HTTP/1.1 needs one.")
    host = None if header is None else _host_of(header.decode("latin-1"))
    if match := ABSOLUTE_FORM.fullmatch(target):
        scheme, authority, target = match.groups()
        host = _host_of(authority)  # replaces the Host header
        if not host:
            raise invalid_argument(f"Malformed request: {request.method} {request.target}")
        if scheme.lower() == "https" and not request.secured:
            raise Misdirected("The request is for https, but this port does not use TLS: send it to http.")
        if not target.startswith("/"):
            target = "*" if request.method == "OPTIONS" and not target else f"/{target}"
    elif (request.method, target) != ("OPTIONS", "*") and (request.method == "CONNECT" or not target.startswith("/")):
        raise invalid_argument(f"Malformed request: {request.method} {target}")
    # Only HTTP/1.0 allows requests without a host: load balancers send them, browsers do not.
    if allowed is not None and host is not None and host not in allowed:
        raise Misdirected(
            f"The host '{host}' is not allowed: use an allowed host, or start the server with this one in "
            "--rest_api_allowed_hosts."
        )
    return request._replace(target=target)


def _host_of(authority: str) -> str:
    """Return the host of HOST or HOST:PORT. Several Host headers arrive joined and are refused."""
    match = AUTHORITY.fullmatch(authority.strip(" \t"))
    if match is None or (match[1] and not is_ipv6(match[1])):
        raise invalid_argument(f"The host of the request is {authority!r}; it must be one host name or address.")
    return normalize_host(match[1] or match[2])
