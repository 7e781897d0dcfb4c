"""``python -m demos``: serve the page at http://127.0.0.1:7860."""

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
    """Return the parser of the command line."""
    options = cli.Parser(
        prog="python -m demos",
        description="Serve a web page for the three networks. It sends requests to a model server over gRPC; start one "
        f"with `{serve_command('localhost:8500')}`. The page also opens without the server, and waits for it.",
    )
    options.add_argument(
        "--server", type=cli.address, default="localhost:8500", metavar="HOST:PORT",
        help="gRPC address of the model server (default: %(default)s)",
    )  # fmt: skip
    options.add_argument(
        "--models-dir", type=cli.models_dir, metavar="DIR",
        help="directory of exported models, whose examples the page shows (default: built-in examples)",
    )  # fmt: skip
    options.add_argument("--port", type=cli.port, default=7860, help="port of the page (default: %(default)s)")
    options.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all networks (default: %(default)s)"
    )
    options.add_argument(
        "--allowed-hosts", type=cli.host_names, default=(), metavar="NAME,...",
        help="more host names that the page accepts, such as those of a proxy or of pages of other origins; it always "
        "accepts localhost, 127.0.0.1, ::1 and --host (with 0.0.0.0: any IP address, and this machine's host name)",
    )  # fmt: skip
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C or SIGTERM; return the exit status."""
    options = parser().parse_args(arguments)
    try:
        with cli.listen(options.host, options.port, "--port") as listener:
            serve(options, listener)
    except cli.UsageError as error:
        print(f"python -m demos: {error}", file=sys.stderr)
        return 2
    return 0


def serve(options: argparse.Namespace, listener: socket.socket) -> None:
    """Serve the page at a bound socket until a signal arrives."""
    # Importing Gradio takes seconds, for which --help and errors must not wait.
    from demos.app import build, web_app
    from demos.examples import load_examples
    from demos.guard import AllowedHosts
    from demos.server import serve_in_thread
    from serving.client import Client

    stop = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: stop.set())
    with Client(options.server) as client:
        page = build(client, load_examples(options.models_dir), options.server)
        with serve_in_thread(web_app(page, AllowedHosts(options.host, options.allowed_hosts)), listener):
            host = f"[{options.host}]" if ":" in options.host else options.host
            print(f"Demos: http://{host}:{options.port}  (model server: {options.server}; Ctrl-C stops)", flush=True)
            stop.wait()


if __name__ == "__main__":
    sys.exit(main())
