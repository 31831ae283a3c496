"""Records in Suricata's EVE form: `flow` for a connection that has ended, `drop` for a packet that was dropped.

What SIEMs read of Suricata they read of ctfw: the names and units are Suricata's (doc/userguide/output/eve), and what
it has no name for stands in an object ``ctfw``. The differences: bytes are counted from the IP header on; ``end`` is
reckoned back from the time-out, for no connection remembers when its last packet came; flows have no flags of TCP.

Only makes records of what it is given; eve_file.py writes them.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Final

from ctfw.conntrack import tcp
from ctfw.conntrack.conn import Conn, GreTrack
from ctfw.conntrack.events import CAUSE_NAMES, EXPIRED, REOPENED, RESET, Event
from ctfw.conntrack.record import Tuple
from ctfw.conntrack.settings import Settings
from ctfw.conntrack.state import ASSURED, SEEN_REPLY, state_name
from ctfw.engine import Judgement
from ctfw.packet import (
    GRE,
    ICMP,
    ICMPV6,
    SCTP,
    TCP,
    UDP,
    UDPLITE,
    Packet,
    is_port_protocol,
    read16,
)
from ctfw.reason import NAMES
from ctfw.service.community_id import community_id

SECOND: Final = 1_000_000_000
FLOW_ID_BITS: Final = 53  # what every JSON parser keeps exactly

_PROTOCOLS: Final = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", GRE: "GRE", ICMPV6: "IPv6-ICMP", SCTP: "SCTP"}

# How Suricata calls the states of TCP, by ours.
_TCP_STATES: Final = (
    "none", "syn_sent", "syn_recv", "established", "fin_wait1", "close_wait", "last_ack", "time_wait", "closed",
    "syn_sent",
)  # fmt: skip
_TCP_FLAGS: Final = ((0x01, "fin"), (0x02, "syn"), (0x04, "rst"), (0x08, "psh"), (0x10, "ack"), (0x20, "urg"))
_REASONS: Final = {EXPIRED: "timeout", RESET: "timeout", REOPENED: "tcp_reuse"}  # all others: forced


def flow_record(event: Event, settings: Settings, offset: int) -> dict[str, Any]:
    """The record of a connection's end. ``offset``: from the event's clock to nanoseconds since 1970."""
    conn = event.conn
    one = Tuple(conn.key)
    last = event.time if event.cause == RESET else event.time + event.left - _lifetime(event, settings)
    end = min(max(last, conn.created), event.time)
    record = {
        "timestamp": timestamp(event.time + offset),
        "flow_id": flow_id(conn),
        "event_type": "flow",
        **_ends(one.proto, one.src, one.dst, one.sport, one.dport),
    }
    if one.proto in (ICMP, ICMPV6):
        answer = Tuple(conn.reply_key).dport
        record |= {"icmp_type": one.dport >> 8, "icmp_code": one.dport & 0xFF}
        if event.status & SEEN_REPLY:
            record |= {"response_icmp_type": answer >> 8, "response_icmp_code": answer & 0xFF}
    record["flow"] = {
        "pkts_toserver": conn.original_packets,
        "pkts_toclient": conn.reply_packets,
        "bytes_toserver": conn.original_bytes,
        "bytes_toclient": conn.reply_bytes,
        "start": timestamp(conn.created + offset),
        "end": timestamp(end + offset),
        "age": (end - conn.created) // SECOND,
        "state": _state(event),
        "reason": _REASONS.get(event.cause, "forced"),
        "alerted": False,
    }
    if one.proto == TCP:
        record["tcp"] = {"state": _TCP_STATES[event.l4state]}
    record["ctfw"] = {
        "cause": CAUSE_NAMES[event.cause],
        "assured": bool(event.status & ASSURED),
        "generation": conn.generation,
        "mark": conn.mark,
        "zone": one.zone,
    }
    return record


def drop_record(judgement: Judgement, indev: str, outdev: str, mark: int, generation: int, time: int) -> dict[str, Any]:
    """The record of a packet that was dropped or rejected at ``time``, nanoseconds since 1970."""
    packet, rule, conn = judgement.packet, judgement.rule, judgement.conn
    record: dict[str, Any] = {"timestamp": timestamp(time)}
    if conn is not None:
        record["flow_id"] = flow_id(conn)
    if indev:
        record["in_iface"] = indev
    record["event_type"] = "drop"
    if packet.src:
        record |= _ends(packet.proto, packet.src, packet.dst, packet.sport, packet.dport, _icmp(packet))
    record["drop"] = {"len": packet.length, **_header(packet), "reason": NAMES[packet.reason] or "rules"}
    record["ctfw"] = {
        "verdict": judgement.word(),
        "rule": rule.name if rule is not None else None,
        "origin": rule.origin if rule is not None else None,
        "state": state_name(judgement.state) or None,
        "reason": NAMES[judgement.reason] or None,
        "generation": generation,
        "out_iface": outdev or None,
        "mark": mark,
    }
    return record


def flow_id(conn: Conn) -> int:
    """The same number for all records of a connection."""
    begun = int(conn.created).to_bytes(8, "big", signed=True)  # below zero when it outlived a reboot
    digest = hashlib.sha1(conn.key + begun, usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") >> 64 - FLOW_ID_BITS


def timestamp(time: int) -> str:
    """Nanoseconds since 1970 as Suricata writes them."""
    return (
        datetime.fromtimestamp(time // SECOND, UTC).strftime("%Y-%m-%dT%H:%M:%S.") + f"{time % SECOND // 1000:06}+0000"
    )


def _ends(
    proto: int, src: bytes, dst: bytes, sport: int, dport: int, icmp: tuple[int, int] | None = None
) -> dict[str, Any]:
    """Addresses, ports, protocol and community id. Of ICMP the key has id and type|code where others have ports."""
    found: dict[str, Any] = {"src_ip": str(ip_address(src))}
    is_icmp = proto in (ICMP, ICMPV6)
    if is_port_protocol(proto):
        found["src_port"] = sport
    found["dest_ip"] = str(ip_address(dst))
    if is_port_protocol(proto):
        found["dest_port"] = dport
    found["proto"] = _PROTOCOLS.get(proto, f"{proto:03}")
    first, second = (icmp or (dport >> 8, dport & 0xFF)) if is_icmp else (sport, dport)
    found["community_id"] = community_id(proto, src, dst, first, second)
    return found


def _state(event: Event) -> str:
    if event.conn.key[0] == TCP and event.l4state in (tcp.TIME_WAIT, tcp.CLOSE):
        return "closed"
    return "established" if event.status & SEEN_REPLY else "new"


def _lifetime(event: Event, settings: Settings) -> int:
    """What the last packet gave the connection to live, in nanoseconds, as far as the settings are those of then."""
    conn = event.conn
    proto = conn.key[0]
    if proto == TCP and conn.tcp is not None:
        is_answered = bool(event.status & SEEN_REPLY)
        return tcp.lifetime(conn.tcp, event.l4state, conn.tcp.last_kind, settings, is_answered)
    if proto in (UDP, UDPLITE):
        return settings.udp_timeout_stream if event.status & ASSURED else settings.udp_timeout
    if proto in (ICMP, ICMPV6):
        return settings.icmp_timeout if proto == ICMP else settings.icmpv6_timeout
    if proto == SCTP:
        return settings.sctp_timeouts[event.l4state]
    if isinstance(conn.l4, GreTrack):
        return conn.l4.timeout_stream if event.status & ASSURED else conn.l4.timeout
    return settings.generic_timeout


def _icmp(packet: Packet) -> tuple[int, int]:
    at = packet.l4
    return (packet.data[at], packet.data[at + 1]) if at and len(packet.data) >= at + 2 else (0, 0)


def _header(packet: Packet) -> dict[str, Any]:
    """The fields of the headers, under Suricata's names; what was not copied or cannot be read is left out."""
    data, at = packet.data, packet.l4
    found: dict[str, Any] = {}
    if len(packet.src) == 4 and len(data) >= 20:
        found |= {"tos": data[1], "ttl": data[8], "ipid": read16(data, 4)}
    elif len(packet.src) == 16 and len(data) >= 40:
        flow = int.from_bytes(data[:4], "big")
        found |= {"tc": flow >> 20 & 0xFF, "flowlbl": flow & 0xFFFFF, "hoplimit": data[7]}
    if not at or packet.fragment:
        return found
    if packet.proto == TCP and len(data) >= at + 20:
        flags = data[at + 13]
        found |= {"tcpseq": int.from_bytes(data[at + 4 : at + 8], "big")}
        found |= {"tcpack": int.from_bytes(data[at + 8 : at + 12], "big"), "tcpwin": read16(data, at + 14)}
        found |= {name: bool(flags & bit) for bit, name in _TCP_FLAGS}
    elif packet.proto == UDP and len(data) >= at + 8:
        found["udplen"] = read16(data, at + 4)
    elif packet.proto in (ICMP, ICMPV6) and len(data) >= at + 8:
        found |= {"icmp_id": read16(data, at + 4), "icmp_seq": read16(data, at + 6)}
    return found
