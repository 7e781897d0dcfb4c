"""Large JSON: whatever a server takes with its default limits, others are answered, and memory stays within a bound."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator

import pytest
from serving_helpers import Server, Store
from survival_helpers import (
    ANSWER_SECONDS,
    MOST_BLOCKED,
    MOST_MEMORY,
    Watched,
    assert_answers,
    assert_clean_log,
    attempt,
    connect,
    publish,
    read_answer,
    request_bytes,
    running,
)

from serving.settings.flags import Flags

MOST_BYTES, MOST_VALUES = Flags.rest_api_max_request_bytes, Flags.rest_api_max_values
MEBIBYTE = 1 << 20


@pytest.fixture(scope="module")
def server(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("json")
    publish(store, models)
    with running(models, "--rest_api_extensions") as server:
        assert_answers(server)
        yield server
        assert_clean_log(server)


def body(signature: str, values: bytes, form: bytes = b"inputs") -> bytes:
    return b'{"signature_name": "%s", "%s": %s}' % (signature.encode(), form, values)


def repeated(value: bytes, values: int = 1, last: bytes = b"") -> bytes:
    """A list of as many of `value`, of so many values each, as a request may have, and a last one."""
    count = (MOST_VALUES - 10) // values
    return b"[" + b",".join([value] * count + [last or value]) + b"]"


def text(start: bytes, filling: bytes) -> bytes:
    """A string as long as a request may have it."""
    return b'["' + start + filling * ((MOST_BYTES - 200) // len(filling)) + b'"]'


EMOJI = "😀".encode()
TAKEN = {
    "numbers": body("total", repeated(b"0.12345678")),
    "numbers, as many back": body("serving_default", repeated(b"0.12345678"), b"instances"),
    "lists": body("matrix", repeated(b"[1.5,2.5]", 3)),
    "a string": body("check", text(b"", b"a")),
    "a string of four bytes a character": body("check", text(EMOJI, b"a")),
    "a string of escapes": body("check", text(b"", b"\\n")),
    "a string of commas": body("check", text(b"", b",")),
    "strings": body("check", repeated(b'"\xc3\xa9\xe2\x82\xac"')),
    "an image": body("check", b'[{"b64": "%s"}]' % base64.b64encode(bytes(MOST_BYTES * 3 // 4 - 200))),
    "strings of base64": body("check", repeated(b'{"b64": "YWE="}', 2)),
    "empty lists": body("serving_default", repeated(b"[]", 2)),
    "examples": b'{"signature_name": "classify", "examples": %s}' % repeated(b'{"x": [1.0, 2.0]}', 4),
}
REFUSED = {
    "wrong lists": body("matrix", repeated(b"[1]", 2, b"[1,2]"), b"instances"),
    "objects": body("serving_default", b"[" + b",".join(b'{"%d":"%d"}' % (n, n) for n in range(499_990)) + b"]"),
    "members": body("serving_default", b"{" + b",".join(b'"name%d":1' % n for n in range(999_990)) + b"}"),
    "numbers that JSON does not have": body("total", repeated(b"NaN", last=b"1e999")),
    "a string that is not text": body("total", text(EMOJI + b"\xff", b"a")),
    "a string of escapes that is not text": body("total", text(EMOJI + b"\xff", b"\\n")),
    "a string without end": body("total", b'[1, "' + b"a" * (MOST_BYTES - 200)),
    "strings without commas": body("total", b'""' * (MOST_BYTES // 2 - 200)),
}
TOO_LARGE = {
    "a body": body("total", b"[" + b"1," * (32 * MEBIBYTE) + b"1]"),
    "numbers": body("total", b"[" + b"1," * (MOST_BYTES // 2 - 100) + b"1]"),
    "lists": body("total", b"[" + b"[1]," * (MOST_BYTES // 4 - 100) + b"1]"),
    "nested lists": body("total", b"[" * (MOST_BYTES - 200)),
    "objects": body("total", b"[" + b"{}," * (MOST_BYTES // 3 - 100) + b"1]"),
    "one value too many": body("total", b"[" + b"1," * (MOST_VALUES - 2) + b"1]"),
}
VERBS = {"examples": "classify"}


@pytest.fixture(scope="module")
def watched(server: Server) -> Watched:
    return Watched(server.process.pid, server.rest, "example")


@pytest.fixture(scope="module")
def at_rest(watched: Watched) -> int:
    """Bytes that the server has before the first of the tests."""
    return watched.resident()


def post(server: Server, name: str, data: bytes, *headers: str) -> tuple[int, bytes]:
    request = request_bytes("POST", f"/v1/models/example:{VERBS.get(name, 'predict')}", data, *headers)
    with connect(server) as connection:
        connection.settimeout(2 * ANSWER_SECONDS)
        connection.sendall(request)
        status, _, answer = read_answer(connection)
    return status, answer


@pytest.fixture
def check(server: Server, watched: Watched, at_rest: int) -> Callable[..., tuple[int, bytes]]:
    """check(name, body, *headers) -> status and body of the answer; within the bounds."""

    def check(name: str, data: bytes, *headers: str) -> tuple[int, bytes]:
        answers = []

        def send() -> int:
            answers.append(post(server, name, data, *headers))
            return answers[-1][0]

        watched.forget_peak()
        _, blocked = attempt(watched, send)
        memory = watched.peak() - at_rest
        left = (watched.resident() - at_rest) / MEBIBYTE
        print(f"{name}: {blocked:.2f} s, {memory / MEBIBYTE:.0f} MiB, then {left:.0f}")
        assert blocked <= MOST_BLOCKED
        assert memory <= MOST_MEMORY
        return answers[-1]

    return check


@pytest.mark.parametrize("name", TAKEN)
def test_the_largest_that_is_taken(check, name):
    status, answer = check(name, TAKEN[name])
    assert status == 200, answer[:1000]


@pytest.mark.parametrize("name", REFUSED)
def test_the_largest_that_is_wrong(check, name):
    status, answer = check(name, REFUSED[name])
    assert status == 400, answer[:1000]


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_is_told_how_to_go_on(check, name):
    status, answer = check(name, TOO_LARGE[name])
    assert (status, "send it in parts or over gRPC" in json.loads(answer)["error"]) == (413, True)


@pytest.mark.parametrize("name", TOO_LARGE)
def test_what_is_too_large_may_not_come_packed(check, name):
    status, answer = check(name, gzip.compress(TOO_LARGE[name]), "Content-Encoding: gzip")
    message = json.loads(answer)["error"]
    assert (status, "over gRPC" in message or "more than 32 times as much" in message) == (413, True)
