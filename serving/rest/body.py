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
    """A request exceeds a size limit, so a retry would fail too."""

    def __init__(self, message: str) -> None:
        super().__init__("RESOURCE_EXHAUSTED", message)


def too_many_bytes(size: int, max_bytes: int) -> TooLarge:
    return TooLarge(
        f"Received message larger than max ({size} vs. {max_bytes}): send it in parts or over gRPC, or raise the "
        "server's --rest_api_max_request_bytes (up to its --max_request_bytes)."
    )


def check_values(body: bytes | bytearray, max_values: int) -> None:
    """Raise TooLarge for JSON of more than `max_values` values; lists and objects count like their elements."""
    if len(body) > max_values and _separators(body, 0, len(body)) > max_values and _has_more_values(body, max_values):
        raise TooLarge(
            f"The JSON has more than {max_values} values (numbers, strings, lists and objects count): send it in parts "
            "or over gRPC, or raise the server's --rest_api_max_values."
        )


def _separators(text: bytes | bytearray, start: int, end: int) -> int:
    """Count the values: each but the first of a list follows a comma. Separators in strings count too."""
    return text.count(b",", start, end) + text.count(b"[", start, end) + text.count(b"{", start, end)


def _has_more_values(body: bytes | bytearray, max_values: int) -> bool:
    """Return whether there are more than `max_values`; count like `_separators`, but only outside of strings."""
    text = body.replace(b"\\\\", b"").replace(b'\\"', b"")  # every quotation mark left begins or ends a string
    values = strings = start = 0
    while start < len(text):
        quote = text.find(b'"', start)
        end = quote if quote >= 0 else len(text)
        values += _separators(text, start, end)
        strings += 1
        # An object has a name and a value in strings; more strings are not valid JSON.
        if values > max_values or strings > 2 * max_values + 1:
            return True
        closing = text.find(b'"', end + 1)
        start = closing + 1 if closing >= 0 else len(text)
    return False


def inflate(body: bytes | bytearray, max_bytes: int) -> bytes:
    """Return the decompressed gzip body; b"" for invalid gzip, which is refused as an empty document.

    Raises: TooLarge above `max_bytes`, or if the body grows too much.
    """
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(body, min(MAX_INFLATED_BYTES, max_bytes + 1))
    except zlib.error:
        return b""
    if len(inflated) > max_bytes:
        raise too_many_bytes(len(inflated), max_bytes)
    if len(inflated) > max(ALWAYS_INFLATED_BYTES, MAX_INFLATION * len(body)):
        raise TooLarge(
            f"The body of {len(body)} bytes decompresses to {len(inflated)}, which is more than {MAX_INFLATION} "
            "times as much: send it without Content-Encoding or in smaller parts."
        )
    return inflated if inflater.eof else b""
