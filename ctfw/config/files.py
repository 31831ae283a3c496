"""Files that a rule file draws in: other rule files and lists of members. Regular ones, of bounded size and number.

A path is relative to the directory of the file that names it. `*`, `?` and `[…]` stand for whatever is there, in
lexical order, and may stand for nothing; a name without them must exist. Names that begin with a dot, as editors leave
them, are only found by a pattern that begins with one.
"""

import glob
import os
import stat

from ctfw.config.document import MAX_BYTES, Node, Scalar, Sequence
from ctfw.config.problems import Place, Report, quote
from ctfw.config.values import Wrong

MAX_FILES = 1000


class Files:
    """Every file of one configuration, in the order in which they were read."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.paths: list[str] = []

    def read(self, path: str, place: Place | None = None) -> bytes | None:
        """The file's bytes, or None with the reason reported at `place`: where it is named.

        Opened without blocking, so that a named pipe cannot hold the daemon.
        """
        prefix = f"{quote(path)} " if place is not None else ""
        if len(self.paths) >= MAX_FILES:
            self.report.error(place, f"{prefix}is one file too many: more than {MAX_FILES}")
            return None
        self.paths.append(path)
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
                found += [(name, member) for name in sorted(glob.glob(path))]
            else:
                found.append((path, member))
        return found
