"""Files that a rule file draws in: other rule files and lists of members. Regular ones, of bounded size and number.

A path is relative to the directory of the file that names it. `*`, `?` and `[…]` stand for whatever is there, in
lexical order, and may stand for nothing; a name without them must exist. Names that begin with a dot, as editors leave
them, are only found by a pattern that begins with one.

What was read is kept (``Stored``), so that the same configuration can be had again when the files are other ones.
"""

import glob
import hashlib
import os
import stat
from dataclasses import dataclass, field

from ctfw.config.document import MAX_BYTES, Node, Scalar, Sequence
from ctfw.config.problems import Place, Report, quote
from ctfw.config.values import Wrong

MAX_FILES = 1000
_PIECE = 1 << 16  # bytes that are worked on in a moment


@dataclass
class Stored:
    """All that a configuration was read from: bytes by path, and what each pattern of names stood for."""

    files: dict[str, bytes] = field(default_factory=dict)
    patterns: dict[str, list[str]] = field(default_factory=dict)
    _digest: bytes = field(default=b"", repr=False, compare=False)

    def digest(self) -> bytes:
        """SHA-256 of the files' names and texts; worked out once, in pieces that a signal may interrupt."""
        if not self._digest:
            total = hashlib.sha256()
            for path, text in self.files.items():
                total.update(os.fsencode(path) + b"\0")
                of_one = hashlib.sha256()
                for at in range(0, len(text), _PIECE):
                    of_one.update(text[at : at + _PIECE])
                total.update(of_one.digest())
            self._digest = total.digest()
        return self._digest


class Files:
    """Every file of one configuration, in the order in which they were read; of ``source`` instead of the disk."""

    def __init__(self, report: Report, source: Stored | None = None) -> None:
        self.report = report
        self.paths: list[str] = []
        self.stored = Stored()
        self._source = source

    def read(self, path: str, place: Place | None = None) -> bytes | None:
        """The file's bytes, or None with the reason reported at `place`: where it is named.

        Opened without blocking, so that a named pipe cannot hold the daemon.
        """
        prefix = f"{quote(path)} " if place is not None else ""
        if len(self.paths) >= MAX_FILES:
            self.report.error(place, f"{prefix}is one file too many: more than {MAX_FILES}")
            return None
        self.paths.append(path)
        data = self._open(path, place, prefix) if self._source is None else self._source.files.get(path)
        if data is not None:
            self.stored.files[path] = data
        elif self._source is not None:
            self.report.error(place, f"{prefix}is not among the files that were kept")
        return data

    def _open(self, path: str, place: Place | None, prefix: str) -> bytes | None:
        hint = "name the rule file itself" if place is None else ""
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    self.report.error(place, f"{prefix or 'not '}{'is not ' if prefix else ''}a regular file", hint)
                    return None
                return file.read(MAX_BYTES + 1)
        except IsADirectoryError:
            self.report.error(place, f"{prefix}is a directory", hint)
        except (OSError, ValueError) as wrong:
            reason = (wrong.strerror if isinstance(wrong, OSError) else None) or str(wrong)
            hint = "rule files are for root and the group ctfw" if isinstance(wrong, PermissionError) else ""
            self.report.error(place, f"{prefix}cannot be read: {reason.lower()}", hint)
        return None

    def expand(self, node: Node) -> list[tuple[str, Scalar]]:
        """The files that a value of the kind PATHS stands for, each with its place. Raises Wrong."""
        members = node.items if isinstance(node, Sequence) else [node]
        found: list[tuple[str, Scalar]] = []
        for member in members:
            if not isinstance(member, Scalar) or not member.text:
                raise Wrong("a file is named by its path", "as in 'rules.d/*.yaml', or a list of paths")
            if "\0" in member.text:
                raise Wrong(f"{quote(member.text)} is not a path")
            path = os.path.join(os.path.dirname(member.source.path), member.text)
            if glob.has_magic(member.text):
                names = sorted(glob.glob(path)) if self._source is None else self._source.patterns.get(path, [])
                self.stored.patterns[path] = names
                found += [(name, member) for name in names]
            else:
                found.append((path, member))
        return found
