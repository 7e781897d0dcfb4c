"""Malicious requests are rejected and leave nothing behind."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from demo_fakes import FakeClient

from demos.guard import MAX_BODY, MAX_VALUES, AllowedHosts, RejectedRequest, host_name
from demos.images import MAX_BYTES

CONTROLS = [20, 0.5, 0, 1.0, 4]


def request(
    address: str, path: str, body: bytes | None = None, method: str | None = None, **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    """Send a request on a new connection; return status, text, headers."""
    authority = urlsplit(address)
    connection = http.client.HTTPConnection(authority.hostname, authority.port, timeout=120)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("POST" if body else "GET"), path, body, names)
        response = connection.getresponse()
        return response.status, response.read().decode(), response.headers
    finally:
        connection.close()


def post(address: str, path: str, content: Any, **headers: str) -> tuple[int, str]:
    """Send JSON; return status and text."""
    status, text, _ = request(address, path, json.dumps(content).encode(), Content_Type="application/json", **headers)
    return status, text


def call(address: str, event: str, *values: Any) -> tuple[bool, Any]:
    """Run an event like Gradio's clients; return whether it succeeded, and its outputs or error."""
    status, text = post(address, f"/gradio_api/call/{event}", {"data": values})
    assert status == 200, text
    _, stream, _ = request(address, f"/gradio_api/call/{event}/{json.loads(text)['event_id']}")
    kind, data = [line.partition(": ")[2] for line in stream.strip().splitlines()[-2:]]
    return kind == "complete", json.loads(data)


def sentence(text: str) -> str:
    """Check that an error is a line of one or two sentences; return it."""
    message = json.loads(text)["error"]
    assert message.endswith(".") and "\n" not in message and "Traceback" not in message
    return message


# Host names and origins.


@pytest.mark.parametrize(
    ("listen_host", "host", "origin"),
    [
        ("127.0.0.1", "localhost:7860", None),
        ("127.0.0.1", "LOCALHOST", None),
        ("127.0.0.1", "[::1]:7860", "http://[::1]:7860"),
        ("127.0.0.1", "127.0.0.1:7860", "http://localhost:7860"),
        ("127.0.0.1", "demos.example", "https://demos.example"),
        ("127.0.0.1", "127.0.0.1:7860", "https://demos.example"),  # a proxy that sets its own Host
        ("gpu-box", "gpu-box:7860", "http://gpu-box:7860"),
        ("0.0.0.0", "192.168.1.5:7860", "http://192.168.1.5:7860"),
        ("::", "[fe80::1]:7860", "http://[fe80::1]:7860"),
        ("0.0.0.0", socket.gethostname(), None),
    ],
)
def test_names_of_the_page_are_allowed(listen_host: str, host: str, origin: str | None) -> None:
    AllowedHosts(listen_host, ["demos.example"]).check(host, origin)


@pytest.mark.parametrize(
    ("listen_host", "host", "origin"),
    [
        ("127.0.0.1", "evil.example:7860", None),
        ("127.0.0.1", "", None),
        ("127.0.0.1", "localhost.evil.example", None),
        ("127.0.0.1", "evil.example/localhost", None),
        ("127.0.0.1", "evil.example@localhost", None),
        ("127.0.0.1", "192.168.1.5:7860", None),
        ("0.0.0.0", "evil.example", None),
        ("127.0.0.1", "localhost:7860", "http://evil.example"),
        ("127.0.0.1", "localhost:7860", "null"),
        ("127.0.0.1", "localhost:7860", "http://localhost.evil.example:7860"),
        ("0.0.0.0", "192.168.1.5:7860", "http://6.6.6.6:7860"),
    ],
)
def test_foreign_names_are_rejected(listen_host: str, host: str, origin: str | None) -> None:
    with pytest.raises(RejectedRequest, match="--allowed-hosts") as caught:
        AllowedHosts(listen_host, ["demos.example"]).check(host, origin)
    assert caught.value.status == 403


