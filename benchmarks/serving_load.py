"""Load from h2load (Debian and Ubuntu: `apt install nghttp2-client`), a load generator in C.

It uses little time of the cores that it shares with the server under test. It supports gRPC's HTTP/2 and HTTP/1.1;
each client is a connection that sends its next request after the response to the previous one.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GRPC_HEADERS = ("content-type: application/grpc", "te: trailers")
JSON_HEADERS = ("content-type: application/json",)
MIN_REQUESTS = 50  # per client and measurement


@dataclass(frozen=True)
class Target:
    """A URL and a request body. h2load ignores gRPC's status; errors have no data, so response sizes are checked."""

    url: str
    body: Path
    grpc: bool = False

    def send(self, clients: int, requests: int, response_size: int | None = None) -> "Load":
        """Send `requests` in total from parallel clients.

        Raises: RuntimeError if a response has another status than 200 or another size.
        """
        headers = GRPC_HEADERS if self.grpc else JSON_HEADERS
        with tempfile.NamedTemporaryFile("r") as log:
            command = ["h2load", f"--requests={requests}", f"--clients={clients}", f"--data={self.body}"]
            command += [f"--log-file={log.name}", *(f"--header={header}" for header in headers)]
            command += ["--max-concurrent-streams=1"] if self.grpc else ["--h1"]
            process = subprocess.run([*command, self.url], capture_output=True, text=True, check=True)
            start, status, duration = np.loadtxt(log, dtype=np.int64, unpack=True, ndmin=2)
        data = int(re.search(r"\((\d+)\) data", process.stdout)[1])  # type: ignore[index]
        if len(status) != requests or (status != 200).any():
            raise RuntimeError(f"{self.url}: {(status == 200).sum()} of {requests} responses have the status 200")
        if response_size is not None and data != requests * response_size:
            raise RuntimeError(
                f"{self.url}: {requests} responses have {data} bytes; they must have {response_size} each"
            )
        return Load(requests / ((start + duration).max() - start.min()) * 1e6, duration / 1e3, data // requests)

    def measure(self, clients: int, seconds: float) -> "Load":
        """Send requests for about `seconds`, after a shorter run that warms up and estimates their number."""
        size = self.send(1, 1).response_size
        speed = self.send(clients, MIN_REQUESTS * clients, size).requests_per_second
        requests = max(MIN_REQUESTS, round(speed * seconds / clients))
        return self.send(clients, requests * clients, size)


@dataclass(frozen=True)
class Load:
    """Requests per second, and milliseconds of each request."""

    requests_per_second: float
    milliseconds: np.ndarray
    response_size: int

    @property
    def p50(self) -> float:
        return float(np.percentile(self.milliseconds, 50))

    @property
    def p99(self) -> float:
        return float(np.percentile(self.milliseconds, 99))
