"""GRE between two addresses, and PPTP's tunnels: call ids that are said on a control connection and used beside it.

What the kernel says is held against the engine in tests/kernel/test_sctp_gre.py; here each rule stands alone.
"""

import struct

import pytest
from engine import packets
from engine.conversation import CLIENT, CLIENT6, ROUTER, SERVER, SERVER6, Gateway, Said, Tcp
from hypothesis import given
from hypothesis import strategies as st

from ctfw.conntrack.record import conntrack_line, proc_line
from ctfw.conntrack.settings import Settings

CLIENT_ID, SERVER_ID = 0x1111, 0x2222
START, START_REPLY, STOP, STOP_REPLY, OUT, OUT_REPLY, IN, IN_REPLY, IN_CONNECT = 1, 2, 3, 4, 7, 8, 9, 10, 11
CLEAR, DISCONNECT = 12, 13
SIZES = {
    START: 144, START_REPLY: 144, STOP: 4, STOP_REPLY: 4, OUT: 156, OUT_REPLY: 20, IN: 208, IN_REPLY: 12,
    IN_CONNECT: 16, CLEAR: 4, DISCONNECT: 136,
}  # fmt: skip
OK = 1
EXPECTED = [
    "300 l3proto = 2 proto=47 src=10.1.0.2 dst=10.2.0.2 srckey=0x1111 dstkey=0x2222 pptp",
    "300 l3proto = 2 proto=47 src=10.2.0.2 dst=10.1.0.2 srckey=0x2222 dstkey=0x1111 pptp",
]


def message(number: int, fields: bytes = b"", *, cookie: int = 0x1A2B3C4D, size: int | None = None) -> bytes:
    body = fields.ljust(SIZES[number] if size is None else size, b"\0")
    return struct.pack(">HHIHH", 12 + len(body), 1, cookie, number, 0) + body


class Pptp:
    """A control connection to port 1723 whose session is open."""

    def __init__(self, gateway: Gateway | None = None, sport: int = 40000, **knobs: int) -> None:
        self.gateway = gateway if gateway is not None else Gateway({"pptp": [1723]}, **knobs)
        self.control = Tcp(self.gateway, sport=sport, dport=1723).opened()
        self.client(START)
        self.server(START_REPLY, struct.pack(">HB", 256, OK))

    def client(self, number: int, fields: bytes = b"", refused: bool = False) -> Said:
        return self.control.client("psh ack", message(number, fields), refused=refused)

    def server(self, number: int, fields: bytes = b"", refused: bool = False) -> Said:
        return self.control.server("psh ack", message(number, fields), refused=refused)

    def calls_out(self, own: int = CLIENT_ID, peer: int = SERVER_ID, result: int = OK) -> "Pptp":
        self.client(OUT, struct.pack(">H", own))
        self.server(OUT_REPLY, struct.pack(">HHB", peer, own, result))
        return self

    def calls_in(self, own: int = CLIENT_ID, peer: int = SERVER_ID, result: int = OK) -> "Pptp":
        self.server(IN, struct.pack(">H", peer))
        self.client(IN_REPLY, struct.pack(">HHB", own, peer, result))
        self.server(IN_CONNECT, struct.pack(">H", own))
        return self

    def from_client(self, call: int = SERVER_ID, refused: bool = False) -> Said:
        return self.gateway.sees(packets.gre(CLIENT, SERVER, call), refused=refused)

    def from_server(self, call: int = CLIENT_ID, refused: bool = False) -> Said:
        return self.gateway.sees(packets.gre(SERVER, CLIENT, call), refused=refused)

    @property
    def expected(self) -> list[str]:
        return sorted(self.gateway.expected)


@pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT6, SERVER6)], ids=["ipv4", "ipv6"])
def test_plain_gre_is_a_pair_of_addresses(ends: tuple[str, str]) -> None:
    gateway = Gateway()
    there, back = packets.gre(*ends), packets.gre(ends[1], ends[0])
    gateway.sees(there).is_new()
    assert gateway.entry_of(there) == "30 [UNREPLIED]"
    gateway.sees(back).is_established("REPLY")
    assert gateway.entry_of(there) == "30"
    gateway.sees(back).is_established("REPLY")
    assert gateway.entry_of(there) == "180 [ASSURED]"