def test_host_names_are_parsed_from_host_headers() -> None:
    assert [host_name(text) for text in ("A:1", "a", "[::1]:1", "a:b", "[::1", "a b")] == ["a", "a", "::1", "", "", ""]


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index.js", "/gradio_api/info", "/gradio_api/heartbeat/a"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_dns_rebinding_is_rejected(address: str, path: str, method: str) -> None:
    headers = {"Host": "evil.example", "Origin": "http://evil.example", "Access_Control_Request_Method": "POST"}
    status, text, response_headers = request(address, path, method=method, **headers)
    assert status == 403
    assert "host name 'evil.example' is not allowed" in sentence(text)
    assert not [name for name in response_headers if name.lower().startswith("access-control")]


def test_a_foreign_page_cannot_start_events(address: str, model_server: FakeClient) -> None:
    model_server.requests.clear()
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}, {"Origin": "null"}):
        status, text = post(address, "/gradio_api/call/translate", {"data": ["one day"]}, **headers)
        assert status == 403 and sentence(text)
    assert model_server.requests == []
    own = post(address, "/gradio_api/call/translate", {"data": ["one day"]}, Origin="https://demos.example")
    assert own[0] == 200


# Files.


def multipart(size: int) -> tuple[bytes, str]:
    """Return a form with one file, and its content type."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return head + bytes(size) + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


@pytest.mark.parametrize(("size", "status"), [(30_000_000, 413), (1000, 404)])
def test_uploads_are_rejected_and_not_stored(address: str, gradio_files: Path, size: int, status: int) -> None:
    before = sorted(gradio_files.rglob("*"))
    body, kind = multipart(size)
    actual_status, text, _ = request(address, "/gradio_api/upload", body, Content_Type=kind)
    assert actual_status == status
    assert sentence(text)
    assert sorted(gradio_files.rglob("*")) == before


def test_a_large_chunked_body_is_rejected(address: str) -> None:
    authority = urlsplit(address)
    with socket.create_connection((authority.hostname, authority.port), timeout=120) as connection:
        connection.sendall(
            b"POST /gradio_api/call/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        part = b"100000\r\n" + bytes(2**20) + b"\r\n"
        for _ in range(MAX_BODY // 2**20 + 2):
            connection.sendall(part)
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_a_body_with_many_values_is_rejected_before_parsing(address: str) -> None:
    status, text = post(address, "/gradio_api/queue/join", {"data": [[]] * MAX_VALUES, "session_hash": "a"})
    assert status == 413
    assert f"{MAX_VALUES} values" in sentence(text)


@pytest.mark.parametrize(
    "path",
    [
        "/gradio_api/file=/etc/passwd",
        "/gradio_api/file=http://127.0.0.1:1/",
        "/gradio_api/file/etc/passwd",
        "/gradio_api/proxy=http://127.0.0.1:1/",
        "/gradio_api/upload_progress?upload_id=a",
        "/gradio_api/stream/a/b/1/playlist-file",
        "/gradio_api/custom_component/a/b/c/d",
        "/gradio_api/deep_link",
        "/gradio_api/vibe-code/",
        "/gradio_api/runs",
        "/monitoring",
        "/docs",
    ],
)
def test_unused_get_routes_are_closed(address: str, path: str) -> None:
    status, text, _ = request(address, path)
    assert status == 404
    assert "neither accepts nor serves files" in sentence(text)


@pytest.mark.parametrize(
    "path", ["component_server", "process_recording", "run/translate", "api/translate", "vibe-edit", "stream/a"]
)
def test_unused_post_routes_are_closed(address: str, path: str) -> None:
    assert post(address, f"/gradio_api/{path}", {"data": ["a"]})[0] == 404


@pytest.mark.parametrize("event", ["classify", "translate"])
def test_file_values_are_neither_read_nor_fetched(address: str, gradio_files: Path, event: str) -> None:
    before = sorted(gradio_files.rglob("*"))
    meta = {"_type": "gradio.FileData"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for location in ("/etc/hostname", f"http://127.0.0.1:{listener.getsockname()[1]}/a", "http://[2001:db8::1]/a"):
            for value in (
                {"path": location, "meta": meta},
                {"data": {"path": location, "url": location, "meta": meta}},
            ):
                succeeded, message = call(address, event, value)
                assert not succeeded
                assert "is nested" in str(message)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert sorted(gradio_files.rglob("*")) == before


# Values.


def outcome(address: str, event: str, *values: Any) -> str:
    """Return the outputs or the error of an event as text."""
    return json.dumps(call(address, event, *values)[1], ensure_ascii=False)


@pytest.mark.parametrize("value", [None, "", 5, True, "a", {"kind": 5}, {"kind": "photo", "data": "x"}, {"data": 5}])
def test_an_invalid_pad_value_returns_a_sentence(address: str, value: Any) -> None:
    message = outcome(address, "classify", value)
    assert "pad is empty" in message or "value of the pad is invalid" in message


@pytest.mark.parametrize("kind", ["drawing", "image"])
@pytest.mark.parametrize("data", ["junk", "data:image/png;base64,\u00e4", "http://localhost/a.png", "data:,a"])
def test_an_invalid_image_returns_a_sentence(address: str, kind: str, data: str) -> None:
    message = outcome(address, "classify", {"kind": kind, "data": data})
    assert "not a readable image" in message


@pytest.mark.parametrize("value", [None, "", "  ", 5, True, {"a": "b"}, "a" * 10_001])
def test_an_invalid_text_returns_a_sentence(address: str, value: Any) -> None:
    for message in (outcome(address, "translate", value), outcome(address, "continue_text", value, *CONTROLS)):
        assert any(part in message for part in ("nothing to translate", "no prompt yet", "must be text", "10,001"))


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -1e999, -(10**400), 10**400, "a", "20", True, {"a": 1}, 2**31 + 0.5, None]
)
@pytest.mark.parametrize("position", range(5))
def test_an_invalid_control_returns_a_sentence(address: str, position: int, value: Any) -> None:
    values = [*CONTROLS[:position], value, *CONTROLS[position + 1 :]]
    message = outcome(address, "continue_text", "To be", *values)
    assert "must be a" in message or "A control is empty" in message


def test_an_unpaired_surrogate_becomes_a_question_mark(address: str) -> None:
    assert "a?" in outcome(address, "continue_text", "a\ud800", *CONTROLS)
    assert "A?" in outcome(address, "translate", "a\ud800")


@pytest.mark.parametrize("values", [[], ["a"], ["a"] * 9])
def test_a_wrong_number_of_values_returns_a_sentence(address: str, values: list[str]) -> None:
    assert f"has {len(values)} values; it must have 6" in outcome(address, "continue_text", *values)


def test_an_unknown_event_returns_a_sentence(address: str) -> None:
    for path, content in (
        ("/gradio_api/call/delete", {"data": []}),
        ("/gradio_api/call/v2/delete", {}),
        ("/gradio_api/queue/join", {"data": [], "fn_index": 999, "session_hash": "a"}),
    ):
        status, text = post(address, path, content)
        assert status == 404
        assert "no such event" in sentence(text)


@pytest.mark.parametrize("body", [b"[" * 19_000, b"{", b"5", b"[]", b"\xff", b'{"data": {}}', b'{"data": "a"}'])
def test_a_body_that_is_not_a_request_is_rejected(address: str, body: bytes) -> None:
    status, _, _ = request(address, "/gradio_api/call/translate", body, Content_Type="application/json")
    assert status in (400, 422)


def test_the_storage_of_gradio_is_bounded() -> None:
    from demos.app import FILE_SECONDS, MAX_QUEUE, MAX_SESSIONS, build, web_app
    from demos.examples import load_examples

    page = build(FakeClient(), load_examples(None))
    web_app(page, AllowedHosts("127.0.0.1"))
    assert page.state_session_capacity == MAX_SESSIONS
    assert page._queue.max_size == MAX_QUEUE
    assert page.max_file_size == MAX_BYTES
    assert page.delete_cache == (FILE_SECONDS, FILE_SECONDS)
