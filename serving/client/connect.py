"""Choose the message format and the transport for an address; import only the library of its protocol."""

from __future__ import annotations

from typing import Any

from serving.client.calls import Calls
from serving.client.errors import invalid_argument
from serving.client.types import Tls

SCHEMES = ("grpc", "grpcs", "http", "https")


def connect(address: str, token: str | None, tls: Tls | None, retries: int, asynchronous: bool) -> tuple[Calls, Any]:
    """Return the client's methods as steps, and the transport that executes them.

    Raises: InvalidArgument for invalid arguments; OSError if a file of `tls` cannot be read.
    """
    scheme = address.partition("://")[0] if "://" in address else "grpc"
    if scheme not in SCHEMES:
        raise invalid_argument(
            f"'{address}' is not an address; it must be HOST:PORT or unix:PATH for gRPC, or start with "
            f"{':// or '.join(SCHEMES)}://"
        )
    if tls is not None and not scheme.endswith("s"):
        secure = "grpcs" if scheme == "grpc" else "https"
        raise invalid_argument(
            f"tls is set, but '{address}' does not use TLS; use {secure}://{address.rpartition('://')[2]}"
        )
    if token is not None and not (token.isascii() and token.isprintable() and token and " " not in token):
        raise invalid_argument("the token is invalid; it must be one word of printable ASCII characters")
    if retries < 0:
        raise invalid_argument(f"retries is {retries}; it must be 0 or more")
    transport: Any
    if scheme.startswith("http"):
        from serving.client.rest import RestFormat

        address = address.rstrip("/")
        if asynchronous:
            from serving.client.http_async import AsyncHttpTransport as transport
        else:
            from serving.client.http import HttpTransport as transport
        return Calls(RestFormat(address), retries), transport(address, token, tls)
    from serving.client.grpc import AsyncGrpcTransport, GrpcFormat, GrpcTransport

    transport = AsyncGrpcTransport if asynchronous else GrpcTransport
    return Calls(GrpcFormat(address), retries), transport(address, token, tls)
