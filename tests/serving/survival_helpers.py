"""Helpers of the survival tests: server processes, their resources, and raw HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from serving_helpers import CONFIG, ROOT, START_SECONDS, Server, Store, free_port, wait_until

ANSWER_SECONDS = 60.0  # a request that takes longer hangs
MAX_MEMORY_BYTES = 300 * 1024 * 1024  # that a request may add to the memory of the server
MAX_BLOCKED_SECONDS = 1.0  # without a reply to other clients
TRIES = 3  # of a request that blocked others longer, as may happen on a busy machine
PROBE_SECONDS = 0.02  # between two checks
GOOD_BODY = json.dumps({"instances": [1.0, 2.0, 5.0]}).encode()
GOOD_ANSWER = {"predictions": [2.5, 3.0, 4.5]}
GOOD_PATH = "/v1/models/example:predict"


def publish(store: Store, models: Path) -> Path:
    """Publish version 1 of `example` and of `number`; return the path of their configuration."""
    store.publish(store.example, models / "example", 1)
    store.publish(store.number(1), models / "number", 1)
    config = models / "models.config"
    config.write_text(CONFIG.format(models=models))
    return config


@contextmanager
def running(
    models: Path, *flags: str, ports: tuple[int, int] | None = None, program: Sequence[str] = ("-m", "serving")
) -> Iterator[Server]:
    """Run a server of `models`, made by `publish`; kill it afterwards if it still runs."""
    server = start(models, *flags, ports=ports, program=program)
    try:
        wait_until_ready(server)
        yield server
    finally:
        server.process.kill()
        server.process.wait(30)


def start(
    models: Path, *flags: str, ports: tuple[int, int] | None = None, program: Sequence[str] = ("-m", "serving")
) -> Server:
    """Start a server process, which may still load models; the caller must end it."""
    grpc_port, rest_port = ports or (free_port(), free_port())
    log = models / f"server-{grpc_port}-{time.monotonic_ns()}.log"
    command = command_of(models, grpc_port, rest_port, *flags, program=program)
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    return Server(process, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{rest_port}", models, log)


def command_of(
    models: Path, grpc_port: int, rest_port: int, *flags: str, program: Sequence[str] = ("-m", "serving")
) -> list[str]:
    command = [sys.executable, *program, f"--model_config_file={models / 'models.config'}", f"--port={grpc_port}"]
    return [*command, f"--rest_api_port={rest_port}", "--allow_version_labels_for_unavailable_models", *flags]


def wait_until_ready(server: Server) -> None:
    text = server.log.read_text
    wait_until(lambda: "Exporting HTTP/REST API" in text() or server.process.poll() is not None, START_SECONDS)
    assert server.process.poll() is None, text()


def stop(server: Server, seconds: float = 60.0) -> int:
    """Send SIGTERM; return the exit status."""
    server.process.send_signal(signal.SIGTERM)
    return server.process.wait(seconds)


def rest_port(server: Server) -> int:
    return int(server.rest.rpartition(":")[2])


def resident_bytes(server: Server) -> int:
    pages = Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGESIZE")


def open_files(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def threads(server: Server) -> int:
    return len(os.listdir(f"/proc/{server.process.pid}/task"))


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", rest_port(server)), ANSWER_SECONDS)


def request_bytes(method: str, path: str, body: bytes = b"", *headers: str, version: str = "1.1") -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: localhost", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


GOOD_REQUEST = request_bytes("POST", GOOD_PATH, GOOD_BODY)


def read_answer(connection: socket.socket, head: bool = False) -> tuple[int, dict[str, str], bytes]:
    """Read exactly one answer: status, headers (lower case), body. Raise ConnectionError if there is none."""
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            raise ConnectionResetError(f"connection closed after {received!r}")
        received += byte
    start, *lines = received.decode("latin-1").strip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body, length = b"", 0 if head else int(headers.get("content-length", 0))
    while len(body) < length:
        part = connection.recv(length - len(body))
        if not part:
            raise ConnectionResetError("the body is incomplete")
        body += part
    return int(start.split()[1]), headers, body


def read_to_end(connection: socket.socket) -> bytes:
    """Return all that the server sends until it closes or resets the connection."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            received += part
    return received


def exchange(server: Server, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send one request on a new connection; return its answer."""
    with connect(server) as connection:
        connection.sendall(data)
        return read_answer(connection)


class ServerMonitor:
    """Measures memory and CPU time of a server process, and how long it answers no other client."""

    def __init__(self, pid: int, rest: str, model: str) -> None:
        self._proc = Path(f"/proc/{pid}")
        self.address = ("127.0.0.1", int(rest.rpartition(":")[2]))
        self._check = request_bytes("GET", f"/v1/models/{model}")

    def resident(self) -> int:
        return self._status("VmRSS")

    def peak(self) -> int:
        """Return the peak since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        (self._proc / "clear_refs").write_text("5")

    def cpu_seconds(self) -> float:
        fields = (self._proc / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _status(self, name: str) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))

    @contextmanager
    def blocked(self) -> Iterator[list[float]]:
        """Request a model's status again and again; yield the list of seconds that each of these checks took.

        Other programs on the machine do not count: a slow check counts at most the CPU time that the server used
        meanwhile.
        """
        seconds: list[float] = []
        ended = threading.Event()

        def probe() -> None:
            with socket.create_connection(self.address, ANSWER_SECONDS) as connection:
                while True:
                    start, cpu = time.perf_counter(), self.cpu_seconds()
                    connection.sendall(self._check)
                    status, _, _ = read_answer(connection)
                    assert status == 200
                    seconds.append(min(time.perf_counter() - start, self.cpu_seconds() - cpu))
                    if ended.wait(PROBE_SECONDS):
                        return

        def probe_until_the_server_ends() -> None:
            with suppress(OSError):
                probe()

        thread = threading.Thread(target=probe_until_the_server_ends)
        thread.start()
        try:
            yield seconds
        finally:
            ended.set()
            thread.join()


def attempt(monitor: ServerMonitor, send: Callable[[], str | int]) -> tuple[str | int, float]:
    """Call `send`; return its code or status, and the longest time without a reply to other clients."""
    for _ in range(TRIES):
        with monitor.blocked() as seconds:
            outcome = send()
        if max(seconds, default=0.0) <= MAX_BLOCKED_SECONDS:
            break
    return outcome, max(seconds, default=0.0)


def assert_answers(server: Server) -> None:
    """Check that a new client gets the usual answer."""
    status, _, body = exchange(server, GOOD_REQUEST)
    assert (status, json.loads(body)) == (200, GOOD_ANSWER)


def assert_clean_log(server: Server) -> None:
    text = server.log.read_text(errors="replace")  # gRPC repeats what clients send
    for word in ("Traceback", "never retrieved", "was destroyed", "Unhandled", "exception"):
        assert word not in text, text[-5000:]
