"""Requests and answers of HTTP, as the server and those who answer hand them to each other."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import NamedTuple

Headers = dict[bytes, bytes]


class Request(NamedTuple):
    """One request; header names are lower case, `target` is as sent, `version` is that of HTTP, `secured`: by TLS."""

    method: str
    target: str
    headers: Headers
    body: bytes | bytearray
    peer: str
    version: str
    secured: bool


@dataclass(frozen=True)
class Reply:
    """An answer; a body that is an iterator is sent in chunks as they come."""

    status: int
    body: bytes | AsyncGenerator[bytes] = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
