"""``python -m demos.quickstart``: train quickly, export and serve all three tasks and start the demos.

Only this module runs the other programs. It calls their command lines instead of importing them.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demos import cli, health
from demos.predictions import ModelClient
from demos.tasks import TASKS
from serving.client import Client

HOST = "127.0.0.1"
START_TIMEOUT = 180.0  # seconds for the startup of the server and the page; TensorFlow alone takes 10 on two cores
STOP_TIMEOUT = 10.0  # seconds until a child that does not terminate is killed
POLL_SECONDS = 0.2


class StopSignal(Exception):
    """Ctrl-C, SIGTERM or SIGHUP."""


@dataclass
class ChildProcesses:
    """The running programs by process id."""

    running: dict[int, tuple[subprocess.Popen[bytes], str]] = field(default_factory=dict)

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        """Start ``python -m ARGUMENTS`` in its own process group, so that only ``stop`` ends it, not Ctrl-C."""
        command = [sys.executable, "-m", *map(str, arguments)]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        self.running[child.pid] = (child, " ".join(["python", "-m", *map(str, arguments)]))
        return child

    def finish(self, *arguments: object) -> None:
        """Run a program to its end.

        Raises: RunError if it fails.
        """
        child = self.start(*arguments)
        status = child.wait()
        _, command = self.running.pop(child.pid)
        if status:
            raise cli.RunError(f"`{command}` ended with exit status {status}; results of earlier steps are kept.")

    def check(self) -> None:
        """Raise ``RunError`` if one of the programs has ended."""
        for child, command in self.running.values():
            if child.poll() is not None:
                raise cli.RunError(f"`{command}` ended with exit status {child.returncode}.")

    def stop(self) -> None:
        """Terminate all running programs and wait for them."""
        children = [child for child, _ in self.running.values() if child.poll() is None]
        for child in children:
            child.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT
        for child in children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    options = cli.Parser(
        prog="python -m demos.quickstart",
        description="Train the three networks quickly on bundled data, export them, and start a model "
        "server and the demos. Results of earlier calls are reused; interrupted training continues.",
    )
    options.add_argument(
        "--models-dir", type=Path, default=Path("models"), help="directory of exported models (default: models)"
    )
    options.add_argument(
        "--runs-dir", type=Path, default=Path("runs/quick"), help="directory of training runs (default: runs/quick)"
    )
    for name, default, description in (
        ("--port", 7860, "port of the page"),
        ("--grpc-port", 8500, "gRPC port of the model server"),
        ("--rest-port", 8501, "REST port of the model server"),
    ):
        options.add_argument(name, type=cli.port, default=default, help=f"{description} (default: {default})")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps and wait for a signal; return the exit status."""
    options = parser().parse_args(arguments)
    children = ChildProcesses()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, raise_stop_signal)
    try:
        run(options, children)
    except cli.UsageError as error:
        return print_error(error, 2)
    except cli.RunError as error:
        return print_error(error, 1)
    except StopSignal:
        return print_error("stopped; the training so far is kept, and the same command continues from there.", 1)
    finally:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)  # a second Ctrl-C must not leave children behind
        children.stop()
    return 0


def raise_stop_signal(number: int, frame: object) -> None:
    """Handle a signal: unwind to ``main``, which stops the children."""
    raise StopSignal


def print_error(error: Exception | str, status: int) -> int:
    """Print an error; return the exit status."""
    print(f"python -m demos.quickstart: {error}", file=sys.stderr, flush=True)
    return status


def run(options: argparse.Namespace, children: ChildProcesses) -> None:
    """Check, train, export, start, and wait until a signal arrives or a child ends."""
    check_ports(options)
    log = ProgressLog()
    for task in TASKS:
        prepare(task, options, children, log)
    log("Starting the model server and the demos ...")
    server = f"{HOST}:{options.grpc_port}"
    children.start(
        "serving", f"--models_dir={options.models_dir}", f"--port={options.grpc_port}",
        f"--rest_api_port={options.rest_port}", "--max_num_load_retries=0", "--rest_api_extensions",
    )  # fmt: skip
    children.start("demos", f"--server={server}", f"--models-dir={options.models_dir}", f"--port={options.port}")
    page = f"http://{HOST}:{options.port}"
    with Client(server) as client:
        wait_for(lambda: page_answers(page) and all_ready(client), children)
    log("Ready.")
    print(ready_message(page, server, f"http://{HOST}:{options.rest_port}"), flush=True)
    try:
        while True:
            children.check()
            time.sleep(POLL_SECONDS)
    except StopSignal:  # the normal end, as the message says
        log("Stopping ...")


def check_ports(options: argparse.Namespace) -> None:
    """Raise ``UsageError`` if a port is in use, before minutes of training."""
    ports = {"--port": options.port, "--grpc-port": options.grpc_port, "--rest-port": options.rest_port}
    if len(set(ports.values())) < len(ports):
        numbers = ", ".join(f"{option} {number}" for option, number in ports.items())
        raise cli.UsageError(f"the ports are {numbers}; they must differ.")
    for option, number in ports.items():
        cli.check_port_is_free(HOST, number, option)


class ProgressLog:
    """Prints messages with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self.start:5.0f} s] {text}", flush=True)


def prepare(task: str, options: argparse.Namespace, children: ChildProcesses, log: ProgressLog) -> None:
    """Train and export one task, unless an earlier call has done it."""
    if is_exported(options.models_dir / task):
        log(f"{task}: already exported to {options.models_dir / task}")
        return
    run_dir = options.runs_dir / task
    if (run_dir / "metrics.json").exists():
        log(f"{task}: already trained in {run_dir}")
    else:
        log(f"{task}: training ...")
        children.finish("kerasnets.train", task, "--preset", "quick", "--run-dir", run_dir)
    log(f"{task}: exporting ...")
    children.finish("kerasnets.export", run_dir, "--models-dir", options.models_dir)


def is_exported(model: Path) -> bool:
    """Return whether the directory has a version that a server can load."""
    return any(path.parent.name.isdecimal() for path in model.glob("*/saved_model.pb"))


def wait_for(ready: Callable[[], bool], children: ChildProcesses) -> None:
    """Wait until ``ready()``.

    Raises: RunError if a child ends, or after START_TIMEOUT.
    """
    deadline = time.monotonic() + START_TIMEOUT
    while not ready():
        children.check()
        if time.monotonic() > deadline:
            raise cli.RunError(f"The server and the page did not answer within {START_TIMEOUT:.0f} seconds.")
        time.sleep(POLL_SECONDS)


def page_answers(url: str) -> bool:
    """Return whether the page can be opened; without a proxy, because the page is on this machine."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def all_ready(client: ModelClient) -> bool:
    """Return whether all three models are ready."""
    state = health.check(client)
    for task, model in state.models.items():
        if model.state == health.FAILED:
            raise cli.RunError(f"The server could not load {task}: {model.detail}")
    return state.reachable and all(model.state == health.READY for model in state.models.values())


def ready_message(page: str, grpc: str, rest: str) -> str:
    """Return the message with the addresses of the page and the server."""
    server = f"{rest} (status page and REST), {grpc} (gRPC)"
    return f"\n  Demos          {page}\n  Model server   {server}\n\nStop both with Ctrl-C."


if __name__ == "__main__":
    sys.exit(main())
