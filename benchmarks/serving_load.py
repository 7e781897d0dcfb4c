"""Requests at full speed from h2load (Debian and Ubuntu: `apt install nghttp2-client`), a load generator in C.

It takes little of the cores that the server under test shares with it. It speaks gRPC's HTTP/2 and HTTP/1.1; each
client is a connection that sends its next request when it has the answer to the last.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")
JSON_HEADERS = ("content-type: application/json",)
LEAST_REQUESTS = 50  # of a client in a measurement


@dataclass(frozen=True)
class Target:
    """Where a body goes. h2load does not read gRPC's status, but an error has no data: so the size is compared."""

    url: str
    body: Path
    grpc: bool = False

    def drive(self, clients: int, requests: int, answer_size: int | None = None) -> "Load":
        """`requests` in all, from `clients` at once. RuntimeError if one is not answered with 200 and that size."""
        headers = GRPC_HEADERS if self.grpc else JSON_HEADERS
        with tempfile.NamedTemporaryFile("r") as log:
            command = ["h2load", f"--requests={requests}", f"--clients={clients}", f"--data={self.body}"]
            command += [f"--log-file={log.name}", *(f"--header={header}" for header in headers)]
            command += ["--max-concurrent-streams=1"] if self.grpc else ["--h1"]
            done = subprocess.run([*command, self.url], capture_output=True, text=True, check=True)
            start, status, took = np.loadtxt(log, dtype=np.int64, unpack=True, ndmin=2)
        data = int(re.search(r"\((\d+)\) data", done.stdout)[1])  # type: ignore[index]
        if len(status) != requests or (status != 200).any():
            raise RuntimeError(f"{self.url}: {(status == 200).sum()} of {requests} requests were answered with 200")
        if answer_size is not None and data != requests * answer_size:
            raise RuntimeError(f"{self.url}: {requests} answers are {data} bytes, not {answer_size} each")
        return Load(requests / ((start + took).max() - start.min()) * 1e6, took / 1e3, data // requests)

    def measure(self, clients: int, seconds: float) -> "Load":
        """For about `seconds`, after a shorter run that warms up and tells how many requests that are."""
        size = self.drive(1, 1).answer_size
        speed = self.drive(clients, LEAST_REQUESTS * clients, size).requests_per_second
        each = max(LEAST_REQUESTS, round(speed * seconds / clients))
        return self.drive(clients, each * clients, size)


@dataclass(frozen=True)
class Load:
    """Requests a second, and milliseconds of each request."""

    requests_per_second: float
    milliseconds: np.ndarray
    answer_size: int

    @property
    def p50(self) -> float:
        return float(np.percentile(self.milliseconds, 50))

    @property
    def p99(self) -> float:
        return float(np.percentile(self.milliseconds, 99))
