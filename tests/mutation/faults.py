"""Deliberate faults in the engine, each a change of one line, that the tests have to notice.

One or more for every rule that conntrack stands on; ``check`` applies them one at a time. A fault says what is wrong
with it, in which file, which text (it occurs there once) becomes which.
"""

from typing import Final, NamedTuple


class Fault(NamedTuple):
    name: str
    path: str  # below ctfw/
    old: str
    new: str


_TCP: Final = "conntrack/tcp.py"
_TRACKER: Final = "conntrack/tracker.py"
_EXPECT: Final = "conntrack/expect.py"
_UDP: Final = "conntrack/udp.py"
_ICMP: Final = "conntrack/icmp.py"
_FTP: Final = "conntrack/helpers/ftp.py"
_IRC: Final = "conntrack/helpers/irc.py"

FAULTS: Final = (
    # TCP: the table, what is beside it, windows, time-outs
    Fault("a late SYN+ACK is invalid", _TCP, '"IV SR IG IG IG IG IG IG IG SR"', '"IV SR IG IG IV IG IG IG IG SR"'),
    Fault("a client's ACK cannot close", _TCP, '"ES IV ES ES CW CW TW TW CL IV"', '"ES IV ES ES CW CW LA TW CL IV"'),
    Fault("SYN+FIN is a kind of SYN", _TCP, "            _SYN | _URG,", "            _SYN | _FIN,"),
    Fault("any SYN reopens", _TCP, "if (sender.flags | receiver.flags) & _CLOSED_FIRST or", "if True or"),
    Fault("a SYN never reopens after a reset", _TCP, "(tcp.last_kind == RST and tcp.last_dir == direction):", "False:"),
    Fault("no re-synchronisation", _TCP, "tcp.last_dir != direction and ack == tcp.last_end:", "False:"),
    Fault("re-synchronised without the window", _TCP, "receiver.maxwin = tcp.last_win if", "receiver.maxwin = 1 if"),
    Fault("no challenge ACK", _TCP, "            tcp.last_flags |= _CHALLENGE", "            pass"),
    Fault("an inexact reset closes", _TCP, "new = old  # in the window", "judged = True  # in the window"),
    Fault("a reset of the past is believed", _TCP, "elif seq_before(seq, receiver.maxack) and", "elif False and"),
    Fault("no reset behind data", _TCP, "and tcp.last_dir == direction and seq == tcp.last_end:", "and False:"),
    Fault("the window constant", _TCP, "_LEAST_ACK_WINDOW: Final = 66000", "_LEAST_ACK_WINDOW: Final = 65535"),
    Fault(
        "the window by one",
        _TCP,
        "if not seq_before(seq, sender.maxend + 1):",
        "if not seq_before(seq, sender.maxend):",
    ),
    Fault(
        "what was never sent is acknowledged",
        _TCP,
        "        return 0 if is_liberal else reason.TCP_ACK_OVER",
        "        return 0",
    ),
    Fault(
        "old data is invalid",
        _TCP,
        "        return 0 if is_liberal else _OUTSIDE\n\n    if not flags & _SYN:",
        "        return 0 if is_liberal else reason.TCP_SEQ_OVER\n\n    if not flags & _SYN:",
    ),
    Fault("no window scale", _TCP, "        win <<= i64(sender.scale)", "        win <<= 0"),
    Fault(
        "scale in one direction is enough",
        _TCP,
        "not sender.flags & receiver.flags & _WINDOW_SCALE",
        "not (sender.flags | receiver.flags) & _WINDOW_SCALE",
    ),
    Fault("a scale has no limit", _TCP, "MAX_SCALE: Final = 14", "MAX_SCALE: Final = 15"),
    Fault("SACK blocks do not count", _TCP, "                if seq_after(right, sack):", "                if False:"),
    Fault("be_liberal does nothing", _TCP, "or settings.tcp_be_liberal or", "or"),
    Fault("loose does nothing", _TCP, "not settings.tcp_loose and", "False and"),
    Fault(
        "three retransmissions are two",
        _TCP,
        "tcp.retrans >= settings.tcp_max_retrans",
        "tcp.retrans + 1 >= settings.tcp_max_retrans",
    ),
    Fault("a closed window is forgotten", _TCP, "if tcp.last_win == 0 and", "if False and"),
    Fault("unacknowledged data is forgotten", _TCP, "        receiver.flags &= ~_UNACKED", "        pass"),
    Fault("an unreplied SYN is refreshed", _TCP, "if kind == SYN and old == SYN_SENT:", "if False:"),
    Fault("a refused connection stays", _TCP, "            return DELETE", "            pass"),
    Fault("ASSURED too late", _TCP, "and (old == SYN_RECV or old == ESTABLISHED)", "and old == ESTABLISHED"),
    Fault(
        "FINs outside of the window are harmless",
        _TCP,
        "            conn.expires = now + unacknowledged",
        "            pass",
    ),
    # The tracker: the order of things
    Fault(
        "SEEN_REPLY before the protocol has looked",
        _TRACKER,
        "            packet.direction = REPLY\n",
        "            packet.direction = REPLY\n            conn.status |= SEEN_REPLY\n",
    ),
    Fault(
        "confirmed before the rules",
        _TRACKER,
        "        conn.track = self.leniency\n",
        "        conn.track = self.leniency\n        conn.expires = now + 1\n        self.table.insert(conn, now)\n",
    ),
    Fault(
        "NEW only once",
        _TRACKER,
        "packet.state = RELATED if conn.status & EXPECTED else NEW",
        "packet.state = ESTABLISHED",
    ),
    Fault(
        "an expected connection is not RELATED",
        _TRACKER,
        "            packet.state = RELATED\n            self.stats.expect_new",
        "            self.stats.expect_new",
    ),
    Fault("an ICMP error goes to anybody", _TRACKER, "!= packet.dst:", '== b"":'),
    Fault(
        "an ICMP error is a reply",
        _TRACKER,
        "        packet.direction = REPLY if conn.reply_key == key else ORIGINAL",
        "        packet.direction = REPLY if conn.reply_key == key else ORIGINAL\n        conn.status |= SEEN_REPLY",
    ),
    Fault("any ICMP opens", _TRACKER, "conn.status & CONFIRMED == 0 and not icmp.is_query(proto, kind)", "False"),
    Fault(
        "checksums are not verified", _TRACKER, "must_check = check and self.settings.checksum", "must_check = False"
    ),
    Fault(
        "an expired connection is found",
        "conntrack/table.py",
        "if conn is not None and conn.expires <= now:",
        "if conn is not None and conn.expires < 0:",
    ),
    # The other protocols
    Fault("no two seconds of grace", _UDP, "_GRACE: Final = 2_000_000_000", "_GRACE: Final = 0"),
    Fault("UDP is never assured", _UDP, "    return ASSURE if conn.status & ASSURED == 0 else 0", "    return 0"),
    Fault(
        "a UDP length may lie",
        _UDP,
        "return reason.UDP_LENGTH if length < 8 or length > left else 0\n    return",
        "return 0\n    return 0 and",
    ),
    Fault(
        "UDP without a checksum is wrong", "checksum.py", "if end - at >= 8 and read16(data, at + 6) == 0:", "if False:"
    ),
    Fault(
        "the code of an ICMP query does not count",
        "packet.py",
        "data[at + 4 : at + 6] + data[at : at + 2]\n",
        'data[at + 4 : at + 6] + data[at : at + 1] + b"\\0"\n',
    ),
    Fault("ICMP source quench is no error", _ICMP, "(3, 4, 5, 11, 12)", "(3, 5, 11, 12)"),
    Fault("neighbour discovery is tracked", _ICMP, "134, 135, 136, 143", "134, 136, 143"),
    Fault("a redirect from afar", _ICMP, "if data[7] != 255 or", "if"),
    Fault(
        "a later fragment in a quote",
        "packet.py",
        "        packet.fragment = (flags & 0x1FFF) << 3",
        "        packet.fragment = 0",
    ),
    Fault("generic connections are short", "conntrack/generic.py", "settings.generic_timeout", "settings.udp_timeout"),
    Fault(
        "an SCTP tag of anybody",
        "conntrack/sctp.py",
        "if found & _OWN_TAG_RULE == 0 and vtag != vtags[direction]:",
        "if False:",
    ),
    # Time-outs
    Fault(
        "CLOSE_WAIT for too long",
        "conntrack/settings.py",
        '"tcp_timeout_close_wait": 60',
        '"tcp_timeout_close_wait": 120',
    ),
    Fault(
        "SYN_SENT2 has a knob",
        "conntrack/settings.py",
        '    "", "tcp_timeout_max_retrans"',
        '    "tcp_timeout_syn_sent", "tcp_timeout_max_retrans"',
    ),
    # Helpers
    Fault("an expectation for ever", _EXPECT, "        if not one.permanent:", "        if False:"),
    Fault("expectations pile up", _EXPECT, "of_class >= one.policy.most:", "False:"),
    Fault("an expectation from anywhere", _EXPECT, "and _is_same_network(self.src, src, self.prefix)", ""),
    Fault("FTP is read in the middle of a line", _FTP, "if _is_line_start(conn, packet.direction, seq):", "if True:"),
    Fault("FTP for somebody else", _FTP, 'if address != b"" and address != src:', "if False:"),
    Fault("half an FTP command passes", _FTP, "            return reason.HELPER_PARTIAL", "            return 0"),
    Fault("TFTP requests only to read", "conntrack/helpers/tftp.py", "and opcode != _WRITE_REQUEST", "and True"),
    Fault(
        "IRC for somebody else",
        _IRC,
        'if port == 0 or int(address).to_bytes(4, "big") != packet.src:',
        "if port == 0:",
    ),
    Fault("an IRC offer without a line end", _IRC, ' or text.find(b"\\n", blank) < 0:', ":"),
)
