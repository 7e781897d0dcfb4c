"""Who may ask, how much and how many at once; the same for gRPC and REST."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from serving.errors import StatusError, UsageError
from serving.protocol import MAX_MESSAGE_BYTES


class AdmissionControl:
    """Admits requests; touched by the thread of the event loop alone.

    Args: tokens, of which a request has to name one, or none for requests without; most_requests at once and
        most_bytes of a request, 0 = no limit but the protocol's.
    """

    def __init__(self, tokens: Iterable[str] = (), most_requests: int = 0, most_bytes: int = 0) -> None:
        self._tokens = [_digest(token) for token in tokens]
        self._most_requests = most_requests
        self.most_bytes = min(most_bytes or MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES)
        self.requests = 0

    def admitted(self) -> AbstractContextManager[None]:
        """Counts a request within the `with`; raises as `check_room` does."""
        self.check_room()
        return self.counted()

    def check_room(self) -> None:
        """RESOURCE_EXHAUSTED if there are as many requests as may be."""
        if self._most_requests and self.requests >= self._most_requests:
            raise StatusError(
                "RESOURCE_EXHAUSTED",
                f"{self.requests} requests are being answered, which is the most at once: try again a little later.",
            )

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Counts a request within the `with`, which has been admitted."""
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    @property
    def closed(self) -> bool:
        """Whether requests need a token."""
        return bool(self._tokens)

    def check_token(self, authorization: str | None) -> None:
        """Refuse what does not name a token. Takes equally long for every wrong token of any length."""
        if not self._tokens:
            return
        scheme, _, token = (authorization or "").partition(" ")
        given = _digest(token.strip())
        # All are compared, so that the time does not tell which one is like the given.
        matches = [hmac.compare_digest(given, known) for known in self._tokens]
        if scheme.lower() != "bearer" or not any(matches):
            raise StatusError("UNAUTHENTICATED", "This server needs a token: send `Authorization: Bearer TOKEN`.")


def read_tokens(path: str) -> list[str]:
    """The tokens of a file, one a line; empty lines and those that begin with # do not count."""
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--api_token_file={path} cannot be read ({reason}): give a file with a token a line."
        ) from None
    tokens = [line for line in lines if line and not line.startswith("#")]
    if not tokens:
        raise UsageError(f"--api_token_file={path} holds no token: write at least one, each on a line of its own.")
    return tokens


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
