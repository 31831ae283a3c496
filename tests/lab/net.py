"""A gateway between two machines, made of network namespaces for one test and gone with it.

    client                              gateway                              server
    eth0 ──────────────────────── lan0 ───────── wan0 ──────────────────────── eth0
    192.168.1.2/24       192.168.1.1/24         203.0.113.1/24       203.0.113.2/24
    fd00:1::2/64           fd00:1::1/64         2001:db8:1::1/64   2001:db8:1::2/64
                                                             beyond it: 198.51.100.0/24

The gateway forwards. The server routes on to 198.51.100.0/24, where nobody lives, so that a time to live can
run out on the far side of the gateway. queue() sends the gateway's packets to an NFQUEUE listener, as the
README tells an admin to; before it the kernel alone forwards.

A namespace here has no name: it lives as long as a descriptor on it is open or a process is in it, so nothing
is left behind, whatever ends the test. Code runs in one by entering it with the calling thread
(`with net.server:`), and a socket stays where it was made; programs are started in one by run() and start().
It needs root, or the root of a user namespace (`unshare -Urn`).
"""

import ctypes
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final

CLIENT: Final = "192.168.1.2"
CLIENT6: Final = "fd00:1::2"
GATEWAY: Final = "192.168.1.1"
GATEWAY6: Final = "fd00:1::1"
OUTSIDE: Final = "203.0.113.1"
OUTSIDE6: Final = "2001:db8:1::1"
SERVER: Final = "203.0.113.2"
SERVER6: Final = "2001:db8:1::2"
BEYOND: Final = "198.51.100.9"

PROGRAMS: Final = ("ip", "iptables", "ip6tables", "nsenter", "setpriv")
ENVIRONMENT: Final = {
    "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",  # a user's PATH has no sbin
    "XTABLES_LOCKFILE": "/dev/null",  # /run is not ours in a user namespace, and these rules are ours alone
}

_CLONE_NEWNET: Final = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str:
    """Why no network can be made here, in words; "" when it can."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=ENVIRONMENT["PATH"])]
    if missing:
        return f"programs missing: {' '.join(missing)}"
    try:
        with Network() as net:
            net.queue()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"no network namespaces with NFQUEUE here: {getattr(error, 'stderr', None) or error}".strip()
    return ""


class Namespace:
    """One network namespace; `with` it to be inside, as often and as deep as needed."""

    def __init__(self) -> None:
        with ThreadPoolExecutor(1) as elsewhere:  # the caller's thread stays where it is
            self.fd = elsewhere.submit(_unshare).result()
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"
        self._outside = threading.local()

    def __enter__(self) -> "Namespace":
        outside: list[int] = self._outside.__dict__.setdefault("fds", [])
        outside.append(_here())
        _setns(self.fd)
        return self

    def __exit__(self, *_: object) -> None:
        fd = self._outside.fds.pop()
        _setns(fd)
        os.close(fd)

    def run(self, *command: str, **options: Any) -> str:
        """Run a program inside to its end; what it printed. Raises CalledProcessError."""
        return _run(["nsenter", f"--net={self.path}", *command], **options)

    def start(self, command: Sequence[str], **options: Any) -> "subprocess.Popen[str]":
        """Start a program inside; it ends with this process at the latest, and a Ctrl-C is not for it."""
        tied = ["setpriv", "--pdeathsig", "KILL", "nsenter", f"--net={self.path}", *command]
        env = options.pop("env", {}) | {"PATH": ENVIRONMENT["PATH"]}
        return subprocess.Popen(tied, text=True, start_new_session=True, env=os.environ | env, **options)

    def serve(self, loop: Callable[[], object]) -> None:
        """Run a server's loop inside, in a thread that ends with the process."""

        def inside() -> None:
            _setns(self.fd)
            loop()

        threading.Thread(target=inside, daemon=True).start()

    def set(self, **knobs: int) -> None:
        """Set kernel knobs below /proc/sys/net, `__` standing for a slash: ipv4__ip_forward=1."""
        with self:
            for name, value in knobs.items():
                with open(f"/proc/sys/net/{name.replace('__', '/')}", "w") as knob:
                    knob.write(str(value))

    def close(self) -> None:
        os.close(self.fd)


class Network:
    """The three namespaces of the picture, joined, addressed and routed."""

    def __init__(self) -> None:
        self.client, self.gateway, self.server = Namespace(), Namespace(), Namespace()
        try:
            self._build()
        except BaseException:
            self.close()
            raise

    def _build(self) -> None:
        for host in (self.client, self.gateway, self.server):
            host.set(ipv6__conf__default__accept_dad=0, ipv6__conf__default__accept_ra=0)
            host.run("ip", "link", "set", "lo", "up")
        _join(self.gateway, "lan0", (GATEWAY, GATEWAY6), self.client, (CLIENT, CLIENT6))
        _join(self.gateway, "wan0", (OUTSIDE, OUTSIDE6), self.server, (SERVER, SERVER6))
        self.gateway.run("ip", "route", "add", "198.51.100.0/24", "via", SERVER)
        self.gateway.set(ipv4__ip_forward=1, ipv6__conf__all__forwarding=1)
        self.server.set(ipv4__ip_forward=1)

    def queue(self, number: int = 0) -> None:
        """Send what the gateway forwards, receives and sends to NFQUEUE `number`, never what is on its lo."""
        for iptables, nobody in (("iptables", "0.0.0.0/32"), ("ip6tables", "::/128")):
            rules = (
                # It never matches, but makes the kernel join fragments before we see them, tracking nothing.
                f"-t mangle -A PREROUTING -s {nobody} -m socket --nowildcard -j RETURN",
                f"-A INPUT ! -i lo -j NFQUEUE --queue-num {number}",
                f"-A OUTPUT ! -o lo -j NFQUEUE --queue-num {number}",
                f"-A FORWARD -j NFQUEUE --queue-num {number}",
            )
            for rule in rules:
                self.gateway.run(iptables, "-w", *rule.split())

    def __enter__(self) -> "Network":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for host in (self.client, self.gateway, self.server):
            host.close()


def _join(gateway: Namespace, name: str, near: Sequence[str], host: Namespace, far: Sequence[str]) -> None:
    gateway.run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", host.path)
    for namespace, device, addresses in ((gateway, name, near), (host, "eth0", far)):
        for address in addresses:
            # Nobody need look for duplicates, but without the word the kernel comes to that later than a server binds.
            prefix, words = (64, ["nodad"]) if ":" in address else (24, [])
            namespace.run("ip", "address", "add", f"{address}/{prefix}", "dev", device, *words)
        namespace.run("ip", "link", "set", device, "up")
    for address in near:
        host.run("ip", "route", "add", "default", "via", address)


def _run(command: list[str], **options: Any) -> str:
    options = {"env": os.environ | ENVIRONMENT} | options
    return str(subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout)


def _here() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _unshare() -> int:
    if _libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
    return _here()


def _setns(fd: int) -> None:
    if _libc.setns(fd, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
