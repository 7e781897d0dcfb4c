"""The process of the model server: parse flags, reserve ports, load models, serve, shut down."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from importlib.metadata import version
from types import FrameType
from typing import TYPE_CHECKING

from serving.errors import StatusError, UsageError
from serving.models.storage import ModelConfig, check_models_exist, configured_models
from serving.settings.flags import Flags, check, parse, usage

if TYPE_CHECKING:
    from serving.server.app import ServerApp

log = logging.getLogger("serving")

EXIT_OK, EXIT_USAGE, EXIT_START_FAILED = 0, 2, 255


def main(arguments: list[str]) -> int:
    """Run the server until SIGTERM or SIGINT; return the exit status."""
    try:
        flags = parse(arguments)
        if flags.help:
            print(usage(), end="")
        elif flags.version:
            print(f"TensorFlow Library: {version('tensorflow')}")
        else:
            _log_to_stderr()
            log.setLevel(logging.INFO)
            serve(flags)
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except StatusError as error:
        print(f"Failed to start server. Error: {error}")
        return EXIT_START_FAILED
    return EXIT_OK


class _SingleLineFormatter(logging.Formatter):
    """Escapes unprintable characters, so that model names of clients cannot forge log lines."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in super().formatMessage(record))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(_SingleLineFormatter("%(asctime)s %(levelname).1s %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)


def _exit_while_loading(number: int, frame: FrameType | None) -> None:
    """Exit at once on SIGTERM or SIGINT until the ports are open: there are no requests to drain yet.

    An exception could get lost, because this handler may interrupt an import.
    """
    log.info("Stopped")
    os._exit(EXIT_OK)


def serve(flags: Flags) -> None:
    """Check the flags, reserve the ports, load, open the ports, wait. The first checks run before TensorFlow loads."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _exit_while_loading)
    check(flags)
    models = configured_models(flags)
    check_models_exist(flags, models)
    grpc_socket, rest_socket = _reserve_ports(flags)
    _raise_open_file_limit()
    loop = _new_loop()
    app = _load(flags, models, loop)
    if grpc_socket:
        grpc_socket.close()  # gRPC binds the port itself
    loop.run_until_complete(_run(flags, app, rest_socket))
    log.info("Stopped")


async def _run(flags: Flags, app: ServerApp, rest_socket: socket.socket | None) -> None:
    """Open the ports, wait for a signal, drain the requests in flight."""
    loop, stopped = asyncio.get_running_loop(), asyncio.Event()

    def stop(number: int) -> None:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_DFL)  # a second signal ends the process at once
        stopped.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    addresses = _grpc_addresses(flags)
    await app.start(addresses, rest_socket)
    for address in addresses:
        _print_status(f"Running gRPC ModelServer at {address} ...")
    if rest_socket:
        _print_status(f"Exporting HTTP/REST API at:{_address(flags, flags.rest_api_port)} ...")
    await stopped.wait()
    log.info("Stopping; %.1f seconds for %d requests", flags.drain_seconds, app.requests)
    await app.stop(flags.drain_seconds)


def _print_status(text: str) -> None:
    """Print a message. Ignore a full disk or a closed pipe, so that the server keeps running."""
    with suppress(OSError):
        print(text, flush=True)


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop, of uvloop if installed, which makes a request cost a tenth less."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _raise_open_file_limit() -> None:
    """Raise the limit of open files to the system's maximum, because each connection is an open file."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    _, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))


def _address(flags: Flags, port: int) -> str:
    return f"[{flags.host}]:{port}" if ":" in flags.host else f"{flags.host}:{port}"


def _grpc_addresses(flags: Flags) -> list[str]:
    addresses = [_address(flags, flags.port)] if flags.port else []
    return addresses + ([f"unix:{flags.grpc_socket_path}"] if flags.grpc_socket_path else [])


def _reserve_ports(flags: Flags) -> tuple[socket.socket | None, socket.socket | None]:
    """Bind the ports (gRPC, REST) without listening: no other process can bind them, no client connects too early."""
    grpc_socket = _bind(flags.host, flags.port, "port") if flags.port else None
    if flags.rest_api_port and flags.rest_api_port == flags.port:
        log.error("--rest_api_port cannot be same as --port. Please use a different port for HTTP/REST API.")
        return grpc_socket, None
    return grpc_socket, _bind(flags.host, flags.rest_api_port, "rest_api_port") if flags.rest_api_port else None


def _bind(host: str, port: int, flag: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # IPPROTO_TCP is explicit because asyncio sets TCP_NODELAY only on such sockets.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        # SO_REUSEADDR allows binding while old connections close, but also lets two sockets share a port until one
        # listens, so it is reset after the bind.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except (OSError, OverflowError) as error:
        bound.close()
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"--{flag}={port} cannot be used at {host} ({reason}): stop the program that uses it or choose "
            f"another port from 1 to 65535, for example --{flag}={port % 60000 + 10}."
        ) from None
    return bound


def _load(flags: Flags, models: list[ModelConfig], loop: asyncio.AbstractEventLoop) -> ServerApp:
    """Start TensorFlow and the manager; return when every model has an available version."""
    _print_status("Loading TensorFlow and the models ...")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    # The 250,000 objects of the imports stay alive; a garbage collection over them blocks all requests for 0.1 s.
    gc.disable()
    _import_tensorflow()
    from serving.server.app import ServerApp

    gc.freeze()
    gc.enable()
    app = ServerApp(flags, models, loop)
    app.load()
    return app


def _import_tensorflow() -> None:
    """Import TensorFlow without Keras and HDF5, which SavedModels do not need.

    TensorFlow imports Keras if it can, with plotting and statistics packages: half of the import time.
    """
    unneeded = ("keras", "h5py")
    sys.modules.update(dict.fromkeys(unneeded))  # type: ignore[arg-type]  # None makes their import fail
    try:
        import tensorflow  # noqa: F401
    finally:
        for name in unneeded:
            del sys.modules[name]  # tensorflow_text may import them
