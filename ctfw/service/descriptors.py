"""The descriptors that systemd kept for us: sd_listen_fds(3) on our side of FDSTORE=1 (notify.py).

They are ours from the start on: one that nobody takes is given back, or systemd would keep it, and what hangs on it,
for as long as the service lives.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

FIRST: Final = 3


class Descriptors:
    """``kept`` is what systemd hands to this process, by the name under which it was stored."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.kept: dict[str, int] = {}
        if environment.get("LISTEN_PID") != str(os.getpid()):  # meant for a parent of ours, or for nobody
            return
        count = environment.get("LISTEN_FDS", "0")
        names = environment.get("LISTEN_FDNAMES", "").split(":")
        for number in range(int(count) if count.isdecimal() else 0):
            descriptor = FIRST + number
            os.set_inheritable(descriptor, False)
            name = names[number] if number < len(names) else ""
            if name in self.kept:
                os.close(self.kept[name])
            self.kept[name] = descriptor

    def take(self, name: str) -> int | None:
        """The descriptor of that name, the caller's from now on."""
        return self.kept.pop(name, None)

    def rest(self) -> list[str]:
        """Closes what nobody took; its names, for systemd to forget them as well."""
        names = list(self.kept)
        for name in names:
            os.close(self.kept.pop(name))
        return names
