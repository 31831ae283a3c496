"""Amanda, SANE, NetBIOS, SNMP, and H.323, which there is not (docs/state-machine.md, "Helpers and expectations")."""

import socket
import struct

import pytest
from engine.conversation import CLIENT, CLIENT6, ROUTER, SERVER, SERVER6, STRANGER, Gateway, Tcp, Udp
from hypothesis import given
from hypothesis import strategies as st

from ctfw.conntrack.settings import HELPERS, UNSUPPORTED, Settings, helper_protocols

AMANDA = {"amanda": [10080]}
SANE = {"sane": [6566]}


def ports(gateway: Gateway) -> list[int]:
    return sorted(int(line.partition("dport=")[2].split()[0]) for line in gateway.expected)


# Amanda


def backup(client: str = CLIENT, server: str = SERVER) -> Udp:
    talk = Udp(Gateway(AMANDA), client, server, 700, 10080)
    talk.client(b"SERVICE sendbackup").is_new()
    return talk


def test_the_backup_client_announces_its_streams() -> None:
    talk = backup()
    talk.server(b"REP\nCONNECT DATA 5001 MESG 5002 INDEX 5003\nOPTIONS ;\n").is_established()
    assert talk.gateway.expected[0] == f"180 l3proto = 2 proto=6 src={CLIENT} dst={SERVER} sport=0 dport=5001 amanda"
    assert ports(talk.gateway) == [5001, 5002, 5003]
    Tcp(talk.gateway, CLIENT, SERVER, 900, 5002).client("syn").is_related("ORIGINAL")
    Tcp(talk.gateway, STRANGER, SERVER, 900, 5001).client("syn").is_new()


def test_amanda_over_ipv6() -> None:
    talk = backup(CLIENT6, SERVER6)
    talk.server(b"CONNECT DATA 5001\n").is_established()
    Tcp(talk.gateway, CLIENT6, SERVER6, 900, 5001).client("syn").is_related("ORIGINAL")


def test_an_answer_lets_the_connection_live_for_five_minutes() -> None:
    talk = backup()
    talk.server(b"ACK").is_established()
    assert talk.entry == "300"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"CONNECT DATA 5001 STATE 5004\n", [5001, 5004]),
        (b"CONNECT DATA 0 MESG 5002\n", []),
        (b"CONNECT MESG 5002 DATA x\n", []),
        (b"CONNECT DATA 70000\n", [70000 - 65536]),
        (b"CONNECT DATA 500111\n", [50011]),
        (b"CONNECT DATA 5001", []),
        (b"connect DATA 5001\n", []),
        (b"DATA 5001\n", []),
    ],
)
def test_what_is_read_of_an_answer(line: bytes, expected: list[int]) -> None:
    talk = backup()
    talk.server(line).is_established()
    assert ports(talk.gateway) == expected


def test_only_the_backup_client_is_read() -> None:
    talk = backup()
    talk.client(b"CONNECT DATA 5001\n").is_new()
    assert talk.gateway.expected == []


def test_a_second_connection_cannot_expect_the_same() -> None:
    talk = backup()
    talk.server(b"CONNECT DATA 5001\n").is_established()
    other = Udp(talk.gateway, CLIENT, SERVER, 701, 10080)
    other.client().is_new()
    other.server(b"CONNECT DATA 5001\n").is_eaten("expect-full")


# SANE


def scanner() -> Tcp:
    return Tcp(Gateway(SANE), CLIENT, SERVER, 40000, 6566).opened()


def started(status: int = 0, zero: int = 0, port: int = 7000) -> bytes:
    return struct.pack(">IHH", status, zero, port)


START = struct.pack(">II", 7, 0)


def test_the_scanner_announces_its_data_port() -> None:
    talk = scanner()
    talk.client("ack", START).is_established()
    talk.server("ack", started() + bytes(8)).is_established()
    assert talk.gateway.expected == [f"300 l3proto = 2 proto=6 src={CLIENT} dst={SERVER} sport=0 dport=7000 sane"]
    Tcp(talk.gateway, CLIENT, SERVER, 900, 7000).client("syn").is_related("ORIGINAL")


