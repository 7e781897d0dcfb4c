"""Allowed hosts of HTTP requests."""

from __future__ import annotations

import re
import socket
from ipaddress import ip_address

from serving.errors import UsageError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
# RFC 3986, section 3.2.2. No port: the client has already connected to the right one.
HOST_NAME = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%-]*")


def allowed_hosts(address: str, hosts: str) -> frozenset[str] | None:
    """Return the hosts that requests may address; None: any.

    Args:
        address: the address that the server listens on. If `hosts` is empty, a loopback address allows only the names
            of this machine, any other address allows all hosts.
        hosts: host names or addresses without ports, separated by commas; * means any.
    Raises: UsageError if `hosts` is invalid.
    """
    if not hosts:
        return frozenset({*LOOPBACK, normalize_host(address)}) if _is_loopback(address) else None
    names = [name.strip() for name in hosts.split(",")]
    for name in names:
        is_name = name == "*" or ("*" not in name and HOST_NAME.fullmatch(name))
        if not name or not (is_name or is_ipv6(name.strip("[]"))):
            raise UsageError(
                f"--rest_api_allowed_hosts is {hosts}; it must be a comma-separated list of host names or addresses "
                f"without ports, or *, which {name!r} is not."
            )
    return None if "*" in names else frozenset(map(normalize_host, names))


def normalize_host(host: str) -> str:
    """Normalize a host for comparison: lower case, no final dot, one form for each IP address."""
    host = host.strip("[]").lower().removesuffix(".")
    return str(ip_address(host)) if ":" in host else host


def is_ipv6(host: str) -> bool:
    try:
        return ip_address(host).version == 6
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    """Return whether an address or name can be reached only from this machine."""
    try:
        addresses = {str(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except OSError:  # the server will not start there either
        return False
    return all(ip_address(address.partition("%")[0]).is_loopback for address in addresses)
