"""Requests that no honest page sends: what is refused, and that nothing of them stays."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from demo_fakes import FakeClient

from demos.guard import MAX_BODY, MAX_VALUES, AllowedHosts, Refused, host_name
from demos.pictures import MAX_BYTES

CONTROLS = [20, 0.5, 0, 1.0, 4]


def ask(
    address: str, path: str, body: bytes | None = None, method: str | None = None, **headers: str
) -> tuple[int, str, http.client.HTTPMessage]:
    """One request on a connection of its own -> status, text, headers."""
    place = urlsplit(address)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=120)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("POST" if body else "GET"), path, body, names)
        response = connection.getresponse()
        return response.status, response.read().decode(), response.headers
    finally:
        connection.close()


def post(address: str, path: str, content: Any, **headers: str) -> tuple[int, str]:
    """Send JSON -> status and text."""
    status, text, _ = ask(address, path, json.dumps(content).encode(), Content_Type="application/json", **headers)
    return status, text


def call(address: str, event: str, *values: Any) -> tuple[bool, Any]:
    """Run an event as Gradio's clients do -> whether it went well, and its outputs or what went wrong."""
    status, text = post(address, f"/gradio_api/call/{event}", {"data": values})
    assert status == 200, text
    _, stream, _ = ask(address, f"/gradio_api/call/{event}/{json.loads(text)['event_id']}")
    kind, data = [line.partition(": ")[2] for line in stream.strip().splitlines()[-2:]]
    return kind == "complete", json.loads(data)


def sentence(text: str) -> str:
    """What a refusal says: one sentence or two, in one line."""
    words = json.loads(text)["error"]
    assert words.endswith(".") and "\n" not in words and "Traceback" not in words
    return words


# Names of hosts and origins.


@pytest.mark.parametrize(
    ("listens", "host", "origin"),
    [
        ("127.0.0.1", "localhost:7860", None),
        ("127.0.0.1", "LOCALHOST", None),
        ("127.0.0.1", "[::1]:7860", "http://[::1]:7860"),
        ("127.0.0.1", "127.0.0.1:7860", "http://localhost:7860"),
        ("127.0.0.1", "demos.example", "https://demos.example"),
        ("127.0.0.1", "127.0.0.1:7860", "https://demos.example"),  # a proxy that puts its own Host
        ("gpu-box", "gpu-box:7860", "http://gpu-box:7860"),
        ("0.0.0.0", "192.168.1.5:7860", "http://192.168.1.5:7860"),
        ("::", "[fe80::1]:7860", "http://[fe80::1]:7860"),
        ("0.0.0.0", socket.gethostname(), None),
    ],
)
def test_the_pages_own_names_are_allowed(listens: str, host: str, origin: str | None) -> None:
    AllowedHosts(listens, ["demos.example"]).check(host, origin)


