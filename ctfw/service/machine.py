"""What in the machine's own settings keeps a gateway from working, or surprises its admin: a part of `ctfw doctor`.

Interfaces (large receive offload, MTU, reverse path filter), forwarding, bridges, the kernel's own tracking, limits of
a container, the clock. Reads and changes nothing.
"""

from __future__ import annotations

import array
import contextlib
import fcntl
import os
import socket
import struct
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import ctfw
from ctfw.packet import FORWARD
from ctfw.service.finding import FAIL, OK, WARN, Finding
from ctfw.service.hook.plan import Plan
from ctfw.service.kernel_queue import MAX_RECEIVE_BUFFER, largest_mtu

DAY: Final = 86400
_SIOCETHTOOL: Final = 0x8946
_ETHTOOL_GFLAGS: Final = 0x25
_ETH_FLAG_LRO: Final = 1 << 15


def examine(plan: Plan, copy_range: int) -> Iterator[Finding]:
    """Every finding; ``copy_range`` is the running daemon's, 0 when there is none."""
    yield from _interfaces(plan)
    yield from _sizes(copy_range)
    yield from _kernel()
    yield from _container()
    yield from _clock()


def _interfaces(plan: Plan) -> Iterator[Finding]:
    if FORWARD in plan.chains:
        for knob, family in (("ipv4/ip_forward", "IPv4"), ("ipv6/conf/all/forwarding", "IPv6")):
            if _sysctl(knob) == 0:
                name = "net." + knob.replace("/", ".")
                yield Finding(WARN, "machine", f"{family} is not forwarded", f"a gateway needs sysctl -w {name}=1")
    for _, name in socket.if_nameindex():
        strict = max(_sysctl("ipv4/conf/all/rp_filter") or 0, _sysctl(f"ipv4/conf/{name}/rp_filter") or 0) == 1
        if strict and name != "lo":
            advice = f"right with one way out; with two: sysctl -w net.ipv4.conf.{name}.rp_filter=2"
            yield Finding(OK, "machine", f"{name}: rp_filter drops what would not be answered by it", advice)
        if _has_lro(name):
            advice = f"ethtool -K {name} lro off; what LRO joined cannot be forwarded as it came"
            yield Finding(FAIL if FORWARD in plan.chains else WARN, "machine", f"{name}: large receive offload", advice)


def _sizes(copy_range: int) -> Iterator[Finding]:
    mtu = largest_mtu()
    if copy_range and mtu > copy_range:
        text = f"ctfw looks at {copy_range} bytes of a packet, and an interface sends {mtu}"
        yield Finding(WARN, "machine", text, "restart ctfw: it takes the largest MTU that there is when it starts")
    elif copy_range:
        yield Finding(OK, "machine", f"packets are seen whole: mtu={mtu} copy_range={copy_range}")


def _kernel() -> Iterator[Finding]:
    bridged = _sysctl("bridge/bridge-nf-call-iptables")
    if bridged:
        text = "bridged packets go through iptables, and so through ctfw (bridge-nf-call-iptables=1)"
        yield Finding(WARN, "machine", text, "if that is not meant: sysctl -w net.bridge.bridge-nf-call-iptables=0")
    count = _sysctl("netfilter/nf_conntrack_count")
    if count:
        text = f"the kernel tracks connections too: {count}"
        yield Finding(OK, "machine", text, "it is needed for NAT; without NAT a rule that matches on ct turns it on")


def _container() -> Iterator[Finding]:
    """Rights that the root of a user namespace lacks."""
    with contextlib.suppress(OSError, ValueError), open("/proc/self/uid_map", encoding="ascii") as file:
        first, _, count = (int(field) for field in file.readline().split())
        if (first, count) == (0, 0xFFFFFFFF):
            return
        limit = _sysctl("core/rmem_max")
        text = f"in a user namespace (a rootless container?): net.core.rmem_max={limit} limits the receive buffer"
        advice = f"on the host: sysctl -w net.core.rmem_max={MAX_RECEIVE_BUFFER}; else bursts are lost earlier"
        yield Finding(WARN, "machine", text, advice)


def _clock() -> Iterator[Finding]:
    """Time-outs do not need it; time windows of rules, the log and what was kept over a restart do."""
    now = time.time()
    made = os.stat(ctfw.__file__).st_mtime
    when = datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    if now < made - DAY:
        advice = "set it (systemd-timesyncd, chrony): time windows of rules and times in the log depend on it"
        yield Finding(WARN, "machine", f"the clock says {when}, before this ctfw was installed", advice)
    else:
        yield Finding(OK, "machine", f"the clock says {when}")


def _sysctl(path: str) -> int | None:
    try:
        with open(f"/proc/sys/net/{path}", encoding="ascii") as knob:
            return int(knob.read())
    except (OSError, ValueError):
        return None


def _has_lro(name: str) -> bool:
    """Whether the interface joins what it receives in a way that cannot be undone."""
    value = array.array("B", struct.pack("=II", _ETHTOOL_GFLAGS, 0))
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        fcntl.ioctl(asker, _SIOCETHTOOL, struct.pack("16sP16x", os.fsencode(name), value.buffer_info()[0]))
        return bool(struct.unpack("=II", value.tobytes())[1] & _ETH_FLAG_LRO)
    return False
