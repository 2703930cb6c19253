"""The names by which a server is reached, and addresses in URLs."""

from __future__ import annotations

import ipaddress
import os
import socket
from typing import Final

VARIABLE: Final = "LTX2_ALLOWED_HOSTS"
"""More names, comma-separated: those of a reverse proxy or of a company's DNS."""

ALL_ADDRESSES: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared, not bound
"""What stands for every address, and where this machine itself reaches it."""


def known_names(bound: str) -> frozenset[str]:
    """Names, in small letters, that a browser may have written to reach a server bound to an address."""
    more = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    return frozenset(name.lower() for name in ("localhost", socket.gethostname(), bound, *more))


def host_name(host_header: str) -> str:
    """The name in a `Host` header, in small letters, without port and brackets."""
    if host_header.startswith("["):
        return host_header[1:].partition("]")[0].lower()
    return host_header.partition(":")[0].lower().removesuffix(".")


def is_address(name: str) -> bool:
    """Whether a name is an IP address. No name server can make one mean another machine."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def reached_at(bound: str) -> str:
    """Where this machine reaches a server that is bound to an address, as URLs write it."""
    return _in_url(ALL_ADDRESSES.get(bound, bound))


def shown_at(bound: str) -> str:
    """The host in links for people: one that listens on all addresses is shown by the machine's name."""
    if bound not in ALL_ADDRESSES:
        return _in_url(bound)
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return reached_at(bound)
    return socket.gethostname()


def _in_url(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def free_port(bound: str = "127.0.0.1") -> int:
    """A TCP port of an address that nobody listens on.

    Raises:
        OSError: this machine has no such address.
    """
    with socket.socket(family_of(bound)) as probe:
        probe.bind((bound, 0))
        port: int = probe.getsockname()[1]
        return port


def family_of(bound: str) -> socket.AddressFamily:
    """IPv4 or IPv6.

    Raises:
        OSError: the name is no address of anything.
    """
    return socket.getaddrinfo(bound, None, type=socket.SOCK_STREAM)[0][0]
