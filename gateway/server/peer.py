"""Who is at the other end of a connection, as far as its address says."""

from __future__ import annotations

import asyncio
import ipaddress

IPV6_CLIENT_BITS = 64
"""A client chooses the other bits of an IPv6 address itself."""


def peer_of(transport: asyncio.BaseTransport) -> str:
    """Return a name that the connections of one client share; empty if they have no address, as on a Unix socket.

    Clients behind a proxy share its address, and so its name.
    """
    address = transport.get_extra_info("peername")
    return client_of(address[0]) if isinstance(address, tuple) else ""


def client_of(host: str) -> str:
    """Return the part of an IP address that tells clients apart: an IPv4 address, or the first half of an IPv6 one."""
    if ":" not in host:
        return host
    address = ipaddress.IPv6Address(host.partition("%")[0])
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((address, IPV6_CLIENT_BITS), strict=False))
