"""What the machine remembers of its hook: the plan that was put into force last, and whether it shall stand.

Two need it. The unit that closes the gap before the network must do so also when the rule file is broken, and then puts
up the hook as it was. And who heals must tell what something else took away, which is put back, from what the
administrator took away with `ctfw hook remove`, which is not.

It is a directory of root's own, apart from the daemon's: root makes kernel rules of what stands there, and the program
that reads strangers' packets must not be able to write it. What is done in another network namespace than the machine's
own (a container, a test) is nothing to remember, unless a directory is named. Changes of the hook that remember
anything happen one after the other, so that healing and removing cannot cross.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from ctfw.service.hook.plan import Plan
from ctfw.service.hook.programs import HookError
from ctfw.service.whole_file import replacing

DIRECTORY: Final = "/var/lib/ctfw-hook"
FILE: Final = "hook.json"
VERSION: Final = 1
MAX_SIZE: Final = 65536  # bytes; the largest plan a rule file can ask for has a tenth of that


@dataclass(frozen=True)
class Memory:
    """``wanted``: the hook shall stand; ``backend`` is what was asked for, auto as a rule."""

    wanted: bool
    backend: str
    plan: Plan


def place(directory: str | None) -> str:
    """Where to remember: the directory that was named, the machine's, or "" where nothing is to be remembered."""
    if directory is not None:
        return directory
    try:
        own, machine = os.stat("/proc/self/ns/net"), os.stat("/proc/1/ns/net")
    except OSError:
        return ""
    return DIRECTORY if (own.st_dev, own.st_ino) == (machine.st_dev, machine.st_ino) else ""


@contextlib.contextmanager
def held(directory: str) -> Iterator[None]:
    """Nobody else changes the hook meanwhile. Where the directory cannot be made, nothing is held or remembered."""
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remember(directory: str, memory: Memory) -> str:
    """Write it, all or nothing; why that failed, or "". An emergency must not fail for want of a place to write."""
    if not directory:
        return ""
    path = os.path.join(directory, FILE)
    text = json.dumps({"version": VERSION, **asdict(memory)}, indent=2) + "\n"
    try:
        with replacing(path) as file:
            file.write(text.encode())
    except OSError as error:
        return f"{path}: {error.strerror}: not remembered"
    return ""


def recall(directory: str) -> Memory | None:
    """What was remembered last; None when nothing was. Raises HookError when it cannot be read or is not ours."""
    if not directory:
        return None
    path = os.path.join(directory, FILE)
    try:
        with open(path, "rb") as file:
            return _memory(json.loads(file.read(MAX_SIZE)))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HookError(f"{path}: {error.strerror}", isinstance(error, PermissionError)) from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise HookError(f"{path}: damaged, or of another version: `ctfw hook apply` writes it anew") from None


def forget(directory: str) -> str:
    """Nobody shall put the hook back; why that cannot be written down, or "". The plan stays for a last-good apply."""
    try:
        last = recall(directory)
    except HookError:
        last = Memory(False, "auto", Plan())
    return remember(directory, replace(last, wanted=False)) if last is not None else ""


def _memory(data: Any) -> Memory:
    if data["version"] != VERSION or not isinstance(data["wanted"], bool) or not isinstance(data["backend"], str):
        raise TypeError
    defaults = asdict(Plan())
    values: dict[str, Any] = {}
    for name, value in data["plan"].items():  # what an older ctfw did not know yet is as it was then: the default
        values[name] = tuple(value) if isinstance(value, list) else value
        if type(values[name]) is not type(defaults[name]):
            raise TypeError
    return Memory(data["wanted"], data["backend"], Plan(**values))