def test_the_record_has_the_time_outs_that_it_began_with() -> None:
    gateway = Gateway(gre_timeout=40)
    gateway.sees(packets.gre(CLIENT, SERVER)).is_new()
    (conn,) = gateway.conns
    assert proc_line(conn, gateway.now) == (
        "ipv4     2 gre      47 40 timeout=40, stream_timeout=180 src=10.1.0.2 dst=10.2.0.2 srckey=0x0 dstkey=0x0 "
        "[UNREPLIED] src=10.2.0.2 dst=10.1.0.2 srckey=0x0 dstkey=0x0 mark=0 zone=0 use=2"
    )
    assert "timeout=" not in conntrack_line(conn, gateway.now)
    gateway.tracker.reconfigure(Gateway(gre_timeout=50).tracker.settings)
    gateway.sees(packets.gre(CLIENT, SERVER)).is_new()
    assert gateway.entry_of(packets.gre(CLIENT, SERVER)) == "40 [UNREPLIED]"


def test_enhanced_gre_without_its_control_connection_is_never_answered() -> None:
    gateway = Gateway()
    gateway.sees(packets.gre(CLIENT, SERVER, 7)).is_new()
    gateway.sees(packets.gre(SERVER, CLIENT, 7)).is_new()
    gateway.sees(packets.gre(SERVER, CLIENT, 0)).is_new()
    gateway.sees(packets.gre(CLIENT, SERVER, 7)).is_new()


def test_enhanced_gre_carries_nothing_but_ppp() -> None:
    body = struct.pack(">HHHHI", 0x3001, 0x0800, 0, 7, 1)
    Gateway().sees(packets.ip(CLIENT, SERVER, 47, body)).is_invalid("gre-protocol")


@pytest.mark.parametrize("size", range(8))
def test_a_header_that_is_cut_is_plain_gre(size: int) -> None:
    gateway = Gateway()
    body = struct.pack(">HHHHI", 0x3001, 0x0800, 0, 7, 1)
    gateway.sees(packets.ip(CLIENT, SERVER, 47, body[:size])).is_new()
    gateway.sees(packets.gre(SERVER, CLIENT)).is_established("REPLY")


def test_a_call_out_and_its_tunnel() -> None:
    talk = Pptp()
    assert talk.expected == []
    talk.calls_out()
    assert talk.expected == EXPECTED
    talk.from_client().is_related("ORIGINAL")
    assert talk.expected == [], "the other direction is known now"
    talk.from_server().is_established("REPLY")
    talk.from_server().is_established("REPLY")
    talk.from_client().is_established("ORIGINAL")
    (line,) = [conntrack_line(conn, talk.gateway.now) for conn in talk.gateway.conns if conn.key[0] == 47]
    assert line == (
        "gre      47 180 src=10.1.0.2 dst=10.2.0.2 srckey=0x1111 dstkey=0x2222 "
        "src=10.2.0.2 dst=10.1.0.2 srckey=0x2222 dstkey=0x1111 [ASSURED] mark=0 use=1"
    )


def test_a_call_in_and_its_tunnel_which_the_server_opens() -> None:
    talk = Pptp().calls_in()
    assert talk.expected == EXPECTED
    talk.from_server().is_related("ORIGINAL")
    talk.from_client().is_established("REPLY")


def test_a_call_that_was_declined() -> None:
    assert Pptp().calls_out(result=2).expected == []
    assert Pptp().calls_in(result=2).expected == []


def test_another_call_id_is_not_of_the_call() -> None:
    talk = Pptp().calls_out()
    talk.from_client(SERVER_ID + 1).is_new()
    assert talk.expected == EXPECTED


def test_an_error_about_the_tunnel_is_related() -> None:
    talk = Pptp().calls_out()
    talk.from_client().is_related("ORIGINAL")
    quoted = packets.gre(CLIENT, SERVER, SERVER_ID)
    talk.gateway.sees(packets.icmp(ROUTER, CLIENT, 3, 1, data=quoted)).is_related("REPLY")


def test_messages_in_the_wrong_order_mean_nothing() -> None:
    talk = Pptp()
    talk.server(OUT_REPLY, struct.pack(">HHB", SERVER_ID, CLIENT_ID, OK))
    talk.server(IN_CONNECT, struct.pack(">H", CLIENT_ID))
    talk.client(IN_REPLY, struct.pack(">HHB", CLIENT_ID, SERVER_ID, OK))
    assert talk.expected == []
    talk.client(OUT, struct.pack(">H", CLIENT_ID))
    talk.server(OUT_REPLY, struct.pack(">HHB", SERVER_ID, CLIENT_ID + 1, OK))
    assert talk.expected == [], "an answer to another call"


