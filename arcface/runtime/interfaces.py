"""Network interfaces of this machine."""

import array
import socket
import struct
import sys

SIOCGIFCONF = 0x8912  # from Linux's ioctls.h: the names and IPv4 addresses of all interfaces
ENTRY = struct.Struct("16s H H 4s 16x")  # ifreq: name, family, port, IPv4 address
MOST_ENTRIES = 256


def interface_of(endpoint: str) -> str | None:
    """Return the interface that has the address of "host:port"; None if it is none of this machine's, or not on Linux."""
    if sys.platform != "linux":
        return None
    try:
        address = socket.inet_aton(socket.gethostbyname(endpoint.rpartition(":")[0]))
        return _interfaces().get(address)
    except OSError:
        return None


def _interfaces() -> dict[bytes, str]:
    from fcntl import ioctl

    entries = array.array("B", bytes(MOST_ENTRIES * ENTRY.size))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = ioctl(any_socket, SIOCGIFCONF, struct.pack("iP", len(entries), entries.buffer_info()[0]))
    filled = struct.unpack("iP", answer)[0]
    found: dict[bytes, str] = {}
    for name, _, _, address in ENTRY.iter_unpack(entries[:filled].tobytes()):
        found.setdefault(address, name.partition(b"\0")[0].decode().partition(":")[0])  # eth0:1 is a second address of eth0
    return found
