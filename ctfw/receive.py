"""Several datagrams of a socket by one system call: recvmmsg(2), which Python's own sockets do not have.

Entering the kernel costs more than what a small packet needs there, and so does Python's way around it for each call.
One call through ctypes is no cheaper than one ``recv``, but it brings all that wait, up to a batch. Of the instructions
around it, half went where its arguments were made to fit declared types, and a quarter into views of what had come: the
arguments are now of kinds that ctypes passes on as they are, and there is a view for each number of datagrams.

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

_NO_WAIT: Final = int(socket.MSG_DONTWAIT)

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
        lengths = memoryview(headers).cast("I")[_LENGTH_AT // _WORD :: _HEADER_SIZE // _WORD]
        self._heads = [memoryview(heads)[: got * HEAD] for got in range(most + 1)]  # by how many have come
        self._lengths = [lengths[:got] for got in range(most + 1)]
        self._tails = memoryview(tails)
        self._vectors = memoryview(vectors)
        # Without giving up the interpreter's lock, which would cost more than a call that never waits.
        self._recvmmsg = ctypes.PyDLL(None, use_errno=True).recvmmsg
        self._file: int = sock.fileno()
        self._messages = ctypes.byref((ctypes.c_char * len(headers)).from_buffer(headers))

    def read(self, most: i64) -> i64:
        """Fetches what waits; how many datagrams. Raises OSError, also for what happened since the last call."""
        got: i64 = self._recvmmsg(self._file, self._messages, min(most, self.most), _NO_WAIT, None)
        if got < 0:
            code = ctypes.get_errno()
            if code in (errno.EAGAIN, errno.EINTR):
                return 0
            raise OSError(code, os.strerror(code))
        self.heads = self._heads[got].tobytes()
        self.sizes = self._lengths[got].tolist()
        return got

    def whole(self, i: i64, size: i64) -> bytes:
        """All ``size`` bytes of datagram ``i``, which is longer than HEAD."""
        tail = i * self._tail
        return self.heads[i * HEAD : (i + 1) * HEAD] + bytes(self._tails[tail : tail + size - HEAD])


def _address(memory: bytearray) -> int:
    return ctypes.addressof((ctypes.c_char * len(memory)).from_buffer(memory))