@pytest.mark.parametrize("answer", [started(status=1), started(zero=1), started()[:7]])
def test_answers_that_announce_nothing(answer: bytes) -> None:
    talk = scanner()
    talk.client("ack", START).is_established()
    talk.server("ack", answer).is_established()
    talk.server("ack", started()).is_established()
    assert talk.gateway.expected == [], "only the first answer counts"


@pytest.mark.parametrize("request_", [struct.pack(">II", 8, 0), START + b"\0", START[:4]])
def test_requests_that_are_not_to_start(request_: bytes) -> None:
    talk = scanner()
    talk.client("ack", request_).is_established()
    talk.server("ack", started()).is_established()
    assert talk.gateway.expected == []


def test_another_request_takes_the_start_back() -> None:
    talk = scanner()
    talk.client("ack", START).is_established()
    talk.client("ack", struct.pack(">II", 8, 0)).is_established()
    talk.server("ack", started()).is_established()
    assert talk.gateway.expected == []


# By broadcast


BROADCAST = "10.9.0.255"


def asking(name: str, known: bool = True) -> Gateway:
    port = HELPERS[name][1]
    gateway = Gateway({name: [port]})
    if known:
        networks = [(socket.inet_aton(ROUTER), socket.inet_aton(BROADCAST), 24)]
        gateway.tracker.reconfigure(Settings({}, {name: [port]}, networks=networks))
    return gateway


@pytest.mark.parametrize(("name", "seconds"), [("netbios-ns", 3), ("snmp", 30)])
def test_a_whole_network_may_answer_for_a_while(name: str, seconds: int) -> None:
    gateway = asking(name)
    port = HELPERS[name][1]
    question = Udp(gateway, ROUTER, BROADCAST, 4000, port)
    question.client().is_new()
    assert question.entry == f"{seconds} [UNREPLIED]"
    assert gateway.expected == [
        f"{seconds} l3proto = 2 proto=17 src={BROADCAST} dst={ROUTER} sport={port} dport=4000 PERMANENT {name}"
    ]
    for host in ("10.9.0.7", "10.9.0.8"):
        Udp(gateway, host, ROUTER, port, 4000).client().is_related("ORIGINAL")
    Udp(gateway, "10.9.0.9", ROUTER, port + 1, 4000).client().is_new()
    Udp(gateway, "10.8.0.9", ROUTER, port, 4000).client().is_new()
    gateway.wait(seconds)
    Udp(gateway, "10.9.0.10", ROUTER, port, 4000).client().is_new()


def test_broadcasts_of_others_and_to_others_expect_nothing() -> None:
    gateway = asking("snmp")
    Udp(gateway, "10.9.0.7", BROADCAST, 4000, 161).client().is_new()
    Udp(gateway, ROUTER, "10.9.0.7", 4000, 161).client().is_new()
    assert gateway.expected == []


def test_without_a_table_of_networks_nothing_is_expected() -> None:
    gateway = asking("snmp", known=False)
    Udp(gateway, ROUTER, BROADCAST, 4000, 161).client().is_new()
    assert gateway.expected == []


# Settings


def test_h323_is_refused_with_its_reason() -> None:
    with pytest.raises(ValueError, match=r"h323 is not supported: its messages are ASN\.1"):
        Settings({}, {"h323": [1720]})
    assert not UNSUPPORTED.keys() & HELPERS.keys()


def test_sip_serves_both_protocols() -> None:
    assert [helper_protocols(name) for name in ("sip", "ftp", "tftp")] == [(6, 17), (6,), (17,)]
    assert set(Settings({}, {"sip": [5060, 5061]}).helpers) == {(6, 5060), (17, 5060), (6, 5061), (17, 5061)}


# Whatever is said


@given(st.binary(max_size=60), st.sampled_from(sorted(HELPERS)), st.booleans())
def test_no_payload_raises(payload: bytes, name: str, ipv6: bool) -> None:
    ends = (CLIENT6, SERVER6) if ipv6 else (CLIENT, SERVER)
    port = HELPERS[name][1]
    gateway = Gateway({name: [port]})
    if 17 in helper_protocols(name):
        talk = Udp(gateway, *ends, 4000, port)
        talk.client(payload)
        talk.server(payload)
    if 6 in helper_protocols(name):
        stream = Tcp(gateway, *ends, 4000, port).opened()
        for said in (b"\r\n", payload):
            stream.client("ack", said)
            stream.server("ack", said)
