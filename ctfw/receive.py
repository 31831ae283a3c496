"""Several datagrams of a socket by one system call: recvmmsg(2), which Python's own sockets do not have.

Entering the kernel costs more than what a small packet needs there, and so does Python's way around it for each call.
One call through ctypes is no cheaper than one ``recv``, but it brings all that wait, up to a batch.

Where the bytes go: the call writes into memory that was set aside once, of every datagram the first HEAD bytes into
one block and the rest into another. Most datagrams are small, so the first block, copied as a whole, is where the
caller reads them, at ``i * HEAD``, without an object for each; of a longer one ``whole`` makes an object of its own.

The structures of <sys/socket.h> are laid out by ``struct`` in the machine's own alignment. The call never waits.
"""

import ctypes
import errno
import os
import socket
import struct
from typing import Final

from mypy_extensions import i64

HEAD: Final = 256

_IOVEC: Final = "@PN"  # iov_base, iov_len
_MMSGHDR: Final = "@PIPNPNi0PI0P"  # msghdr: name, namelen, iov, iovlen, control, controllen, flags; msg_len
_HEADER_SIZE: Final = struct.calcsize(_MMSGHDR)
_LENGTH_AT: Final = struct.calcsize("@PIPNPNi0P")
_WORD: Final = struct.calcsize("@I")


class Receiver:
    """Up to ``most`` datagrams of at most ``size`` bytes at a time; what is longer is cut.

    ``heads`` and ``sizes`` are those of the last ``read``.
    """

    def __init__(self, sock: socket.socket, size: int, most: int) -> None:
        self.heads: bytes = b""
        self.sizes: list[int] = []
        self.most: i64 = most
        self._sock = sock
        self._tail: i64 = max(size - HEAD, 1)
        heads = bytearray(most * HEAD)
        tails = bytearray(most * self._tail)
        vectors, headers = bytearray(), bytearray()
        for i in range(most):
            vectors += struct.pack(_IOVEC, _address(heads) + i * HEAD, HEAD)
            vectors += struct.pack(_IOVEC, _address(tails) + i * self._tail, self._tail)
        step = struct.calcsize(_IOVEC) * 2
        for i in range(most):
            headers += struct.pack(_MMSGHDR, 0, 0, _address(vectors) + i * step, 2, 0, 0, 0, 0)
        # The views also keep the memory where it is: what is exported cannot be resized.
        self._heads = memoryview(heads)
        self._tails = memoryview(tails)
        self._vectors = memoryview(vectors)
        self._lengths = memoryview(headers).cast("I")[_LENGTH_AT // _WORD :: _HEADER_SIZE // _WORD]
        # Without giving up the interpreter's lock, which would cost more than a call that never waits.
        self._recvmmsg = ctypes.PyDLL(None, use_errno=True).recvmmsg
        self._recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
        self._messages = _address(headers)

    def read(self, most: i64) -> i64:
        """Fetches what waits; how many datagrams. Raises OSError, also for what happened since the last call."""
        got: i64 = self._recvmmsg(self._sock.fileno(), self._messages, min(most, self.most), socket.MSG_DONTWAIT, None)
        if got < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(code, os.strerror(code))
        self.heads = bytes(self._heads[: got * HEAD])
        self.sizes = self._lengths[:got].tolist()
        return got

    def whole(self, i: i64, size: i64) -> bytes:
        """All ``size`` bytes of datagram ``i``, which is longer than HEAD."""
        tail = i * self._tail
        return self.heads[i * HEAD : (i + 1) * HEAD] + bytes(self._tails[tail : tail + size - HEAD])


def _address(memory: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(memory)).from_buffer(memory))
