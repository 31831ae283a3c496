"""Which boot of the machine this is: a point of the steady clock means something on its own boot alone."""

from __future__ import annotations

import os
from typing import Final

SIZE: Final = 16  # bytes
_PATH: Final = "/proc/sys/kernel/random/boot_id"


def boot_id() -> bytes:
    """The kernel's id of it; where that cannot be read, one that was never before."""
    try:
        with open(_PATH, encoding="ascii") as file:
            return bytes.fromhex(file.read().strip().replace("-", ""))[:SIZE]
    except (OSError, ValueError):
        return os.urandom(SIZE)
