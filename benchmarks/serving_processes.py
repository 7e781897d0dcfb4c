"""The servers that `benchmarks.serving` compares, as processes on 127.0.0.1."""

import base64
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.serving_load import Load, Target
from serving.client import Client

PEERS = Path(__file__).with_name("peers")
PREDICT = "/tensorflow.serving.PredictionService/Predict"
START_SECONDS = 180
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "BENTOML_DO_NOT_TRACK": "true"}


class Server:
    """A server with all processes that it starts, and the targets of requests to it."""

    def __init__(self, name: str, command: Sequence[str], port: int, targets: dict[str, Target], **environment: str):
        """Start the server and wait until `port` is open. Raises: RuntimeError if it does not open."""
        self.name, self.targets = name, targets
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ | QUIET | environment
        )
        while not is_open(port):
            if self.process.poll() is not None or time.perf_counter() > start + START_SECONDS:
                self.stop()
                raise RuntimeError(f"{name} did not open port {port}: {' '.join(command)}")
            time.sleep(0.005)
        self.start_seconds = time.perf_counter() - start

    def measure(self, target: str, clients: int, seconds: float) -> Load:
        """Continue the server for a measurement, then suspend it again."""
        self.signal(signal.SIGCONT)
        try:
            return self.targets[target].measure(clients, seconds)
        finally:
            self.signal(signal.SIGSTOP)

    def signal(self, number: int) -> None:
        for pid in descendants(self.process.pid):
            with contextlib.suppress(ProcessLookupError):  # it has ended
                os.kill(pid, number)

    def stop(self) -> None:
        self.signal(signal.SIGCONT)
        children = descendants(self.process.pid)[1:]
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in children:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def descendants(pid: int) -> list[int]:
    """-> the process and all its descendants, even those in other process groups."""
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            parent = status.read_text().rpartition(")")[2].split()[1]
            children.setdefault(int(parent), []).append(int(status.parent.name))
    pids = [pid]
    for parent_pid in pids:  # the list grows during the loop
        pids += children.get(parent_pid, [])
    return pids


def ours(directory: Path, *flags: str) -> Server:
    """`python -m serving` with the model of a directory of `serving_models`."""
    grpc, rest = free_port(), free_port()
    targets = {
        "gRPC": Target(f"http://127.0.0.1:{grpc}{PREDICT}", directory / "grpc", grpc=True),
        "REST": Target(f"http://127.0.0.1:{rest}/v1/models/{directory.name}:predict", directory / "rest.json"),
    }
    command = [sys.executable, "-m", "serving", "--host=127.0.0.1", f"--models_dir={directory / 'models'}"]
    return Server("ours", [*command, f"--port={grpc}", f"--rest_api_port={rest}", *flags], rest, targets)


def peers(directory: Path, python: str) -> Iterator[Server]:
    """FastAPI, LitServe and BentoML with the model of a directory of `serving_models`."""
    model = str(directory / "models" / directory.name / "1")
    for name, path, arguments in [
        ("FastAPI", directory.name, ["-m", "uvicorn", f"--app-dir={PEERS}", "with_fastapi:app", "--no-access-log"]),
        ("LitServe", "predict", [str(PEERS / "with_litserve.py"), model]),
        ("BentoML", "predict", ["-m", "bentoml", "serve", "with_bentoml:Model", f"--working-dir={PEERS}"]),
    ]:
        port = free_port()
        targets = {"REST": Target(f"http://127.0.0.1:{port}/{path}", directory / "peer.json")}
        yield Server(name, [python, *arguments, f"--port={port}"], port, targets, SAVED_MODEL=model)


@contextlib.contextmanager
def running(*servers: Iterator[Server]) -> Iterator[list[Server]]:
    """Start servers one after the other, check their responses, and suspend them (SIGSTOP) until they are measured.

    Idle servers would take time from the others: some poll for requests a thousand times per second.
    """
    with contextlib.ExitStack() as stack:
        running_servers = []
        for server in itertools.chain(*servers):
            stack.callback(server.stop)
            for target in server.targets.values():
                check(server.name, target)
            server.signal(signal.SIGSTOP)
            running_servers.append(server)
        yield running_servers


def check(name: str, target: Target) -> None:
    """Check that the response contains the model's outputs."""
    call = json.loads(target.body.with_name("call.json").read_text("utf-8"))
    expected = call["outputs"]
    outputs = grpc_outputs(target, call["alias"]) if target.grpc else rest_outputs(target, next(iter(expected)))
    for alias, numbers in expected.items():
        np.testing.assert_allclose(outputs[alias], numbers, 1e-4, 1e-5, err_msg=f"{name}, {target.url}")


def grpc_outputs(target: Target, alias: str) -> dict:
    """-> {alias: array}. Args: alias of the input."""
    request = json.loads(target.body.with_name("rest.json").read_text("utf-8"))
    rows = request["instances"]
    if isinstance(rows[0], dict):
        array = np.array([base64.b64decode(row["b64"]) for row in rows], object)
    else:
        array = np.array(rows, np.float32)
    with Client(target.url.split("/")[2]) as client:
        return client.predict(target.body.parent.name, {alias: array}, signature=request["signature_name"])


def rest_outputs(target: Target, output: str) -> dict:
    """-> {alias: list}. Args: output: alias of the only output, for a response without names."""
    request = urllib.request.Request(target.url, target.body.read_bytes(), {"Content-Type": "application/json"})
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                document = json.load(response)
            break
        except OSError as error:  # some open the port before their workers are ready
            if time.monotonic() > deadline:
                raise RuntimeError(f"no response from {target.url}: {error}") from None
            time.sleep(0.1)
    rows = next(iter(document.values())) if isinstance(document, dict) else document
    if rows and isinstance(rows[0], dict):
        return {alias: [row[alias] for row in rows] for alias in rows[0]}
    return {output: rows}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
