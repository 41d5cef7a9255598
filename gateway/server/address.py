"""The addresses that a host stands for, as it may be written, and the socket for all networks."""

from __future__ import annotations

import socket

EVERY_NETWORK = "::"


def without_brackets(host: str) -> str:
    """Return ``[::1]``, as addresses write it, as ``::1``."""
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def socket_of_every_network(port: int, backlog: int) -> socket.socket:
    """Return a listening socket for IPv6 and, where the system can do that, for IPv4.

    Raises:
        OSError: the port is taken, or there is no IPv6.
    """
    return socket.create_server(
        (EVERY_NETWORK, port),
        family=socket.AF_INET6,
        backlog=backlog,
        dualstack_ipv6=socket.has_dualstack_ipv6(),
    )
