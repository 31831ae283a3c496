"""The EVE log: Suricata's records, a file that may be moved, full or slow, and a daemon that writes it."""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import communityid
import pytest
from daemon.running import RULES, SHUT, Datagrams, Running, wait_until
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, Gateway, Ping, Tcp, Udp
from hypothesis import given
from hypothesis import strategies as st

from ctfw.config.eve import EveSettings
from ctfw.conntrack.events import DESTROY, Events
from ctfw.service.community_id import community_id
from ctfw.service.eve import FLOW_ID_BITS, drop_record, flow_record, timestamp
from ctfw.service.eve_file import EveFile
from ctfw.service.eve_log import EveLog
from ctfw.service.events import EventStream
from lab.net import CLIENT as REAL_CLIENT
from lab.net import SERVER as REAL_SERVER
from lab.net import Network

SECOND = 1_000_000_000


# The community id


def named(proto: int, src: str, dst: str, first: int = 0, second: int = 0) -> str:
    return community_id(proto, ip_address(src).packed, ip_address(dst).packed, first, second)


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ((6, "128.232.110.120", "66.35.250.204", 34855, 80), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        ((6, "66.35.250.204", "128.232.110.120", 80, 34855), "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
        ((17, "192.168.1.52", "8.8.8.8", 54585, 53), "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
        ((1, "192.168.0.89", "192.168.0.1", 8, 0), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
        ((1, "192.168.0.1", "192.168.0.89", 0, 0), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
        ((58, "fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 135, 0), "1:dGHyGvjMfljg6Bppwm3bg0LO8TY="),
        ((132, "192.168.170.8", "192.168.170.56", 7, 80), "1:jQgCxbku+pNGw8WPbEc/TS/uTpQ="),
    ],
)
def test_the_specifications_own_examples(flow: tuple[int, str, str, int, int], expected: str) -> None:
    assert named(*flow) == expected


IPV4 = st.binary(min_size=4, max_size=4)
IPV6 = st.binary(min_size=16, max_size=16)
PORTS = st.integers(0, 65535)


@given(st.one_of(st.tuples(IPV4, IPV4), st.tuples(IPV6, IPV6)), st.sampled_from([6, 17, 132, 2, 47, 50]), PORTS, PORTS)
def test_the_same_as_the_reference_implementation(
    ends: tuple[bytes, bytes], proto: int, sport: int, dport: int
) -> None:
    ports = (sport, dport) if proto in (6, 17, 132) else (None, None)
    reference = communityid.CommunityID().calc(communityid.FlowTuple(proto, *ends, *ports))
    assert community_id(proto, *ends, sport, dport) == reference


@given(st.tuples(IPV4, IPV4), st.tuples(IPV6, IPV6), st.integers(0, 255), st.integers(0, 255))
def test_the_same_for_every_icmp_message(
    four: tuple[bytes, bytes], six: tuple[bytes, bytes], kind: int, code: int
) -> None:
    for proto, ends in ((1, four), (58, six)):
        reference = communityid.CommunityID().calc(communityid.FlowTuple(proto, *ends, kind, code))
        assert community_id(proto, *ends, kind, code) == reference


# Records


def flows(gateway: Gateway, talk: Callable[[], object]) -> list[dict[str, Any]]:
    """The records of the connections that end while ``talk`` is held and its time-outs pass."""
    events = gateway.tracker.table.events = Events()
    talk()
    gateway.wait(432_001)
    gateway.sweep()
    ends = [event for event in events.take(100) if event.kind == DESTROY]
    return [json.loads(json.dumps(flow_record(event, gateway.tracker.settings, 0))) for event in ends]


def test_a_flow_of_tcp_as_suricata_writes_it() -> None:
    gateway = Gateway()
    talk = Tcp(gateway)
    begun = gateway.now

    def hold() -> None:
        talk.opened()
        gateway.wait(7)
        talk.client("ack", b"x" * 100)
        talk.server("ack")
        gateway.wait(3.5)
        talk.closed()

    (record,) = flows(gateway, hold)
    flow = record.pop("flow")
    assert record.pop("flow_id") < 1 << FLOW_ID_BITS
    assert re.fullmatch(r"1970-01-1\dT\d\d:\d\d:\d\d\.\d{6}\+0000", record.pop("timestamp"))
    port = talk.sides[1].port
    assert record == {
        "event_type": "flow", "src_ip": CLIENT, "src_port": 40000, "dest_ip": SERVER, "dest_port": port, "proto": "TCP",
        "community_id": named(6, CLIENT, SERVER, 40000, port), "tcp": {"state": "time_wait"},
        "ctfw": {"cause": "expired", "assured": True, "generation": record["ctfw"]["generation"], "mark": 0, "zone": 0},
    }  # fmt: skip
    assert (flow["start"], flow["end"]) == (timestamp(begun), timestamp(begun + int(10.5 * SECOND)))
    assert (flow["age"], flow["state"], flow["reason"], flow["alerted"]) == (10, "closed", "timeout", False)
    assert (flow["pkts_toserver"], flow["pkts_toclient"]) == (5, 4)
    assert flow["bytes_toserver"] > flow["bytes_toclient"] + 100


def test_flows_of_other_protocols() -> None:
    gateway = Gateway()

    def hold() -> None:
        Udp(gateway, client=CLIENT6, server=SERVER6).client()
        ping = Ping(gateway)
        ping.client()
        ping.server()

    found = {record["proto"]: record for record in flows(gateway, hold)}
    assert found["UDP"]["flow"]["state"] == "new"
    assert found["UDP"]["community_id"] == named(17, CLIENT6, SERVER6, 40000, 53)
    assert (found["UDP"]["flow"]["age"], "tcp" in found["UDP"]) == (0, False)
    ping = found["ICMP"]
    assert (ping["icmp_type"], ping["icmp_code"], ping["response_icmp_type"]) == (8, 0, 0)
    assert ping["community_id"] == named(1, CLIENT, SERVER, 8, 0) and "src_port" not in ping
    assert ping["flow"]["state"] == "established"


def test_a_flow_that_began_before_the_machine_did() -> None:
    gateway = Gateway()
    talk = Udp(gateway)

    def outlive_a_reboot() -> None:
        talk.client()
        (conn,) = gateway.conns
        conn.created = -3600 * SECOND

    (record,) = flows(gateway, outlive_a_reboot)
    assert record["flow"]["start"].startswith("1969-12-31T23:00:00")  # by flows(), whose clock begins in 1970


def test_every_end_has_a_reason_that_suricata_knows() -> None:
    gateway = Gateway(max=1)

    def hold() -> None:
        Udp(gateway, sport=1).client()
        talk = Tcp(gateway, sport=2)  # the lookup gives way
        talk.client("syn")
        talk.server("rst ack")

    forced, reset = flows(gateway, hold)
    assert (forced["flow"]["reason"], forced["ctfw"]["cause"]) == ("forced", "early_drop")
    assert (reset["flow"]["reason"], reset["ctfw"]["cause"], reset["flow"]["state"]) == ("timeout", "reset", "closed")


@pytest.mark.parametrize(("client", "server"), [(CLIENT, SERVER), (CLIENT6, SERVER6)])
def test_a_dropped_packet(client: str, server: str) -> None:
    gateway = Gateway()
    talk = Tcp(gateway, client, server)
    talk.client("syn", refused=True)
    record = json.loads(json.dumps(drop_record(gateway.engine._judgement, "lan0", "wan0", 5, 3, 7 * SECOND)))
    drop, more = record["drop"], record["ctfw"]
    assert (record["timestamp"], record["in_iface"]) == ("1970-01-01T00:00:07.000000+0000", "lan0")
    assert (record["event_type"], record["src_ip"], record["dest_port"]) == ("drop", client, talk.sides[1].port)
    assert record["community_id"] == named(6, client, server, 40000, talk.sides[1].port)
    assert (drop["reason"], drop["syn"], drop["ack"], drop["tcpack"], drop["tcpwin"]) == (
        "rules",
        True,
        False,
        0,
        64240,
    )
    assert ("ttl" in drop, "hoplimit" in drop) == (client == CLIENT, client == CLIENT6)
    assert (more["verdict"], more["rule"], more["state"], more["reason"]) == ("drop", "policy forward", "NEW", None)
    assert (more["out_iface"], more["mark"], more["generation"]) == ("wan0", 5, 3)


@given(st.binary(max_size=120))
def test_whatever_the_bytes_there_is_a_record(data: bytes) -> None:
    for packet in (data, b"\x45" + data, b"\x60" + data, b"\x45\0\0\x50\0\0\0\0\x40\x06" + data):
        gateway = Gateway()
        gateway.sees(packet, refused=True)
        json.dumps(drop_record(gateway.engine._judgement, "", "", 0, 0, 0))


# The file


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EveFile]:
    made = EveFile(str(tmp_path / "eve.json"))
    yield made
    made.close()


def test_lines_are_in_the_file_when_it_is_closed(log: EveFile) -> None:
    for number in range(3000):
        log.write(b'{"n": %d}' % number)
    log.close(10)
    lines = Path(log.path).read_text().splitlines()
    assert [json.loads(line)["n"] for line in lines] == list(range(3000))
    assert (log.written, log.lost, log.error) == (3000, 0, "")
    assert os.stat(log.path).st_mode & 0o777 == 0o640


def test_a_new_file_is_the_groups_to_read_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)  # as the unit's
    try:
        log = EveFile(str(tmp_path / "eve.json"))
        log.write(b"{}")
        log.close(10)
    finally:
        os.umask(before)
    assert os.stat(log.path).st_mode & 0o777 == 0o640
    os.chmod(log.path, 0o600)
    log = EveFile(log.path)
    log.write(b"{}")
    log.close(10)
    assert os.stat(log.path).st_mode & 0o777 == 0o600  # what is there keeps what its owner gave it


def test_it_follows_when_logrotate_moves_the_file(log: EveFile) -> None:
    def write_until(path: str) -> None:
        def is_there() -> bool:
            log.write(b"{}")
            return os.path.exists(path) and os.stat(path).st_size > 0

        wait_until(is_there)

    write_until(log.path)
    os.rename(log.path, log.path + ".1")
    Path(log.path).touch()  # logrotate's `create`
    write_until(log.path)
    os.rename(log.path, log.path + ".2")  # and without it
    write_until(log.path)
    log.close(10)
    counts = [len(Path(log.path + end).read_bytes().splitlines()) for end in ("", ".1", ".2")]
    assert (sum(counts), log.lost) == (log.written, 0)


def test_a_full_disk_loses_records_and_says_so() -> None:
    log = EveFile("/dev/full")
    log.write(b"{}")
    log.close(10)
    assert (log.written, log.lost, log.error) == (0, 1, "No space left on device")


def test_a_line_that_did_not_fit_leaves_nothing_behind(tmp_path: Path) -> None:
    """The file may grow to 1000 bytes, in the middle of a line."""
    path = tmp_path / "eve.json"
    path.write_bytes(b"{}\n" * 100)
    program = (
        f"import resource, sys; sys.path[:0] = {sys.path!r}; from ctfw.service.eve_file import EveFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"log = EveFile({str(path)!r})\n"
        "for number in range(100): log.write(b'{\"number\": 1}')\n"
        "log.close(10)\n"
        "print(log.written, log.lost, log.error)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "0 100 File too large\n"
    assert path.read_bytes() == b"{}\n" * 100


def test_a_directory_that_is_not_there_is_tried_again(tmp_path: Path) -> None:
    log = EveFile(str(tmp_path / "later" / "eve.json"))
    log.write(b"{}")
    wait_until(lambda: log.lost)
    assert log.error == "No such file or directory"
    (tmp_path / "later").mkdir()

    def is_written() -> bool:
        log.write(b"{}")
        return log.written > 0

    wait_until(is_written)
    log.close(10)
    assert log.error == ""


def test_nobody_waits_for_a_reader_that_does_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "eve.json")
    reader = os.open(tmp_path / "eve.json", os.O_RDONLY | os.O_NONBLOCK)
    log = EveFile(str(tmp_path / "eve.json"))
    log.write(b"x" * 1_000_000)
    wait_until(lambda: log.lost)
    os.close(reader)
    log.close(10)


def test_what_finds_no_room_is_lost(log: EveFile) -> None:
    for _ in range(1_000_000):
        log.write(b"{}")
        if log.lost:
            break
    assert log.lost


# Stops one thread of a process, as a disk that does not answer does, until its standard input ends.
_HOLD = """
import ctypes, sys
ptrace = ctypes.CDLL(None, use_errno=True).ptrace
ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
for request in (0x4206, 0x4207):  # PTRACE_SEIZE, PTRACE_INTERRUPT
    if ptrace(request, int(sys.argv[1]), None, None):
        sys.exit(f"ptrace: {ctypes.get_errno()}")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held(thread: int) -> Iterator[None]:
    command = [sys.executable, "-c", _HOLD, str(thread)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        yield
        holder.communicate()


@pytest.mark.kernel
def test_a_reload_does_not_wait_for_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    gateway = Gateway()
    Tcp(gateway).client("syn", refused=True)
    log = EveLog(gateway.engine, EventStream(gateway.tracker))
    paths = [tmp_path / "eve.json", tmp_path / "other.json"]
    settings = [EveSettings(str(path), flow=True, drop=True, interval=1) for path in paths]
    log.configure(settings[0])
    (thread,) = [one.native_id for one in threading.enumerate() if one.name == "ctfw-eve"]
    assert thread is not None
    with held(thread):
        log.packet(gateway.engine._judgement, "lan0", "wan0", 0, gateway.now)
        begun = time.monotonic()
        log.configure(settings[1])
        assert time.monotonic() - begun < 0.5
        log.packet(gateway.engine._judgement, "lan0", "wan0", 0, gateway.now)
        wait_until(lambda: log.written() == 1)
    wait_until(lambda: log.written() == 2)
    log.close()
    assert [len(records(path)) for path in paths] == [1, 1]
    assert (log.written(), log.lost()) == (2, 0)


# The daemon


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.kernel
def test_a_daemon_writes_flows_and_drops(net: Network, tmp_path: Path) -> None:
    path = tmp_path / "eve.json"
    shut = f"  - {{name: shut, chain: forward, proto: udp, dport: {SHUT}, verdict: drop, log: true}}\n"
    rules = RULES + shut + "conntrack: {udp_timeout: 1}\n"
    eve = f"eve: {{path: {path}, limit: 3/day}}\n"
    with Running(net, tmp_path, rules=rules + eve) as daemon, Datagrams(net, SHUT) as bad, Datagrams(net, 5353) as good:
        assert good.answered()
        assert not bad.arrives()

        def found(kind: str) -> list[dict[str, Any]]:
            mine = [one for one in records(path) if one["event_type"] == kind and one.get("proto") == "UDP"]
            return [one for one in mine if one["src_ip"] == REAL_CLIENT and one["dest_ip"] == REAL_SERVER]

        wait_until(lambda: found("drop") and found("flow"))
        (drop,), (flow,) = found("drop"), found("flow")
        assert (drop["dest_port"], drop["ctfw"]["rule"], drop["in_iface"]) == (SHUT, "shut", "lan0")
        assert (flow["dest_port"], flow["flow"]["pkts_toserver"], flow["flow"]["pkts_toclient"]) == (5353, 1, 1)
        status = json.loads(daemon.ctfw("status", "-o", "json").stdout)["eve"]
        assert (status["path"], status["lost"], status["error"]) == (str(path), 0, None)
        assert status["written"] == len(records(path))
        for _ in range(20):
            bad.client.send(b"more than the limit")
        wait_until(lambda: json.loads(daemon.ctfw("status", "-o", "json").stdout)["eve"]["suppressed"])
        daemon.rules.write_text(rules)
        daemon.ctfw("reload")
        assert json.loads(daemon.ctfw("status", "-o", "json").stdout)["eve"] is None
        daemon.rules.write_text(rules + "eve: {path: /dev/full, limit: 10/second}\n")
        daemon.ctfw("reload")
        bad.client.send(b"lost")
        wait_until(lambda: "eve: records lost=" in daemon.log() and "No space left" in daemon.log())
        daemon.stop()
