"""JSON that takes a naive parser quadratic time."""

from __future__ import annotations

import json

import pytest
from survival_helpers import exchange, request_bytes


@pytest.mark.parametrize(
    ("start", "repeated", "end"),
    [
        (b'{"a": Inf, "', b'\\"', b""),
        (b'{"a": "Inf', b'\\"', b""),
        (b'{"a": "', b"\\u", b'"}'),
        (b'{"a": "', b"\\ud800", b'"}'),
        (b'{"a": ', b"9", b"}"),
        (b'{"a": 1', b"e9", b"}"),
        (b"", b"[", b""),
        (b"", b'{"a":', b""),
        (b"[", b"Inf,", b""),
        (b"[", b"1 ", b""),
        (b'{"instances": [', b"[1],", b"[2, 3]]}"),
        (b'{"instances": [', b'{"x":1},', b'{"x": "a"}]}'),
        (b'{"instances": [', b"1e999,", b"1]}"),
        (b'{"inputs": ', b'{"x":[' * 2, b"1"),
        (b'{"inputs": "', b"\xff", b'"}'),
        (b"", b" ", b"x"),
    ],
)
def test_texts_of_a_megabyte_are_refused_in_linear_time(server, start, repeated, end):
    """Quadratic time would take hours, without a reply to other clients."""
    count = 900_000 // len(repeated)
    status, _, answer = exchange(
        server, request_bytes("POST", "/v1/models/example:predict", start + repeated * count + end)
    )
    # Messages quote the bytes of the request unchanged.
    assert (status, json.loads(answer.decode("utf-8", "replace")).keys()) == (400, {"error"})