def test_no_call_without_a_session() -> None:
    gateway = Gateway({"pptp": [1723]})
    control = Tcp(gateway, dport=1723).opened()
    control.client("psh ack", message(OUT, struct.pack(">H", CLIENT_ID)))
    control.server("psh ack", message(OUT_REPLY, struct.pack(">HHB", SERVER_ID, CLIENT_ID, OK)))
    assert gateway.expected == []


@pytest.mark.parametrize("spoilt", ["cookie", "short", "cut", "not-at-the-start"])
def test_what_is_no_message_is_not_read(spoilt: str) -> None:
    talk = Pptp()
    talk.client(OUT, struct.pack(">H", CLIENT_ID))
    fields = struct.pack(">HHB", SERVER_ID, CLIENT_ID, OK)
    text = {
        "cookie": message(OUT_REPLY, fields, cookie=0x1A2B3C4E),
        "short": message(OUT_REPLY, fields, size=19),
        "cut": message(OUT_REPLY, fields)[:-1],
        "not-at-the-start": b"\0" + message(OUT_REPLY, fields),
    }[spoilt]
    talk.control.server("psh ack", text).is_established("REPLY")
    assert talk.expected == []


def test_a_refused_message_was_not_said() -> None:
    talk = Pptp()
    talk.client(OUT, struct.pack(">H", CLIENT_ID))
    talk.server(OUT_REPLY, struct.pack(">HHB", SERVER_ID, CLIENT_ID, OK), refused=True)
    assert talk.expected == []


def test_hanging_up_ends_the_tunnel() -> None:
    talk = Pptp().calls_out()
    talk.from_client().is_related("ORIGINAL")
    talk.client(CLEAR, struct.pack(">H", CLIENT_ID))
    talk.server(DISCONNECT, struct.pack(">H", SERVER_ID))
    assert [conn for conn in talk.gateway.conns if conn.key[0] == 47] == []
    talk.from_client().is_new()
    talk.calls_out(3, 4)
    talk.from_server(3).is_related("ORIGINAL")
    talk.from_client(4).is_established("REPLY")


def test_hanging_up_before_the_tunnel_takes_the_expectations() -> None:
    talk = Pptp().calls_out()
    talk.server(DISCONNECT, struct.pack(">H", SERVER_ID))
    assert talk.expected == []


def test_a_second_call_before_the_first_is_hung_up() -> None:
    """Only one is tracked: the second is not expected, and takes what was still expected of the first along."""
    talk = Pptp().calls_out().calls_out(3, 4)
    assert talk.expected == []
    talk.from_client(4).is_new()


def test_the_same_answer_again_is_the_same_call() -> None:
    talk = Pptp().calls_out()
    talk.gateway.wait(100)
    talk.server(OUT_REPLY, struct.pack(">HHB", SERVER_ID, CLIENT_ID, OK))
    assert talk.expected == EXPECTED, "with their time anew"


def test_a_tunnel_whose_first_packet_was_refused_is_forgotten() -> None:
    talk = Pptp().calls_out()
    talk.from_client(refused=True).is_related("ORIGINAL")
    talk.from_client().is_new()
    talk.from_server().is_new()


def test_the_control_connection_takes_its_tunnel_along() -> None:
    for tunnel in (True, False):
        talk = Pptp().calls_out()
        if tunnel:
            talk.from_client().is_related("ORIGINAL")
        (control,) = [conn for conn in talk.gateway.conns if conn.key[0] == 6]
        talk.gateway.tracker.remove(control, talk.gateway.now)
        assert talk.gateway.conns == [] and talk.expected == []
        talk.from_client().is_new()


def test_when_the_control_connection_has_expired_its_call_is_over() -> None:
    talk = Pptp().calls_out()
    talk.gateway.wait(500)
    talk.from_client().is_new()
    talk.gateway.sweep()
    assert talk.gateway.tracker._calls.count == 0


def test_two_connections_two_calls() -> None:
    first = Pptp().calls_out()
    second = Pptp(first.gateway, sport=40001).calls_out(3, 4)
    second.from_client(4).is_related("ORIGINAL")
    first.from_client().is_related("ORIGINAL")
    first.from_server().is_established("REPLY")
    second.from_server(3).is_established("REPLY")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 17), st.binary(max_size=220)), max_size=12))
def test_no_messages_raise(said: list[tuple[bool, int, bytes]]) -> None:
    talk = Pptp()
    for from_client, number, fields in said:
        text = struct.pack(">HHIHH", 12 + len(fields), 1, 0x1A2B3C4D, number, 0) + fields
        (talk.control.client if from_client else talk.control.server)("psh ack", text).is_established()
    assert len(talk.expected) in (0, 2)


