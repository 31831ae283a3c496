"""The programs that change the kernel's rules, run here or in a network namespace made to try things in.

The scratch namespace is what makes the hook safe and its check exact. Whatever is to be loaded is loaded there first:
a kernel that lacks something says so before a single rule of the real network has changed. And what a program prints
after loading is compared with what it prints of the real rules: so both went through the same program and the same
kernel, and no difference is one of spelling. Nothing is in such a namespace but its own loopback, and it ends with the
process that holds it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from types import TracebackType
from typing import Final

PATH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"  # behind the caller's: an ordinary user's has no sbin
PATIENCE: Final = 60.0  # seconds; iptables itself waits LOCK for its lock
LOCK: Final = "10"  # seconds that iptables waits for others, as an argument

_DENIED: Final = re.compile("operation not permitted|permission denied|must be root", re.IGNORECASE)


class HookError(Exception):
    """What could not be done and what to do about it; ``denied``: for want of rights."""

    def __init__(self, message: str, denied: bool = False) -> None:
        super().__init__(message)
        self.denied = denied


class Place:
    """Where programs run; as it is, the network namespace of this process."""

    def __init__(self) -> None:
        self.prefix: list[str] = []

    def run(self, *command: str, text: str = "") -> str:
        """What the program prints; ``text`` is its standard input. Raises HookError with the program's own words."""
        code, out, err = self.attempt(*command, text=text)
        if code:
            words = " ".join((err or out).split())[:1000] or f"exit code {code}"
            raise HookError(f"{command[0]}: {words}", denied=_DENIED.search(words) is not None)
        return out

    def attempt(self, *command: str, text: str = "") -> tuple[int, str, str]:
        """Exit code, output and error output of the program."""
        program = find(command[0])
        if not program:
            raise HookError(f"{command[0]}: not found; install it")
        try:
            done = subprocess.run(
                [*self.prefix, program, *command[1:]],
                input=text,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PATIENCE,
                env=os.environ | {"PATH": _path(), "LC_ALL": "C"},
            )
        except subprocess.TimeoutExpired:
            raise HookError(f"{command[0]}: no end after {PATIENCE:.0f} seconds") from None
        return done.returncode, done.stdout, done.stderr


class Scratch(Place):
    """A network namespace of its own, empty, for as long as the `with` lasts."""

    def __enter__(self) -> Scratch:
        unshare, nsenter = find("unshare"), find("nsenter")
        if not unshare or not nsenter:
            raise HookError("unshare, nsenter: not found; install util-linux")
        self._holder = subprocess.Popen(
            [unshare, "--net", "sh", "-c", "echo; exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None and self._holder.stderr is not None
        if not self._holder.stdout.readline():
            words = self._holder.stderr.read().strip()
            self._end()
            raise HookError(f"no namespace to try the rules in: {words}; run as root", denied=True)
        self.prefix = [nsenter, f"--net=/proc/{self._holder.pid}/ns/net"]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        self._holder.communicate()  # the end of its input is the end of the holder


def find(program: str) -> str:
    """Where the program is; "" when it is not there."""
    return shutil.which(program, path=_path()) or ""


def missing(programs: Sequence[str]) -> list[str]:
    """Those of them that are not installed."""
    return [program for program in programs if not find(program)]


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{PATH}".lstrip(":")
