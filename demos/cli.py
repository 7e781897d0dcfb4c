"""What the two programs share: one-sentence errors and checks of what was asked for."""

from __future__ import annotations

import argparse
import errno
import os
import re
import socket
from pathlib import Path
from typing import NoReturn


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


def without_proxy(*hosts: str) -> None:
    """Ask ``hosts`` directly even where the environment names a proxy: the page is on this machine."""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in known.split(",") if name.strip()]
    names += [host for host in hosts if host not in names]
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = ",".join(names)


def check_free(host: str, number: int, option: str) -> None:
    """Raise ``Wrong`` where ``host:number`` cannot be listened on."""
    try:
        family, kind, _, _, where = socket.getaddrinfo(host, number, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a closed one's last packets do not count
            listener.bind(where)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Wrong(f"port {number} on {host} is in use; choose another with {option}.") from error
        raise Wrong(f"{host}:{number} cannot be listened on ({error.strerror}); choose another.") from error
