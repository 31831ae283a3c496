"""Dynamic sets on disk, so that a ban outlives a restart: ``sets.json`` in the daemon's state directory.

Written whole and renamed into place, so that a reader never sees half of it; what is stored are the remaining times and
when that was. A file that is missing is no sets; one of which anything could not be used is said in lines and put aside
as ``sets.json.unread``, for the next writing would end it, and never stops the start.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Final

from ctfw.ruleset.ruleset import Ruleset
from ctfw.service.members import restore, save

NAME: Final = "sets.json"
MOST_BYTES: Final = 64 << 20


def write_members(directory: str, ruleset: Ruleset, now: int, unix: int) -> None:
    """Writes the members of every dynamic set; times in nanoseconds. Raises OSError."""
    path = os.path.join(directory, NAME)
    draft = f"{path}.new"
    try:
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
            json.dump(save(ruleset, now, unix), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise


def read_members(directory: str, ruleset: Ruleset, now: int, unix: int) -> list[str]:
    """Adds what was written, less the time that has passed; returns what could not be used, in words."""
    path = os.path.join(directory, NAME)
    complaints = _read(path, ruleset, now, unix)
    if complaints:
        with contextlib.suppress(OSError):
            os.replace(path, f"{path}.unread")
            complaints.append(f"{path}.unread: kept there")
    return complaints


def _read(path: str, ruleset: Ruleset, now: int, unix: int) -> list[str]:
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    if len(text) > MOST_BYTES:
        return [f"{path}: larger than {MOST_BYTES} bytes, not read"]
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        return [f"{path}: not what was written: {error}"]
    return [f"{path}: {complaint}" for complaint in restore(ruleset, data, now, unix)]
