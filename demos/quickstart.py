"""``python -m demos.quickstart``: train quickly, export, serve and show all three tasks with one command.

This is the one place that runs the other programs; it imports none of them, only calls their command lines.
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
START_LIMIT = 180.0  # seconds that the server and the page may take; TensorFlow alone takes 10 on two cores
STOP_LIMIT = 10.0  # seconds that a child may take to end before it is killed
POLL = 0.2


class Stopped(Exception):
    """Somebody pressed Ctrl-C or sent SIGTERM."""


@dataclass
class Children:
    """The programs that run, so that each is ended by its own process id."""

    running: dict[int, tuple[subprocess.Popen[bytes], str]] = field(default_factory=dict)

    def start(self, *arguments: object) -> subprocess.Popen[bytes]:
        """Run ``python -m ARGUMENTS``. In its own process group: Ctrl-C reaches it through ``stop`` alone."""
        command = [sys.executable, "-m", *map(str, arguments)]
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)
        self.running[child.pid] = (child, " ".join(["python", "-m", *map(str, arguments)]))
        return child

    def finish(self, *arguments: object) -> None:
        """Run a program to its end; ``Failed`` where it fails."""
        child = self.start(*arguments)
        status = child.wait()
        _, command = self.running.pop(child.pid)
        if status:
            raise cli.Failed(f"`{command}` ended with exit status {status}; what was finished before it is kept.")

    def check(self) -> None:
        """``Failed`` where a program that should run has ended."""
        for child, command in self.running.values():
            if child.poll() is not None:
                raise cli.Failed(f"`{command}` ended with exit status {child.returncode}.")

    def stop(self) -> None:
        """End what still runs, all at once, and wait for it."""
        children = [child for child, _ in self.running.values() if child.poll() is None]
        for child in children:
            child.terminate()
        deadline = time.monotonic() + STOP_LIMIT
        for child in children:
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.Parser(
        prog="python -m demos.quickstart",
        description="Train the three networks quickly on bundled data, export them, and start a model "
        "server and the demos. What an earlier call finished is used again; what it left is taken up.",
    )
    options.add_argument("--models-dir", type=Path, default=Path("models"), help="exported models (default: models)")
    options.add_argument(
        "--runs-dir", type=Path, default=Path("runs/quick"), help="training runs (default: runs/quick)"
    )
    for name, default, what in (
        ("--port", 7860, "the demos' page"),
        ("--grpc-port", 8500, "the model server's gRPC"),
        ("--rest-port", 8501, "the model server's REST"),
    ):
        options.add_argument(name, type=cli.port, default=default, help=f"{what} (default: {default})")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all steps and then wait; the exit status."""
    options = parser().parse_args(arguments)
    children = Children()
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, stopped)
    try:
        run(options, children)
    except cli.Wrong as wrong:
        return complain(wrong, 2)
    except cli.Failed as failed:
        return complain(failed, 1)
    except Stopped:
        return complain("stopped; what is trained is kept, and the same command goes on from there.", 1)
    finally:
        for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, signal.SIG_IGN)  # a second Ctrl-C must not leave children behind
        children.stop()
    return 0


def stopped(number: int, frame: object) -> None:
    """A signal handler: unwind to ``main``, which ends the children."""
    raise Stopped


def complain(error: Exception | str, status: int) -> int:
    """Say what went wrong; the exit status."""
    print(f"python -m demos.quickstart: {error}", file=sys.stderr, flush=True)
    return status


def run(options: argparse.Namespace, children: Children) -> None:
    """Check, train, export, start, and wait until a signal comes or a child ends."""
    check_ports(options)
    say = Announcer()
    for task in TASKS:
        prepare(task, options, children, say)
    say("Starting the model server and the demos ...")
    server = f"{HOST}:{options.grpc_port}"
    children.start(
        "serving", f"--models_dir={options.models_dir}", f"--port={options.grpc_port}",
        f"--rest_api_port={options.rest_port}", "--max_num_load_retries=0", "--rest_api_extensions",
    )  # fmt: skip
    children.start("demos", f"--server={server}", f"--models-dir={options.models_dir}", f"--port={options.port}")
    page = f"http://{HOST}:{options.port}"
    with Client(server) as client:
        wait_for(lambda: page_answers(page) and all_ready(client), children)
    say("Ready.")
    print(ready_message(page, server, f"http://{HOST}:{options.rest_port}"), flush=True)
    try:
        while True:
            children.check()
            time.sleep(POLL)
    except Stopped:  # as the message says: this is how it ends well
        say("Stopping ...")


def check_ports(options: argparse.Namespace) -> None:
    """Training for minutes, to find a port taken at its end, would be a pity."""
    ports = {"--port": options.port, "--grpc-port": options.grpc_port, "--rest-port": options.rest_port}
    if len(set(ports.values())) < len(ports):
        numbers = ", ".join(f"{option} {number}" for option, number in ports.items())
        raise cli.Wrong(f"The three ports must differ, but were given as {numbers}; change one of them.")
    for option, number in ports.items():
        cli.check_free(HOST, number, option)


class Announcer:
    """Prints what happens, with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, text: str) -> None:
        print(f"[{time.monotonic() - self.start:5.0f} s] {text}", flush=True)


def prepare(task: str, options: argparse.Namespace, children: Children, say: Announcer) -> None:
    """Train and export one task, as far as that has not been done."""
    if exported(options.models_dir / task):
        say(f"{task}: exported already, in {options.models_dir / task}")
        return
    run_dir = options.runs_dir / task
    if (run_dir / "metrics.json").exists():
        say(f"{task}: trained already, in {run_dir}")
    else:
        say(f"{task}: training ...")
        children.finish("kerasnets.train", task, "--preset", "quick", "--run-dir", run_dir)
    say(f"{task}: exporting ...")
    children.finish("kerasnets.export", run_dir, "--models-dir", options.models_dir)


def exported(model: Path) -> bool:
    """Whether there is a version that a server could load."""
    return any(path.parent.name.isdecimal() for path in model.glob("*/saved_model.pb"))


def wait_for(ready: Callable[[], bool], children: Children) -> None:
    """Wait until ``ready``; ``Failed`` where a child ends before, or after a long time."""
    deadline = time.monotonic() + START_LIMIT
    while not ready():
        children.check()
        if time.monotonic() > deadline:
            raise cli.Failed(f"The server and the page did not answer within {START_LIMIT:.0f} seconds.")
        time.sleep(POLL)


def page_answers(url: str) -> bool:
    """Whether the demos' page can be opened. Without a proxy: the page is on this machine."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=2):
            return True
    except (urllib.error.URLError, OSError):
        return False


def all_ready(client: ModelClient) -> bool:
    """Whether the server answers for all three models."""
    state = health.check(client)
    for task, model in state.models.items():
        if model.state == health.FAILED:
            raise cli.Failed(f"The server could not load {task}: {model.detail}")
    return state.reachable and all(model.state == health.READY for model in state.models.values())


def ready_message(page: str, grpc: str, rest: str) -> str:
    """Where everything is."""
    server = f"{rest} (status page and REST), {grpc} (gRPC)"
    return f"\n  Demos          {page}\n  Model server   {server}\n\nCtrl-C ends both."


if __name__ == "__main__":
    sys.exit(main())
