"""Which network addresses the server may connect to on behalf of others, and names resolved once to such addresses."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from rejoinder.errors import ConfigError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            # Link-local: at 169.254.169.254 (and .170.2, .170.23) most clouds give credentials to who asks.
            "169.254.0.0/16",
            # The metadata service of AWS over IPv6; it lies among the private addresses.
            "fd00:ec2::254/128",
            # The metadata service of Alibaba Cloud; it lies among the addresses that providers share.
            "100.100.100.200/32",
            # Protocol assignments, no hosts; at 192.0.0.192 is the metadata service of Oracle Cloud.
            "192.0.0.0/24",
            # The host of a machine at Azure, a public address: it gives out the machine's configuration.
            "168.63.129.16/32",
            # Site-local, given up in 2004 for fc00::/7: where routers still know it, it is an inner network.
            "fec0::/10",
            # A network's own translation to IPv4: it leads to any of its inner addresses.
            "64:ff9b:1::/48",
        ),
    )
)
"""Refused always, whatever else is allowed."""
_MOST_ADDRESSES = 3
"""Of one host, this many addresses are tried."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""`resolve(host, port)`: the IP addresses of a host.

Raises:
    OSError: it has none.
"""


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """The addresses of `host`, as the system knows them.

    Raises:
        OSError: it has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


class Resolver:
    """As `resolve_host`, with threads of its own: a name server that does not answer keeps nobody else waiting."""

    def __init__(self, threads: int = 4) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="resolver")

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        """The addresses of `host`.

        Raises:
            OSError: it has none.
        """
        work = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._executor, work)
        return [str(info[4][0]) for info in found]

    def close(self) -> None:
        """Ask no more; what is being asked is not waited for. Idempotent."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def permitted(address: str, *, private: bool = False) -> bool:
    """Whether a connection to `address` may be made: a public one, or with `private` one of this network or machine.

    Link-local, multicast and reserved ones never, nor any where a cloud has a service for its own machines.
    """
    try:
        return _permitted(ipaddress.ip_address(address), private)
    except ValueError:
        return False


async def addresses_of(host: str, port: int, *, private: bool = False, resolve: Resolve = resolve_host) -> list[str]:
    """The addresses of `host` that may be connected to, at most three.

    Connect to one of these and not to the name: a name server could give another address the next time.

    Raises:
        ConfigError: there is no such host (`unknown_host`), or no address of it is permitted (`address_refused`).
    """
    try:
        found = await resolve(host, port)
    except (OSError, UnicodeError):
        found = ()
    if not found:
        raise ConfigError(f"There is no host {host!r}.", code="unknown_host", fix="Check the address.")
    allowed = [address for address in dict.fromkeys(found) if permitted(address, private=private)]
    if not allowed:
        raise ConfigError(f"{host!r} has no address that may be connected to.", code="address_refused")
    return allowed[:_MOST_ADDRESSES]


def _permitted(ip: Address, private: bool) -> bool:
    if any(ip in network for network in _NEVER):
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return False
        if ip.ipv4_mapped is not None:
            return _permitted(ip.ipv4_mapped, private)
        if ip in _NAT64:
            return _permitted(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF), private=False)
        if ip.sixtofour is not None or ip.teredo is not None:
            return False  # tunnels that nobody needs, to any IPv4 address
    if ip.is_loopback:
        return private
    if ip.is_link_local or ip.is_multicast or ip.is_unspecified or ip.is_reserved:
        return False
    return ip.is_global or private
