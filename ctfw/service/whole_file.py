"""A file that is there whole or not at all, whatever ends the writer or the machine meanwhile.

Written beside its place under another name, brought to the disk, and renamed into it; then the directory is brought to
the disk too, for that is where the new name stands. A draft that was not finished is removed, and one that a crash left
behind is written over. A disk takes what it takes: the packet loop has a thread do this.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import BinaryIO


@contextlib.contextmanager
def replacing(path: str, *, mode: int = 0o600, durable: bool = True, draft: str = "") -> Iterator[BinaryIO]:
    """A file to write to, which takes the place of ``path`` when the `with` ends well. Raises OSError.

    ``mode`` holds whatever the umask is. ``durable``: wait for the disk. ``draft``: what it is called until then.
    """
    draft = draft or f"{path}.new"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(draft, flags, mode), "wb") as file:
            os.fchmod(file.fileno(), mode)
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = path  # what a full disk refuses comes without
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    if durable:
        sync_directory(path)


def sync_directory(path: str) -> None:
    """Brings to the disk which files stand beside ``path``, and under which names. Raises OSError."""
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
