"""``python -m demos``: the page on http://127.0.0.1:7860."""

from __future__ import annotations

import argparse
import signal
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
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the page until Ctrl-C or SIGTERM; the exit status."""
    options = parser().parse_args(arguments)
    try:
        cli.check_free(options.host, options.port, "--port")
    except cli.Wrong as wrong:
        return complain(wrong)
    cli.without_proxy("127.0.0.1", "localhost", options.host)  # Gradio asks its own page whether it is there
    try:
        serve(options)
    except cli.Wrong as wrong:
        return complain(wrong)
    return 0


def complain(wrong: cli.Wrong) -> int:
    """Say what was wrong; the exit status."""
    print(f"python -m demos: {wrong}", file=sys.stderr)
    return 2


def serve(options: argparse.Namespace) -> None:
    """Show the page until a signal ends it."""
    # Gradio takes seconds to import: --help and errors do not wait for it.
    from demos.app import build, launch_options
    from demos.examples import load_examples
    from serving.client import Client

    done = threading.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        signal.signal(name, lambda *_: done.set())
    with Client(options.server) as client:
        page = build(client, load_examples(options.models_dir), options.server)
        try:
            page.launch(
                server_name=options.host, server_port=options.port, prevent_thread_lock=True, **launch_options()
            )
        except OSError:  # taken since it was looked at
            raise cli.Wrong(f"port {options.port} on {options.host} is in use; choose another with --port.") from None
        shown = f"[{options.host}]" if ":" in options.host else options.host
        print(f"Demos: http://{shown}:{options.port}  (model server: {options.server}; Ctrl-C ends)", flush=True)
        done.wait()
        page.close(verbose=False)


if __name__ == "__main__":
    sys.exit(main())
