"""Who is at the other end of the control socket, and what he may do there.

Two rights: READ, to be told, and WRITE, to change what is told. Root and the daemon's own user have both, always: an
access list that locks out root only pretends to. Everybody else has what one of his groups gives him; whoever may write
may read.

Who he is comes from the kernel (SO_PEERCRED, SO_PEERGROUPS): what his process was when it connected. The rights are
asked again at each request, because a reload may change which groups have them.
"""

from __future__ import annotations

import grp
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

READ: Final = "read"
WRITE: Final = "write"

_SO_PEERGROUPS: Final = 59
_MAX_OPTION: Final = 1024  # bytes of a socket option that Python reads at once


@dataclass(frozen=True)
class Peer:
    """A process that connected; ``groups`` are its own group and all others that it was in."""

    pid: int
    uid: int
    groups: frozenset[int]


@dataclass(frozen=True)
class Access:
    """Which groups have which right, by number. Unless given, the daemon's own group has both."""

    readers: frozenset[int] = frozenset()
    writers: frozenset[int] = field(default_factory=lambda: frozenset({os.getegid()}))

    def is_usual(self) -> bool:
        """True when only the daemon's own group has rights."""
        return self.readers | self.writers <= {os.getegid()}

    def rights(self, peer: Peer) -> tuple[str, ...]:
        """What he may do: nothing, READ, or READ and WRITE."""
        if peer.uid in (0, os.geteuid()) or not self.writers.isdisjoint(peer.groups):
            return (READ, WRITE)
        return (READ,) if not self.readers.isdisjoint(peer.groups) else ()


def access_of(readers: Sequence[str], writers: Sequence[str]) -> Access:
    """Access for groups by name or number; without ``writers`` the daemon's own group writes. Raises LookupError."""
    usual = Access()
    return Access(
        frozenset(_group(name) for name in readers),
        frozenset(_group(name) for name in writers) if writers else usual.writers,
    )


def _group(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise LookupError(f"no such group: {name}") from None


def peer_of(sock: socket.socket) -> Peer:
    """Who connected by this socket. In more groups than can be read at once he is in his own one alone."""
    pid, uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    groups = {gid}
    try:
        data = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MAX_OPTION)
    except OSError:
        data = b""
    groups.update(struct.unpack(f"{len(data) // 4}I", data))
    return Peer(pid, uid, frozenset(groups))
