"""The SSH session that a command was typed in, if any: so that nobody cuts it without being told.

sshd says it in SSH_CONNECTION. `sudo` takes that out of the environment, so the processes above this one are asked too,
as far as this user may look.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_GENERATIONS: Final = 32
_NAME: Final = b"SSH_CONNECTION="

Session = tuple[str, int, str, int]


def ssh_session(pid: int | None = None) -> Session | None:
    """Address and port of the client and of the server, for process ``pid`` or this one; None without SSH."""
    at = os.getpid() if pid is None else pid
    for _ in range(_GENERATIONS):
        found = _of(at)
        if found is not None or at <= 1:
            return found
        at = _parent(at)
    return None


def _of(pid: int) -> Session | None:
    try:
        environment = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    for one in environment.split(b"\0"):
        words = one.removeprefix(_NAME).split()
        if one.startswith(_NAME) and len(words) == 4 and words[1].isdigit() and words[3].isdigit():
            client, server = (word.decode("ascii", "replace").partition("%")[0] for word in words[::2])
            return client, int(words[1]), server, int(words[3])
    return None


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])
