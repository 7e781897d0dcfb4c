"""Large JSON at the default limits: other clients are still answered, and memory stays bounded."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterator

import pytest
from serving_helpers import Server, Store
from survival_helpers import (
    ANSWER_SECONDS,
    MAX_BLOCKED_SECONDS,
    MAX_MEMORY_BYTES,
    ServerMonitor,
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

MAX_BYTES, MAX_VALUES = Flags.rest_api_max_request_bytes, Flags.rest_api_max_values
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
    """Return the longest allowed list of `value`, which counts as `values` values each; `last` replaces the last."""
    count = (MAX_VALUES - 10) // values
    return b"[" + b",".join([value] * count + [last or value]) + b"]"


def text(start: bytes, filling: bytes) -> bytes:
    """Return a list of one string of the largest allowed length."""
    return b'["' + start + filling * ((MAX_BYTES - 200) // len(filling)) + b'"]'


EMOJI = "😀".encode()
ACCEPTED = {
    "numbers": body("total", repeated(b"0.12345678")),
    "numbers in the response too": body("serving_default", repeated(b"0.12345678"), b"instances"),
    "lists": body("matrix", repeated(b"[1.5,2.5]", 3)),
    "a string": body("check", text(b"", b"a")),
    "a string of four bytes a character": body("check", text(EMOJI, b"a")),
    "a string of escapes": body("check", text(b"", b"\\n")),
    "a string of commas": body("check", text(b"", b",")),
    "strings": body("check", repeated(b'"\xc3\xa9\xe2\x82\xac"')),
    "an image": body("check", b'[{"b64": "%s"}]' % base64.b64encode(bytes(MAX_BYTES * 3 // 4 - 200))),
    "strings of base64": body("check", repeated(b'{"b64": "YWE="}', 2)),
    "empty lists": body("serving_default", repeated(b"[]", 2)),
    "examples": b'{"signature_name": "classify", "examples": %s}' % repeated(b'{"x": [1.0, 2.0]}', 4),
}
INVALID = {
    "wrong lists": body("matrix", repeated(b"[1]", 2, b"[1,2]"), b"instances"),
    "objects": body("serving_default", b"[" + b",".join(b'{"%d":"%d"}' % (n, n) for n in range(499_990)) + b"]"),
    "members": body("serving_default", b"{" + b",".join(b'"name%d":1' % n for n in range(999_990)) + b"}"),
    "numbers that JSON does not have": body("total", repeated(b"NaN", last=b"1e999")),
    "a string that is not text": body("total", text(EMOJI + b"\xff", b"a")),
    "a string of escapes that is not text": body("total", text(EMOJI + b"\xff", b"\\n")),
    "an unterminated string": body("total", b'[1, "' + b"a" * (MAX_BYTES - 200)),
    "strings without commas": body("total", b'""' * (MAX_BYTES // 2 - 200)),
}
OVERSIZED = {
    "a body": body("total", b"[" + b"1," * (32 * MEBIBYTE) + b"1]"),
    "numbers": body("total", b"[" + b"1," * (MAX_BYTES // 2 - 100) + b"1]"),
    "lists": body("total", b"[" + b"[1]," * (MAX_BYTES // 4 - 100) + b"1]"),
    "nested lists": body("total", b"[" * (MAX_BYTES - 200)),
    "objects": body("total", b"[" + b"{}," * (MAX_BYTES // 3 - 100) + b"1]"),
    "one value too many": body("total", b"[" + b"1," * (MAX_VALUES - 2) + b"1]"),
}
VERBS = {"examples": "classify"}


@pytest.fixture(scope="module")
def monitor(server: Server) -> ServerMonitor:
    return ServerMonitor(server.process.pid, server.rest, "example")


@pytest.fixture(scope="module")
def initial_memory(monitor: ServerMonitor) -> int:
    """Memory of the server in bytes before the first test."""
    return monitor.resident()


def post(server: Server, name: str, data: bytes, *headers: str) -> tuple[int, bytes]:
    request = request_bytes("POST", f"/v1/models/example:{VERBS.get(name, 'predict')}", data, *headers)
    with connect(server) as connection:
        connection.settimeout(2 * ANSWER_SECONDS)
        connection.sendall(request)
        status, _, answer = read_answer(connection)
    return status, answer


@pytest.fixture
def check(server: Server, monitor: ServerMonitor, initial_memory: int) -> Callable[..., tuple[int, bytes]]:
    """check(name, body, *headers) -> status and body of the answer, after checking the bounds."""

    def check(name: str, data: bytes, *headers: str) -> tuple[int, bytes]:
        answers = []

        def send() -> int:
            answers.append(post(server, name, data, *headers))
            return answers[-1][0]

        monitor.reset_peak()
        _, blocked = attempt(monitor, send)
        memory = monitor.peak() - initial_memory
        left = (monitor.resident() - initial_memory) / MEBIBYTE
        print(f"{name}: {blocked:.2f} s, {memory / MEBIBYTE:.0f} MiB, then {left:.0f}")
        assert blocked <= MAX_BLOCKED_SECONDS
        assert memory <= MAX_MEMORY_BYTES
        return answers[-1]

    return check


@pytest.mark.parametrize("name", ACCEPTED)
def test_largest_accepted_bodies(check, name):
    status, answer = check(name, ACCEPTED[name])
    assert status == 200, answer[:1000]


@pytest.mark.parametrize("name", INVALID)
def test_largest_invalid_bodies(check, name):
    status, answer = check(name, INVALID[name])
    assert status == 400, answer[:1000]


@pytest.mark.parametrize("name", OVERSIZED)
def test_oversized_bodies_get_instructions(check, name):
    status, answer = check(name, OVERSIZED[name])
    assert (status, "send it in parts or over gRPC" in json.loads(answer)["error"]) == (413, True)


@pytest.mark.parametrize("name", OVERSIZED)
def test_oversized_gzip_bodies_are_refused(check, name):
    status, answer = check(name, gzip.compress(OVERSIZED[name]), "Content-Encoding: gzip")
    message = json.loads(answer)["error"]
    assert (status, "over gRPC" in message or "more than 32 times as much" in message) == (413, True)
