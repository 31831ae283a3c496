"""The IPv4 networks that this machine can broadcast to: for the helpers whose answers come from a whole network.

As the kernel sees it for them: an interface's first address, if a broadcast address is set on it. Asked with the ioctls
of netdevice(7), which need no rights and take a microsecond each.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from typing import Final

_SIOCGIFADDR: Final = 0x8915
_SIOCGIFBRDADDR: Final = 0x8919
_SIOCGIFNETMASK: Final = 0x891B
_NO_ADDRESS: Final = bytes(4)


def broadcast_networks() -> list[tuple[bytes, bytes, int]]:
    """(own address, broadcast address, prefix length) of each interface that has them, in this network namespace."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, name in socket.if_nameindex():
            try:
                own, broadcast, mask = (
                    _ask(asker, name, what) for what in (_SIOCGIFADDR, _SIOCGIFBRDADDR, _SIOCGIFNETMASK)
                )
            except OSError:  # it has no address, or is gone
                continue
            if _NO_ADDRESS not in (own, broadcast):
                found.append((own, broadcast, int.from_bytes(mask, "big").bit_count()))
    return found


def _ask(asker: socket.socket, name: str, what: int) -> bytes:
    """One address of the interface, from the struct ifreq that the kernel fills in."""
    answer = fcntl.ioctl(asker, what, struct.pack("16sH22x", os.fsencode(name), socket.AF_INET))
    return answer[20:24]
