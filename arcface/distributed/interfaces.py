"""Network interfaces of this machine."""

import socket

import psutil


def interface_of(endpoint: str) -> str | None:
    """Return the name of the interface with the IPv4 address of "host:port"; None if this machine does not have that address."""
    try:
        address = socket.gethostbyname(endpoint.rpartition(":")[0])
    except OSError:
        return None
    for name, addresses in psutil.net_if_addrs().items():
        if any(one.family == socket.AF_INET and one.address == address for one in addresses):
            return name.partition(":")[0]  # eth0:1 is a second address of eth0
    return None
