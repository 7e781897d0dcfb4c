"""Benchmark of the model server: compared with a call in process, with other servers, with and without batching.

    python -m benchmarks.serving [ROW ...] [--image-model DIRECTORY] [--peers PYTHON] [--rounds N] [--seconds S]

Needs h2load (`apt install nghttp2-client`). All servers and the load generator are processes on this machine. The
servers take turns; while one works, the others are stopped. Numbers are medians over the rounds.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from benchmarks.decoding import Worker
from benchmarks.serving_load import Load
from benchmarks.serving_processes import PEERS, QUIET, Server, ours, peers, running

ENVIRONMENT = Path(__file__).parents[1] / ".venv-peers"
PACKAGES = ("tensorflow", "grpcio", "uvicorn", "uvloop", "httptools", "numpy", "protobuf")
PEER_PACKAGES = ("tensorflow", "fastapi", "uvicorn", "litserve", "bentoml")
BATCHING = """\
max_batch_size { value: 64 }
batch_timeout_micros { value: 0 }
num_batch_threads { value: 1 }
max_enqueued_batches { value: 100 }
"""
CLIENT_IMPORT = """
import time
start = time.perf_counter()
from serving.client import Client
Client("127.0.0.1:8500")
seconds = time.perf_counter() - start
resident = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
print(seconds, resident / 1024)
"""


@dataclass(frozen=True)
class Bench:
    """The options, and the directory of the models and requests (see serving_models)."""

    directory: Path
    peers: str
    rounds: int
    seconds: float
    batching: Path

    def alternate(self, *functions: Callable[[], object]) -> list[tuple]:
        """Call the functions alternately; -> their results of each round."""
        return [tuple(function() for function in functions) for _ in range(self.rounds)]

    def servers(self, model: str) -> list[Iterator[Server]]:
        """Our server, then the others."""
        return [iter([ours(self.directory / model)]), peers(self.directory / model, self.peers)]


def grpc_latency(bench: Bench) -> Iterator[tuple[str, ...]]:
    directory = bench.directory / "vector"
    model, request = directory / "models" / "vector" / "1", directory / "peer.json"
    worker = Worker(sys.executable, "with_tensorflow.py", str(model), str(request))
    with running(iter([ours(directory)])) as (server,):
        rounds = bench.alternate(
            lambda: server.measure("gRPC", 1, bench.seconds).p50, lambda: statistics.median(worker.run("calls")[1])
        )
    worker.stop()
    served, in_process = map(statistics.median, zip(*rounds, strict=True))
    overhead = statistics.median(a - b for a, b in rounds)
    work = "gRPC Predict, 1 client, p50"
    yield work, f"{served:.3f} ms", f"in process {in_process:.3f} ms", f"{overhead:+.3f} ms", "≤ +0.6 ms"


def rest_latency(bench: Bench) -> Iterator[tuple[str, ...]]:
    with running(iter([ours(bench.directory / "vector")])) as (server,):
        rounds = bench.alternate(lambda: server.measure("REST", 1, bench.seconds))
    p50 = statistics.median(load.p50 for (load,) in rounds)
    yield "REST predict, 1 client, p50", f"{p50:.3f} ms", "", "", "≤ 1.2 ms"


def grpc_peers(bench: Bench) -> Iterator[tuple[str, ...]]:
    return against_peers(bench, "gRPC Predict, 16 clients", "vector", "gRPC", "2×")


def rest_peers(bench: Bench) -> Iterator[tuple[str, ...]]:
    return against_peers(bench, "REST, 28×28×1 float image, 16 clients", "image", "REST", "1.5×")


def against_peers(bench: Bench, work: str, model: str, target: str, aim: str) -> Iterator[tuple[str, ...]]:
    with running(*bench.servers(model)) as servers:
        measurements = [
            lambda server=server: server.measure(target if server.name == "ours" else "REST", 16, bench.seconds)
            for server in servers
        ]
        rounds = bench.alternate(*measurements)
        names = [server.name for server in servers]
    for index, name in enumerate(names[1:], 1):
        our_speed, their_speed = (median_speed([loads[n] for loads in rounds]) for n in (0, index))
        ratio = statistics.median(loads[0].requests_per_second / loads[index].requests_per_second for loads in rounds)
        yield work, f"{our_speed:,.0f} requests/s", f"{name} {their_speed:,.0f}", f"{ratio:.2f}×", f"{aim} the best"


def median_speed(loads: Iterable[Load]) -> float:
    return statistics.median(load.requests_per_second for load in loads)


def batching(bench: Bench) -> Iterator[tuple[str, ...]]:
    """The two signatures of the image model: a request is a PNG (`serving_default`), or its pixels."""
    for model, request in (("network", "a PNG"), ("pixels", "its pixels")):
        directory = bench.directory / model
        flags = ("--enable_batching", f"--batching_parameters_file={bench.batching}")
        with running(iter([ours(directory, *flags)]), iter([ours(directory)])) as (on, off):
            rounds = bench.alternate(
                lambda on=on: on.measure("gRPC", 64, bench.seconds),
                lambda off=off: off.measure("gRPC", 64, bench.seconds),
            )
        speed_on, speed_off = map(median_speed, zip(*rounds, strict=True))
        ratio = statistics.median(a.requests_per_second / b.requests_per_second for a, b in rounds)
        work = f"batching on, image model, {request}, 64 clients, gRPC"
        yield work, f"{speed_on:,.0f} requests/s", f"off {speed_off:,.0f}", f"{ratio:.2f}×", "≥ 2×"
        p99_on, p99_off = (statistics.median(load.p99 for load in loads) for loads in zip(*rounds, strict=True))
        yield f"{work}, p99", f"{p99_on:.1f} ms", f"off {p99_off:.1f} ms", f"{p99_on - p99_off:+.1f} ms", "no worse"


def start(bench: Bench) -> Iterator[tuple[str, ...]]:
    def start_server() -> float:
        server = ours(bench.directory / "vector")
        server.stop()
        return server.start_seconds

    def import_tensorflow() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import tensorflow"], check=True, env=os.environ | QUIET)
        return time.perf_counter() - start

    start_server(), import_tensorflow()  # now the files are in memory
    rounds = bench.alternate(start_server, import_tensorflow)
    server_seconds, import_seconds = map(statistics.median, zip(*rounds, strict=True))
    overhead = statistics.median(a - b for a, b in rounds)
    work = "start to ready, one small model"
    yield (
        work,
        f"{server_seconds:.2f} s",
        f"`import tensorflow` {import_seconds:.2f} s",
        f"{overhead:+.2f} s",
        "≤ +1.5 s",
    )


def client(bench: Bench) -> Iterator[tuple[str, ...]]:
    def import_client() -> list[float]:
        command = [sys.executable, "-c", CLIENT_IMPORT]
        return [float(x) for x in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()]

    import_client()
    rounds = bench.alternate(import_client)
    seconds, resident = (statistics.median(numbers) for numbers in zip(*(r for (r,) in rounds), strict=True))
    yield "client, imported and created", f"{seconds:.2f} s, {resident:.0f} MB resident", "", "", "≤ 0.4 s, ≤ 60 MB"


ROWS: dict[str, Callable[[Bench], Iterator[tuple[str, ...]]]] = {
    "grpc-latency": grpc_latency,
    "grpc-peers": grpc_peers,
    "rest-latency": rest_latency,
    "rest-peers": rest_peers,
    "batching": batching,
    "start": start,
    "client": client,
}


def make_environment() -> str:
    """-> the Python of the environment of the other servers, which is created the first time."""
    python = ENVIRONMENT / "bin" / "python"
    if not (ENVIRONMENT / "installed").exists():
        print(f"installing the other servers into {ENVIRONMENT.name}, which takes minutes", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
        requirements = str(PEERS / "requirements.txt")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        (ENVIRONMENT / "installed").touch()
    return str(python)


def print_machine(python: str) -> None:
    """Print processor, load and versions. `python`: that of the other servers, or ""."""
    names = (line for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines() if line.startswith("model name"))
    processor = next(names, platform.machine()).partition(":")[2].strip() or platform.machine()
    print(f"{os.cpu_count()} cores of {processor}; load before: {os.getloadavg()[0]:.2f}")
    print(f"Python {platform.python_version()}; " + ", ".join(f"{name} {version(name)}" for name in PACKAGES))
    if python:
        code = f"from importlib.metadata import version\nfor name in {PEER_PACKAGES}: print(name, version(name))"
        installed = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout
        print("other servers: " + ", ".join(installed.splitlines()))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__.splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"rows to measure: {', '.join(ROWS)} (default: all)")
    parser.add_argument("--image-model", type=Path, help="an exported image_classification, for the row `batching`")
    parser.add_argument("--batching-parameters", type=Path, help="file for --batching_parameters_file")
    parser.add_argument(
        "--peers", metavar="PYTHON", help="the Python of an environment with benchmarks/peers/requirements.txt"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=5, help="of one measurement")
    args = parser.parse_args(arguments)
    if unknown := [row for row in args.rows if row not in ROWS]:
        parser.error(f"there is no row {unknown[0]}; choose from {', '.join(ROWS)}")
    if "batching" in args.rows and not args.image_model:
        parser.error("batching needs --image-model, an exported image_classification; see docs/benchmarks.md")
    rows = args.rows or [row for row in ROWS if row != "batching" or args.image_model]
    python = args.peers or (make_environment() if any(row.endswith("-peers") for row in rows) else "")
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make = [sys.executable, "-m", "benchmarks.serving_models", name]
        subprocess.run(
            [*make, *([str(args.image_model)] if args.image_model else [])], check=True, env=os.environ | QUIET
        )
        parameters = args.batching_parameters or directory / "batching.config"
        if not args.batching_parameters:
            parameters.write_text(BATCHING, "utf-8")
        bench = Bench(directory, python, args.rounds, args.seconds, parameters)
        print_machine(python)
        print("\n| work | ours | against | difference | aim |\n|---|---|---|---|---|", flush=True)
        for row in rows:
            for columns in ROWS[row](bench):
                print(f"| {' | '.join(columns)} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
