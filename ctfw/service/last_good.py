"""The rules that were in force last and are known to work, kept for the day when the rule file does not.

Owns two files in the daemon's state directory. ``last-good.json`` has the rule file and everything that it drew in,
complete, as it was when a start or a reload succeeded (of a reload on trial: when it was confirmed). ``on-trial.json``
has the fingerprint of rules that were tried and that nobody has confirmed; it is written before they are in force, and
goes ahead of all else when they are confirmed, or when rules are wanted without a trial. So whenever the daemon ends,
and however, the next one knows which rules it may begin with:

    the file can be loaded, and is not what was tried in vain    the file
    else, when there are any                                     the last good ones, and it says so loudly
    else                                                         the file, with its errors

Written whole or not at all (whole_file.py), by a thread: a disk takes what it takes, and packets do not wait for it. A
file that is damaged is the same as none.
"""

from __future__ import annotations

import _thread
import base64
import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ctfw.config import Config, ConfigError, Stored
from ctfw.service.whole_file import replacing, sync_directory

GOOD: Final = "last-good.json"
TRIAL: Final = "on-trial.json"
FORMAT: Final = 1
LOOK: Final = 0.005  # seconds; an interrupt that was heard just ahead of the wait, or by another thread, ends none
MOST_BYTES: Final = 256 << 20  # a rule file may draw in a thousand others; whoever wrote these had them in memory


@dataclass(frozen=True)
class Good:
    """Rules that were good: when they were kept (seconds since 1970), and what they were made of."""

    saved: float
    path: str
    stored: Stored


@dataclass(frozen=True)
class Begun:
    """What the daemon begins with. ``why`` is "" when it is the file, else why it is not; ``saved`` as in Good.

    ``tried``: the generation that nobody confirmed, or -1; a table that is restored may have its connections.
    """

    config: Config
    why: str = ""
    saved: float = 0.0
    tried: int = -1


class LastGood:
    """The two files in ``directory``; "" is nowhere, where nothing is kept and nothing found."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._is_clear = False  # nothing is on trial there, as far as we know

    def begin(self, path: str, load: Callable[[str, Stored | None], Config]) -> Begun:
        """The configuration to start with. Raises ConfigError or OSError when there is none.

        A mistake of ours in reading the file is as bad as one in it: then, too, it is the last good one.
        """
        try:
            loaded = load(path, None)
        except Exception as error:
            found = self._load_good(load)
            if found is None:
                raise
            return Begun(found[0], _first(error), found[1], self._tried())
        if not self.is_on_trial(loaded.stored):
            return Begun(loaded)
        found = self._load_good(load)
        if found is None:
            return Begun(loaded)
        why = f"{path}: these rules were on trial and nobody has confirmed them"
        return Begun(found[0], why, found[1], self._tried())

    def keep(self, path: str, stored: Stored) -> str:
        """Keeps what is in force; why that failed, or ""."""
        files = {name: base64.b64encode(data).decode() for name, data in stored.files.items()}
        text = {"format": FORMAT, "saved": time.time(), "path": path, "files": files, "patterns": stored.patterns}
        return self.end_trial() or self._write(GOOD, text)

    def end_trial(self) -> str:
        """What was tried, if anything was, is good or given up: a start goes by the file; why it will not, or ""."""
        if self._is_clear:
            return ""
        why = self._remove(TRIAL)
        self._is_clear = not why
        return why

    def try_out(self, stored: Stored, generation: int) -> str:
        """These rules will be in force without being good yet; why that cannot be written down, or ""."""
        self._is_clear = False
        return self._write(TRIAL, {"format": FORMAT, "fingerprint": fingerprint(stored), "generation": generation})

    def is_on_trial(self, stored: Stored) -> bool:
        """True for the rules that were tried last, when nobody has confirmed them."""
        return bool(self._read(TRIAL).get("fingerprint") == fingerprint(stored))

    def read(self) -> Good | None:
        """The last good rules."""
        text = self._read(GOOD)
        try:
            files = {str(name): base64.b64decode(data) for name, data in text["files"].items()}
            patterns = {str(name): [str(one) for one in names] for name, names in text["patterns"].items()}
            return Good(float(text["saved"]), str(text["path"]), Stored(files, patterns))
        except (KeyError, AttributeError, TypeError, ValueError):
            return None

    def _tried(self) -> int:
        generation = self._read(TRIAL).get("generation", -1)
        return generation if isinstance(generation, int) else -1

    def _load_good(self, load: Callable[[str, Stored | None], Config]) -> tuple[Config, float] | None:
        good = self.read()
        if good is None:
            return None
        try:
            return load(good.path, good.stored), good.saved
        except ConfigError:  # an older version found them good
            return None

    def _read(self, name: str) -> dict[str, Any]:
        if not self.directory:
            return {}
        try:
            with open(os.path.join(self.directory, name), "rb") as file:
                text = json.loads(file.read(MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return text if isinstance(text, dict) and text.get("format") == FORMAT else {}

    def _write(self, name: str, text: dict[str, Any]) -> str:
        if not self.directory:
            return ""
        return _in_a_thread(lambda: _write_whole(os.path.join(self.directory, name), text))

    def _remove(self, name: str) -> str:
        if not self.directory:
            return ""
        return _in_a_thread(lambda: _unlink(os.path.join(self.directory, name)))


def fingerprint(stored: Stored) -> str:
    """The same for the same files, and for no others."""
    found = hashlib.sha256()
    for name, data in sorted(stored.files.items()):
        found.update(f"{len(name)} {len(data)} {name}".encode(errors="surrogateescape"))
        found.update(data)
    return found.hexdigest()


def _in_a_thread(work: Callable[[], None]) -> str:
    """Waits for a thread: unlike the disk, it can be interrupted. What failed, or "".

    Not one of `threading`: its start and its join take locks in Python, and an interrupt in their midst that gives the
    work up leaves these neither taken nor free, which ends the daemon; one that starts a thread itself waits for ever.
    """
    told: list[str] = []
    over = _thread.allocate_lock()
    over.acquire()

    def run() -> None:
        try:
            work()
            told.append("")
        except OSError as error:
            told.append(f"{error.filename}: {error.strerror}")
        finally:
            over.release()

    try:
        _thread.start_new_thread(run, ())
    except RuntimeError as error:  # the system has none to give
        return str(error)
    while not over.acquire(timeout=LOOK):
        pass
    return told[0] if told else "internal error"


def _write_whole(path: str, text: dict[str, Any]) -> None:
    with replacing(path) as file:
        for piece in json.JSONEncoder().iterencode(text):  # a file at a time: the lock is free in between
            file.write(piece.encode())


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
        sync_directory(path)


def _first(error: Exception) -> str:
    """One line of what is wrong with the file."""
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    if not isinstance(error, ConfigError):
        return f"internal error: {type(error).__name__}: {error}"
    wrong = [problem for problem in error.problems if problem.severity == "error"]
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return f"{wrong[0].where()}: {wrong[0].message}{more}" if wrong else "the file has errors"
