"""Admission control for gRPC and REST: tokens, and limits of request size and concurrent requests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from serving.errors import StatusError, UsageError
from serving.protocol import MAX_MESSAGE_BYTES


class AdmissionControl:
    """Admits or rejects requests; used only in the thread of the event loop.

    Args:
        tokens: a request must send one of them; if empty, requests need no token.
        max_requests: limit of concurrent requests; 0: no limit.
        max_bytes: limit of a request's size; 0: only the limit of the protocol.
    """

    def __init__(self, tokens: Iterable[str] = (), max_requests: int = 0, max_bytes: int = 0) -> None:
        self._tokens = [_sha256(token) for token in tokens]
        self._max_requests = max_requests
        self.max_bytes = min(max_bytes or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES)
        self.requests = 0

    def admit(self) -> AbstractContextManager[None]:
        """Check the capacity, then count a request during the `with`."""
        self.check_capacity()
        return self.count_request()

    def check_capacity(self) -> None:
        """Raise RESOURCE_EXHAUSTED if the limit of concurrent requests is reached."""
        if self._max_requests and self.requests >= self._max_requests:
            raise StatusError(
                "RESOURCE_EXHAUSTED",
                f"{self.requests} requests are in flight, which is the limit of this server: try again later.",
            )

    @contextmanager
    def count_request(self) -> Iterator[None]:
        """Count a request during the `with`, without a check."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @property
    def requires_token(self) -> bool:
        """Return whether requests need a token."""
        return bool(self._tokens)

    def check_token(self, authorization: str | None) -> None:
        """Reject a request without a valid token. All wrong tokens take the same time, whatever their length."""
        if not self._tokens:
            return
        scheme, _, token = (authorization or "").partition(" ")
        digest = _sha256(token.strip())
        # Compare with all tokens, so that the time does not reveal which one matches.
        matches = [hmac.compare_digest(digest, expected) for expected in self._tokens]
        if scheme.lower() != "bearer" or not any(matches):
            raise StatusError("UNAUTHENTICATED", "This server requires a token: send `Authorization: Bearer TOKEN`.")


def read_tokens(path: str) -> list[str]:
    """Read the tokens from a file, one per line; skip empty lines and lines that begin with #."""
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--api_token_file={path} cannot be read ({reason}); it must be a file with one token per line."
        ) from None
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise UsageError(f"--api_token_file={path} has no token; it must contain at least one, one per line.")
    return tokens


def _sha256(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
