"""The named sets that an imported file needs: ipsets, and addresses that only the machine knows.

iptables-save names an ipset but not its members, and asks for types of addresses (LOCAL, BROADCAST) that the kernel
looks up in its routes. Both become named sets that somebody has to fill in; each says so in a comment. Names are made
valid and kept apart; `not_X` is kept free for "everything but X" (``values.meet``).
"""

import re
from dataclasses import dataclass
from typing import Final

BROADCAST: Final = "broadcast"
LOCAL: Final = "local"

_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_.-]")
_MOST: Final = 56  # characters, so that a number or "not_" still fits


@dataclass(frozen=True)
class NamedSet:
    name: str
    comment: str
    members: tuple[str, ...] = ()
    dynamic: bool = False


class Sets:
    def __init__(self) -> None:
        self.found: dict[str, NamedSet] = {}  # by what it stands for
        self._names = {BROADCAST, LOCAL}

    def ipset(self, name: str) -> str:
        """The word for an ipset, as `$name`."""
        return self._add(f"ipset {name}", name, f"ipset {name}: fill in its members ('ipset list {name}')", (), True)

    def broadcast(self) -> str:
        """The word for what addrtype calls BROADCAST."""
        comment = "the broadcast addresses of the gateway's networks: add yours, as 192.168.1.255"
        return self._add("type BROADCAST", BROADCAST, comment, ("0.0.0.0", "255.255.255.255"), False)

    def local(self) -> str:
        """The word for what addrtype calls LOCAL."""
        comment = "the gateway's own addresses: fill in all of them"
        return self._add("type LOCAL", LOCAL, comment, (), False)

    def _add(self, key: str, name: str, comment: str, members: tuple[str, ...], dynamic: bool) -> str:
        if key not in self.found:
            if name not in (BROADCAST, LOCAL) or dynamic:
                name = unique(valid(name, "set"), self._names)
            self.found[key] = NamedSet(name, comment, members, dynamic)
        return "$" + self.found[key].name


def valid(name: str, otherwise: str) -> str:
    """`name` made of what names of sets and chains are made of."""
    name = _NOT_IN_NAMES.sub("_", name).lstrip("_.-" if name[:1] in "~^+" else "")[:_MOST]
    if not name or name.startswith("not_") or not (name[0].isalpha() or name[0] == "_"):
        name = f"{otherwise}_{name}"
    return name


def unique(name: str, taken: set[str]) -> str:
    """`name`, or with a number behind it when it is taken; it is taken then."""
    found, number = name, 2
    while found in taken:
        found = f"{name}_{number}"
        number += 1
    taken.add(found)
    return found
