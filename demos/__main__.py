"""``python -m demos``: the page on http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
from collections.abc import Sequence

from demos import cli
from demos.tasks import serve_command


def parser() -> argparse.ArgumentParser:
    """The command line."""
    options = cli.Parser(
        prog="python -m demos",
        description="A web page to play with the three networks. It asks a model server over gRPC; start one "
        f"with `{serve_command('localhost:8500')}`. The page opens without it too, and waits for it.",
    )
    options.add_argument(
        "--server", type=cli.address, default="localhost:8500", metavar="HOST:PORT",
        help="the model server's gRPC address (default: %(default)s)",
    )  # fmt: skip
    options.add_argument(
        "--models-dir", type=cli.models_dir, metavar="DIR",
        help="exported models whose own examples are offered (default: built-in examples)",
    )  # fmt: skip
    options.add_argument("--port", type=cli.port, default=7860, help="of the page (default: %(default)s)")
    options.add_argument(
        "--host", default="127.0.0.1", help="to listen on; 0.0.0.0 for every network (default: %(default)s)"
    )
    options.add_argument(
        "--allowed-hosts", type=cli.host_names, default=(), metavar="NAME,...",
        help="names by which the page may be opened, beside localhost, 127.0.0.1, ::1 and --host (with 0.0.0.0: any IP "
        "address and this machine's own name); those that a proxy passes on or that pages of other origins have",
    )  # fmt: skip
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the page until Ctrl-C or SIGTERM; the exit status."""
    options = parser().parse_args(arguments)
    try:
        with cli.listen(options.host, options.port, "--port") as listener:
            serve(options, listener)
    except cli.Wrong as wrong:
        print(f"python -m demos: {wrong}", file=sys.stderr)
        return 2
    return 0


def serve(options: argparse.Namespace, listener: socket.socket) -> None:
    """Show the page at a bound socket until a signal ends it."""
    # Gradio takes seconds to import: --help and errors do not wait for it.
    from demos.app import build, web_app
    from demos.examples import load_examples
    from demos.guard import AllowedHosts
    from demos.server import running
    from serving.client import Client

    done = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: done.set())
    with Client(options.server) as client:
        page = build(client, load_examples(options.models_dir), options.server)
        with running(web_app(page, AllowedHosts(options.host, options.allowed_hosts)), listener):
            shown = f"[{options.host}]" if ":" in options.host else options.host
            print(f"Demos: http://{shown}:{options.port}  (model server: {options.server}; Ctrl-C ends)", flush=True)
            done.wait()


if __name__ == "__main__":
    sys.exit(main())
