"""HTTP requests and replies, passed between the server and its handler."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import NamedTuple

Headers = dict[bytes, bytes]


class Request(NamedTuple):
    """One request; header names are lower case, `target` is as sent, `version` is HTTP's, `secured`: over TLS."""

    method: str
    target: str
    headers: Headers
    body: bytes | bytearray
    peer: str
    version: str
    secured: bool


@dataclass(frozen=True)
class Reply:
    """A reply; a body that is a generator is sent chunk by chunk."""

    status: int
    body: bytes | AsyncGenerator[bytes] = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
