"""Limits of a REST body: its bytes, compressed or not, and its JSON values.

The JSON parser holds the GIL, so that no other thread runs, and creates an object for each value, which takes many
times the memory of its text. Values are therefore counted before parsing: counting commas is fast. Long strings, such
as images in base64, cost little more than their bytes.
"""

from __future__ import annotations

import zlib

from serving.errors import StatusError

# Decompression must not turn a small body into a large one.
MAX_INFLATED_BYTES, MAX_INFLATION = 100 * 1024 * 1024, 32
ALWAYS_INFLATED_BYTES = 4 * 1024 * 1024


class TooLarge(StatusError):
    """A request exceeds a limit of size, so that a retry would fail too."""

    def __init__(self, message: str) -> None:
        super().__init__("RESOURCE_EXHAUSTED", message)


def too_many_bytes(size: int, most: int) -> TooLarge:
    return TooLarge(
        f"Received message larger than max ({size} vs. {most}): send it in parts or over gRPC, or raise the server's "
        "--rest_api_max_request_bytes (up to its --max_request_bytes)."
    )


def check_values(body: bytes | bytearray, most: int) -> None:
    """Raise TooLarge for JSON of more than `most` values; lists and objects count like their elements."""
    if len(body) > most and _separators(body, 0, len(body)) > most and _has_more_values(body, most):
        raise TooLarge(
            f"The JSON has more than {most} values (numbers, strings, lists and objects count): send it in parts or "
            "over gRPC, or raise the server's --rest_api_max_values."
        )


def _separators(text: bytes | bytearray, start: int, end: int) -> int:
    """Count the values: each but the first of a list follows a comma. Such characters in strings count too."""
    return text.count(b",", start, end) + text.count(b"[", start, end) + text.count(b"{", start, end)


def _has_more_values(body: bytes | bytearray, most: int) -> bool:
    """Count like `_separators`, but only outside of strings."""
    text = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # every quotation mark left begins or ends a string
    values = strings = start = 0
    while start < len(text):
        quote = text.find(b'"', start)
        end = quote if quote >= 0 else len(text)
        values += _separators(text, start, end)
        strings += 1
        if values > most or strings > 2 * most + 1:  # more strings are not JSON, or names and values of an object
            return True
        closing = text.find(b'"', end + 1)
        start = closing + 1 if closing >= 0 else len(text)
    return False


def inflate(body: bytes | bytearray, most_bytes: int) -> bytes:
    """Return the decompressed gzip body; b"" for invalid gzip, which is refused as an empty document.

    Raises: TooLarge above `most_bytes`, or if the body grows too much.
    """
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, min(MAX_INFLATED_BYTES, most_bytes + 1))
    except zlib.error:
        return b""
    if len(inflated) > most_bytes:
        raise too_many_bytes(len(inflated), most_bytes)
    if len(inflated) > max(ALWAYS_INFLATED_BYTES, MAX_INFLATION * len(body)):
        raise TooLarge(
            f"The body of {len(body)} bytes unpacks to {len(inflated)}, which is more than {MAX_INFLATION} times as "
            "much: send it without Content-Encoding, or smaller parts."
        )
    return inflated if inflater.eof else b""
