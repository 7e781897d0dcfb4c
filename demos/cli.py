"""What the two programs share: one-sentence errors and checks of what was asked for."""

from __future__ import annotations

import argparse
import errno
import re
import socket
from pathlib import Path
from typing import NoReturn

from demos.guard import is_address


class Wrong(Exception):
    """The request was wrong: one sentence on what was given, what is allowed and what to do. Status 2."""


class Failed(Exception):
    """The work failed, in one sentence. Status 1."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one sentence: the usage is what ``--help`` is for."""

    def error(self, message: str) -> NoReturn:
        """Say it and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (--help lists the options).\n")


def port(text: str) -> int:
    """A TCP port from the command line."""
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port; give a number from 1 to 65535")
    return int(text)


def address(text: str) -> str:
    """HOST:PORT from the command line; IPv6 in brackets."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})", text)
    if not match or not 1 <= int(match[2]) <= 65535:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not HOST:PORT; give the server's gRPC address, for example localhost:8500"
        )
    return text


def models_dir(text: str) -> Path:
    """An existing directory from the command line."""
    path = Path(text)
    if not path.is_dir():
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a directory; give the one that the server's --models_dir names"
        )
    return path


def host_names(text: str) -> tuple[str, ...]:
    """NAME,NAME,... from the command line: host names or IP addresses without ports."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name) and not is_address(name):
            raise argparse.ArgumentTypeError(
                f"{name!r} is not a host name; give names as in the browser's address line, without scheme and port, "
                "for example demos.example.org"
            )
    return tuple(names)


def listen(host: str, number: int, option: str) -> socket.socket:
    """A socket that listens on ``host:number``, where connections wait; ``Wrong`` where that cannot be."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed one's last packets do not count
            listener.bind(where)
            listener.listen()
        except OSError:
            listener.close()
            raise
    except UnicodeError as error:  # of a name with an empty or overlong part
        raise Wrong(f"{host!r} is not a host name; give an address of this machine.") from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Wrong(f"port {number} on {host} is in use; choose another with {option}.") from error
        raise Wrong(f"{host}:{number} cannot be listened on ({error.strerror}); choose another.") from error
    return listener


def check_free(host: str, number: int, option: str) -> None:
    """Raise ``Wrong`` where ``host:number`` cannot be listened on."""
    listen(host, number, option).close()