@pytest.mark.parametrize(
    ("listens", "host", "origin"),
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
def test_foreign_names_are_refused(listens: str, host: str, origin: str | None) -> None:
    with pytest.raises(Refused, match="--allowed-hosts") as caught:
        AllowedHosts(listens, ["demos.example"]).check(host, origin)
    assert caught.value.status == 403


def test_host_names_are_read_as_browsers_write_them() -> None:
    assert [host_name(text) for text in ("A:1", "a", "[::1]:1", "a:b", "[::1", "a b")] == ["a", "a", "::1", "", "", ""]


@pytest.mark.parametrize("path", ["/", "/config", "/assets/index.js", "/gradio_api/info", "/gradio_api/heartbeat/a"])
@pytest.mark.parametrize("method", ["GET", "OPTIONS"])
def test_dns_rebinding_finds_nothing(address: str, path: str, method: str) -> None:
    headers = {"Host": "evil.example", "Origin": "http://evil.example", "Access_Control_Request_Method": "POST"}
    status, text, answered = ask(address, path, method=method, **headers)
    assert status == 403
    assert "'evil.example' is not one of this page's" in sentence(text)
    assert not [name for name in answered if name.lower().startswith("access-control")]


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
    """A form with one file."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    return head + bytes(size) + b"\r\n--x--\r\n", "multipart/form-data; boundary=x"


@pytest.mark.parametrize(("size", "status"), [(30_000_000, 413), (1000, 404)])
def test_uploads_are_refused_and_nothing_is_kept(address: str, kept_files: Path, size: int, status: int) -> None:
    before = sorted(kept_files.rglob("*"))
    body, kind = multipart(size)
    answered, text, _ = ask(address, "/gradio_api/upload", body, Content_Type=kind)
    assert answered == status
    assert sentence(text)
    assert sorted(kept_files.rglob("*")) == before


def test_a_body_whose_length_is_not_announced_is_refused_as_well(address: str) -> None:
    place = urlsplit(address)
    with socket.create_connection((place.hostname, place.port), timeout=120) as connection:
        connection.sendall(
            b"POST /gradio_api/call/classify HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        part = b"100000\r\n" + bytes(2**20) + b"\r\n"
        for _ in range(MAX_BODY // 2**20 + 2):
            connection.sendall(part)
        connection.sendall(b"0\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_many_values_are_refused_before_they_become_objects(address: str) -> None:
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
def test_what_the_page_does_not_use_is_closed(address: str, path: str) -> None:
    status, text, _ = ask(address, path)
    assert status == 404
    assert "takes no files" in sentence(text)


@pytest.mark.parametrize(
    "path", ["component_server", "process_recording", "run/translate", "api/translate", "vibe-edit", "stream/a"]
)
def test_what_the_page_does_not_post_to_is_closed(address: str, path: str) -> None:
    assert post(address, f"/gradio_api/{path}", {"data": ["a"]})[0] == 404


@pytest.mark.parametrize("event", ["classify", "translate"])
def test_a_value_that_names_a_file_is_neither_read_nor_fetched(address: str, kept_files: Path, event: str) -> None:
    before = sorted(kept_files.rglob("*"))
    meta = {"_type": "gradio.FileData"}
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        for place in ("/etc/hostname", f"http://127.0.0.1:{listener.getsockname()[1]}/a", "http://[2001:db8::1]/a"):
            for value in ({"path": place, "meta": meta}, {"data": {"path": place, "url": place, "meta": meta}}):
                went_well, words = call(address, event, value)
                assert not went_well
                assert "parts within parts" in str(words)
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert sorted(kept_files.rglob("*")) == before


# Values.


def outcome(address: str, event: str, *values: Any) -> str:
    """The text of an event's outputs, or of what went wrong."""
    return json.dumps(call(address, event, *values)[1], ensure_ascii=False)


@pytest.mark.parametrize("value", [None, "", 5, True, "a", {"kind": 5}, {"kind": "photo", "data": "x"}, {"data": 5}])
def test_whatever_the_pad_holds_is_answered_with_a_sentence(address: str, value: Any) -> None:
    words = outcome(address, "classify", value)
    assert "pad is empty" in words or "neither a drawing nor a picture" in words


@pytest.mark.parametrize("kind", ["drawing", "picture"])
@pytest.mark.parametrize("data", ["junk", "data:image/png;base64,\u00e4", "http://localhost/a.png", "data:,a"])
def test_junk_for_a_picture_is_answered_with_a_sentence(address: str, kind: str, data: str) -> None:
    words = outcome(address, "classify", {"kind": kind, "data": data})
    assert "not a picture that can be read" in words


@pytest.mark.parametrize("value", [None, "", "  ", 5, True, {"a": "b"}, "a" * 10_001])
def test_whatever_is_sent_for_a_text_is_answered_with_a_sentence(address: str, value: Any) -> None:
    for words in (outcome(address, "translate", value), outcome(address, "continue_text", value, *CONTROLS)):
        assert any(part in words for part in ("nothing to translate", "no prompt yet", "text is needed", "10,001"))


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -1e999, -(10**400), 10**400, "a", "20", True, {"a": 1}, 2**31 + 0.5, None]
)
@pytest.mark.parametrize("position", range(5))
def test_whatever_a_control_holds_is_answered_with_a_sentence(address: str, position: int, value: Any) -> None:
    values = [*CONTROLS[:position], value, *CONTROLS[position + 1 :]]
    words = outcome(address, "continue_text", "To be", *values)
    assert "has to be a" in words or "A control is empty" in words


def test_half_a_surrogate_pair_does_not_break_the_answer(address: str) -> None:
    assert "a?" in outcome(address, "continue_text", "a\ud800", *CONTROLS)
    assert "A?" in outcome(address, "translate", "a\ud800")


@pytest.mark.parametrize("values", [[], ["a"], ["a"] * 9])
def test_a_wrong_number_of_values_is_said(address: str, values: list[str]) -> None:
    assert f"takes 6 values, and {len(values)} were sent" in outcome(address, "continue_text", *values)


def test_an_event_that_there_is_not_is_said(address: str) -> None:
    for path, content in (
        ("/gradio_api/call/delete", {"data": []}),
        ("/gradio_api/call/v2/delete", {}),
        ("/gradio_api/queue/join", {"data": [], "fn_index": 999, "session_hash": "a"}),
    ):
        status, text = post(address, path, content)
        assert status == 404
        assert "no such event" in sentence(text)


@pytest.mark.parametrize("body", [b"[" * 19_000, b"{", b"5", b"[]", b"\xff", b'{"data": {}}', b'{"data": "a"}'])
def test_a_body_that_is_no_request_is_refused(address: str, body: bytes) -> None:
    status, _, _ = ask(address, "/gradio_api/call/translate", body, Content_Type="application/json")
    assert status in (400, 422)


def test_what_gradio_keeps_is_bounded() -> None:
    from demos.app import FILE_SECONDS, QUEUE, SESSIONS, build, web_app
    from demos.examples import load_examples

    page = build(FakeClient(), load_examples(None))
    web_app(page, AllowedHosts("127.0.0.1"))
    assert page.state_session_capacity == SESSIONS
    assert page._queue.max_size == QUEUE
    assert page.max_file_size == MAX_BYTES
    assert page.delete_cache == (FILE_SECONDS, FILE_SECONDS)
