"""Command-line helpers of both programs: one-line errors and the types of options."""

from __future__ import annotations

import argparse
import errno
import re
import socket
from pathlib import Path
from typing import NoReturn

from demos.guard import is_address


class UsageError(Exception):
    """The command line is invalid; the message says what is allowed. Exit status 2."""


class RunError(Exception):
    """The program failed; the message is one sentence. Exit status 1."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line, without the usage, which ``--help`` prints."""

    def error(self, message: str) -> NoReturn:
        """Print the message and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (--help lists the options).\n")


def port(text: str) -> int:
    """Parse a TCP port."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; it must be a number from 1 to 65535")
    return int(text)


def address(text: str) -> str:
    """Check HOST:PORT; IPv6 in brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", text)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:PORT; it must be the server's gRPC address, for example localhost:8500"
        )
    return text


def models_dir(text: str) -> Path:
    """Parse the path of an existing directory."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a directory; it must be the --models_dir of the server")
    return path


def host_names(text: str) -> tuple[str, ...]:
    """Parse NAME,NAME,...: host names or IP addresses without ports."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) and not is_address(name):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a host name; it must be a name as in the browser's address bar, without scheme and "
                "port, for example demos.example.org"
            )
    return tuple(names)


def listen(host: str, number: int, option: str) -> socket.socket:
    """Return a socket that listens on ``host:number``; connections wait until they are accepted.

    Raises: UsageError if it cannot listen there.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            # Bind although connections of a closed socket are still in TIME_WAIT.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except UnicodeError as error:  # the name has an empty or an overlong label
        raise UsageError(f"{host!r} is not a host name; it must be an address of this machine.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {number} on {host} is in use; choose another with {option}.") from error
        raise UsageError(f"cannot listen on {host}:{number} ({error.strerror}); choose another address.") from error
    return listener


def check_port_is_free(host: str, number: int, option: str) -> None:
    """Raise ``UsageError`` if ``host:number`` is not free."""
    listen(host, number, option).close()