class TestZones:
    """Interface lan0 is in zone 5: what the other side answers is of no use there."""

    def gateway(self, **zones: int) -> Gateway:
        gateway = Gateway({"pptp": [1723], "tftp": [69]})
        gateway.tracker.reconfigure(Settings({}, {"pptp": [1723], "tftp": [69]}, zones=zones))
        return gateway

    def sees(self, gateway: Gateway, device: str, packet: bytes) -> str:
        said = gateway.engine.handle(packet, len(packet), 2, device, "", 0, True, gateway.now)
        return {1: "NEW", 2: "ESTABLISHED", 4: "RELATED", 8: "INVALID"}[int(said.state)]

    def test_a_zone_is_a_world_of_its_own(self) -> None:
        gateway = self.gateway(lan0=5, lan1=5, lan2=6)
        there, back = packets.udp(CLIENT, SERVER, 1, 2), packets.udp(SERVER, CLIENT, 2, 1)
        assert self.sees(gateway, "lan0", there) == "NEW"
        assert self.sees(gateway, "lan2", back) == "NEW"
        assert self.sees(gateway, "wan0", back) == "NEW"
        assert self.sees(gateway, "lan1", back) == "ESTABLISHED"
        assert sorted(proc_line(conn, gateway.now).split()[-2] for conn in gateway.conns) == [
            "zone=0",
            "zone=5",
            "zone=6",
        ]
        lines = sorted(conntrack_line(conn, gateway.now) for conn in gateway.conns)
        assert [" zone=5 use=1" in line for line in lines].count(True) == 1

    @pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT6, SERVER6)], ids=["ipv4", "ipv6"])
    def test_errors_quote_what_is_in_their_zone(self, ends: tuple[str, str]) -> None:
        gateway = self.gateway(lan0=5)
        there = packets.udp(*ends, 1, 2)
        kind = (1, 0) if ":" in ends[0] else (3, 1)
        error = packets.icmp(ends[1], ends[0], *kind, data=there)
        assert self.sees(gateway, "lan0", there) == "NEW"
        assert self.sees(gateway, "wan0", error) == "INVALID"
        assert self.sees(gateway, "lan0", error) == "RELATED"

    @pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT6, SERVER6)], ids=["ipv4", "ipv6"])
    def test_expectations_are_in_the_zone_of_their_master(self, ends: tuple[str, str]) -> None:
        gateway = self.gateway(lan0=5)
        assert self.sees(gateway, "lan0", packets.udp(*ends, 1000, 69, b"\0\1file\0octet\0")) == "NEW"
        answer = packets.udp(ends[1], ends[0], 2000, 1000, b"\0\3")
        assert self.sees(gateway, "wan0", answer) == "NEW"
        assert self.sees(gateway, "lan0", answer) == "RELATED"

    def test_zones_come_and_go_with_the_settings(self) -> None:
        gateway = self.gateway(lan0=5)
        there = packets.udp(CLIENT, SERVER, 1, 2)
        assert self.sees(gateway, "lan0", there) == "NEW"
        gateway.tracker.reconfigure(Settings({}))
        assert self.sees(gateway, "lan0", packets.udp(SERVER, CLIENT, 2, 1)) == "NEW"


class TestCounters:
    def test_packets_and_bytes_of_each_direction(self) -> None:
        gateway = Gateway()
        there, back = packets.udp(CLIENT, SERVER, 1, 2, b"abcd"), packets.udp(SERVER, CLIENT, 2, 1)
        for packet in (there, back, there):
            gateway.sees(packet)
        (conn,) = gateway.conns
        assert " packets=2 bytes=64 src=" in conntrack_line(conn, gateway.now, True)
        assert " packets=1 bytes=28 mark=0" in conntrack_line(conn, gateway.now, True)
        assert "packets=" not in conntrack_line(conn, gateway.now)
        assert "packets=" not in proc_line(conn, gateway.now)

    def test_what_only_passes_is_not_counted(self) -> None:
        """A SYN sent again, a segment outside of the window, an SCTP INIT sent again, an error about it."""
        talk = Tcp()
        talk.client("syn").is_new()
        talk.client("syn", seq=0).is_new()
        (conn,) = talk.gateway.conns
        assert (conn.original_packets, conn.original_bytes) == (1, 40)
        talk.gateway.sees(packets.icmp(ROUTER, CLIENT, 3, 1, data=packets.tcp(CLIENT, SERVER, 40000, 80)))
        assert (conn.original_packets, conn.reply_packets) == (1, 0)
