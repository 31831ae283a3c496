"""Work that may have to wait for a disk, beside the loop: by a thread, where the system has one to give.

A machine that is short of memory or of processes has none. To whoever wanted one that is the same as a disk that fails:
an OSError, said in its place, and tried again when its time comes. No packet shall fare worse for it.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any


def begin(work: Callable[..., None], *arguments: Any, name: str | None = None) -> threading.Thread:
    """The thread that does it, which does not keep the process from its end. Raises OSError."""
    thread = threading.Thread(target=work, args=arguments, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError as error:  # "can't start new thread", without the reason
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from error
    return thread
