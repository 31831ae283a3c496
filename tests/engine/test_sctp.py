"""SCTP: associations from the first INIT to the last SHUTDOWN COMPLETE, and what does not belong to them.

What the kernel says is held against the engine in tests/kernel/test_sctp_gre.py; here each rule stands alone.
"""

import random
import struct

import pytest
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, Gateway, Said
from engine.packets import chunk, crc32c, ip, sctp
from hypothesis import given
from hypothesis import strategies as st

from ctfw.checksum import crc32c as engine_crc32c
from ctfw.checksum import is_checksum_good
from ctfw.conntrack.record import conntrack_line, proc_line
from ctfw.conntrack.sctp import STATE_NAMES, TRANSITIONS
from ctfw.packet import decode

DATA, INIT, INIT_ACK, SACK, HEARTBEAT, HEARTBEAT_ACK, ABORT, SHUTDOWN, SHUTDOWN_ACK = range(9)
ERROR, COOKIE_ECHO, COOKIE_ACK, SHUTDOWN_COMPLETE = 9, 10, 11, 14
NAMES = {
    INIT: "init", INIT_ACK: "init_ack", ABORT: "abort", SHUTDOWN: "shutdown", SHUTDOWN_ACK: "shutdown_ack",
    ERROR: "error", COOKIE_ECHO: "cookie_echo", COOKIE_ACK: "cookie_ack", SHUTDOWN_COMPLETE: "shutdown_complete",
    HEARTBEAT: "heartbeat", HEARTBEAT_ACK: "heartbeat_ack",
}  # fmt: skip
ABBREVIATIONS = ("NO", "CL", "CW", "CE", "ES", "SS", "SR", "SA", "HS")
T_BIT = 1
CLIENT_TAG, SERVER_TAG, OTHER_TAG = 0xC11E2701, 0x5E21E201, 0xBAD00BAD


def init(tag: int, kind: int = INIT) -> bytes:
    return chunk(kind, 0, struct.pack(">IIHHI", tag, 65536, 10, 10, 1))


class Association:
    """Two ends. ``says`` sends chunks by number with the tag that belongs there; ``vtag`` is another one."""

    def __init__(self, client: str = CLIENT, server: str = SERVER, gateway: Gateway | None = None) -> None:
        self.gateway = gateway if gateway is not None else Gateway()
        self.ends = (client, server)
        self.tags = [CLIENT_TAG, SERVER_TAG]

    def client(self, *kinds: int | bytes, vtag: int | None = None, refused: bool = False) -> Said:
        return self._say(0, kinds, vtag, refused)

    def server(self, *kinds: int | bytes, vtag: int | None = None, refused: bool = False) -> Said:
        return self._say(1, kinds, vtag, refused)

    def _say(self, side: int, kinds: tuple[int | bytes, ...], vtag: int | None, refused: bool) -> Said:
        chunks = [self._chunk(side, kind) if isinstance(kind, int) else kind for kind in kinds]
        if vtag is None:
            vtag = 0 if chunks[0][0] == INIT else self.tags[1 - side]
        return self.gateway.sees(self._packet(side, vtag, chunks), refused=refused)

    def _chunk(self, side: int, kind: int) -> bytes:
        return init(self.tags[side], kind) if kind in (INIT, INIT_ACK) else chunk(kind, 0, b"1234")

    def _packet(self, side: int, vtag: int, chunks: list[bytes]) -> bytes:
        ports = (40000, 3868) if side == 0 else (3868, 40000)
        return sctp(self.ends[side], self.ends[1 - side], *ports, vtag, *chunks)

    def opened(self) -> "Association":
        self.client(INIT).is_new()
        self.server(INIT_ACK).is_established("REPLY")
        self.client(COOKIE_ECHO).is_established("ORIGINAL")
        self.server(COOKIE_ACK).is_established("REPLY")
        return self

    @property
    def entry(self) -> str:
        """Seconds, state and status of the association; "" when there is none."""
        conn = self.gateway.conn_of(self._packet(0, 0, []))
        if conn is None:
            return ""
        words = conntrack_line(conn, self.gateway.now).split()
        return " ".join(words[2:4] + [word for word in words if word[0] == "["])


@pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT6, SERVER6)], ids=["ipv4", "ipv6"])
def test_open_talk_and_close(ends: tuple[str, str]) -> None:
    talk = Association(*ends)
    talk.client(INIT).is_new()
    assert talk.entry == "10 CLOSED [UNREPLIED]"
    talk.server(INIT_ACK).is_established("REPLY")
    assert talk.entry == "3 COOKIE_WAIT"
    talk.client(COOKIE_ECHO, DATA).is_established("ORIGINAL")
    assert talk.entry == "3 COOKIE_ECHOED"
    talk.server(COOKIE_ACK, SACK).is_established("REPLY")
    assert talk.entry == "210 ESTABLISHED [ASSURED]"
    talk.gateway.wait(100)
    talk.client(DATA).is_established("ORIGINAL")
    assert talk.entry == "210 ESTABLISHED [ASSURED]"
    talk.client(SHUTDOWN).is_established("ORIGINAL")
    assert talk.entry == "3 SHUTDOWN_SENT [ASSURED]"
    talk.server(SHUTDOWN_ACK).is_established("REPLY")
    assert talk.entry == "3 SHUTDOWN_ACK_SENT [ASSURED]"
    talk.client(SHUTDOWN_COMPLETE).is_established("ORIGINAL")
    assert talk.entry == "10 CLOSED [ASSURED]"


def test_the_record_is_the_kernels() -> None:
    talk = Association().opened()
    (conn,) = talk.gateway.conns
    assert proc_line(conn, talk.gateway.now) == (
        "ipv4     2 sctp     132 210 ESTABLISHED src=10.1.0.2 dst=10.2.0.2 sport=40000 dport=3868 "
        "src=10.2.0.2 dst=10.1.0.2 sport=3868 dport=40000 [ASSURED] mark=0 zone=0 use=2"
    )


def test_a_refused_init_leaves_nothing() -> None:
    talk = Association()
    talk.client(INIT, refused=True).is_new()
    assert talk.entry == ""
    talk.server(INIT_ACK).is_invalid("sctp-vtag")


@pytest.mark.parametrize(
    "kind", [DATA, SACK, ABORT, COOKIE_ACK, SHUTDOWN_COMPLETE, 12, 15, 192], ids=lambda kind: f"chunk-{kind}"
)
def test_chunks_that_open_nothing(kind: int) -> None:
    Association().client(kind, vtag=0).is_invalid("sctp-new")


def test_init_sent_again_does_not_live_longer() -> None:
    talk = Association()
    talk.client(INIT).is_new()
    talk.gateway.wait(4)
    talk.client(INIT).is_new()
    assert talk.entry == "6 CLOSED [UNREPLIED]"


def test_a_wrong_tag_is_of_another_association() -> None:
    talk = Association().opened()
    talk.gateway.wait(10)
    talk.client(DATA, vtag=OTHER_TAG).is_invalid("sctp-vtag")
    talk.server(SHUTDOWN, vtag=OTHER_TAG).is_invalid("sctp-vtag")
    talk.client(DATA, vtag=CLIENT_TAG).is_invalid("sctp-vtag")
    assert talk.entry == "200 ESTABLISHED [ASSURED]"


def test_init_carries_no_tag() -> None:
    Association().client(INIT, vtag=1).is_invalid("sctp-new")
    talk = Association().opened()
    talk.client(INIT, vtag=SERVER_TAG).is_invalid("sctp-vtag")


def test_abort_from_an_end_that_has_forgotten_reflects_the_tag() -> None:
    for tag, flags, good in (
        (CLIENT_TAG, 0, True),
        (SERVER_TAG, 0, False),
        (SERVER_TAG, T_BIT, True),
        (CLIENT_TAG, T_BIT, False),
        (OTHER_TAG, T_BIT, False),
    ):
        talk = Association().opened()
        said = talk.server(chunk(ABORT, flags), vtag=tag)
        if good:
            said.is_established("REPLY")
            assert talk.entry == "10 CLOSED [ASSURED]"
        else:
            said.is_invalid("sctp-vtag")
            assert talk.entry == "210 ESTABLISHED [ASSURED]"


def test_shutdown_complete_out_of_the_blue_reflects_the_tag() -> None:
    talk = Association()
    talk.client(SHUTDOWN_ACK).is_new()
    assert talk.entry == "3 SHUTDOWN_ACK_SENT [UNREPLIED]"
    talk.server(chunk(SHUTDOWN_COMPLETE, T_BIT), vtag=OTHER_TAG).is_invalid("sctp-vtag")
    talk.server(chunk(SHUTDOWN_COMPLETE), vtag=SERVER_TAG).is_established("REPLY")
    assert talk.entry == "10 CLOSED"


def test_heartbeats_learn_the_tags_of_a_second_path() -> None:
    talk = Association()
    talk.client(HEARTBEAT).is_new()
    assert talk.entry == "30 HEARTBEAT_SENT [UNREPLIED]"
    talk.server(HEARTBEAT_ACK).is_established("REPLY")
    assert talk.entry == "210 ESTABLISHED [ASSURED]"
    talk.client(DATA).is_established("ORIGINAL")
    talk.server(DATA, vtag=OTHER_TAG).is_invalid("sctp-vtag")


def test_a_heartbeat_with_a_new_tag_counts_once_it_is_answered() -> None:
    talk = Association().opened()
    talk.gateway.wait(10)
    talk.client(HEARTBEAT, vtag=OTHER_TAG).is_established("ORIGINAL")
    assert talk.entry == "200 ESTABLISHED [ASSURED]", "a doubtful heartbeat does not make it live longer"
    talk.client(HEARTBEAT_ACK, vtag=OTHER_TAG).is_invalid("sctp-vtag")
    talk.server(HEARTBEAT_ACK, vtag=OTHER_TAG + 1).is_established("REPLY")
    assert talk.entry == "210 ESTABLISHED [ASSURED]"
    talk.client(HEARTBEAT, vtag=OTHER_TAG).is_established("ORIGINAL")
    talk.client(DATA, vtag=OTHER_TAG).is_established("ORIGINAL")
    talk.server(DATA, vtag=OTHER_TAG + 1).is_established("REPLY")
    talk.server(HEARTBEAT, DATA, vtag=CLIENT_TAG).is_invalid("sctp-vtag")


def test_both_ends_open_at_once() -> None:
    talk = Association()
    talk.client(INIT).is_new()
    talk.server(INIT).is_established("REPLY")
    talk.server(INIT_ACK).is_established("REPLY")
    talk.client(COOKIE_ECHO).is_established("ORIGINAL")
    talk.server(COOKIE_ACK).is_established("REPLY")
    assert talk.entry == "210 ESTABLISHED [ASSURED]"


def test_an_init_ack_cannot_change_an_association() -> None:
    talk = Association().opened()
    talk.server(init(OTHER_TAG, INIT_ACK)).is_invalid("sctp-vtag")
    talk.client(INIT)  # the same once more: nobody has begun anew
    talk.server(init(OTHER_TAG, INIT_ACK)).is_invalid("sctp-vtag")
    talk.tags[0] = OTHER_TAG
    talk.client(INIT).is_established("ORIGINAL")
    talk.server(init(OTHER_TAG + 1, INIT_ACK)).is_established("REPLY")


@pytest.mark.parametrize(
    "chunks",
    [
        (DATA, INIT), (INIT, DATA), (INIT_ACK, SACK), (SACK, SHUTDOWN_COMPLETE), (DATA, COOKIE_ACK),
        (DATA, COOKIE_ECHO), (), (chunk(DATA, length=0),), (b"\0\0\0",), (DATA, chunk(200, length=0)),
    ],
)  # fmt: skip
def test_chunks_that_cannot_stand_together(chunks: tuple[int | bytes, ...]) -> None:
    talk = Association().opened()
    talk.client(*chunks, vtag=SERVER_TAG).is_invalid("sctp-chunk")


def test_an_init_that_is_cut_opens_nothing() -> None:
    Association().client(init(CLIENT_TAG)[:16], vtag=0).is_invalid("sctp-new")


def test_a_state_that_cannot_be() -> None:
    talk = Association()
    talk.client(HEARTBEAT).is_new()
    talk.server(SHUTDOWN_ACK, vtag=CLIENT_TAG).is_invalid("sctp-state")


def test_the_chunks_in_front_of_a_bad_one_have_stepped() -> None:
    """As the kernel has it: COOKIE ACK established the association before the heartbeat's tag was looked at."""
    talk = Association()
    talk.client(INIT).is_new()
    talk.server(INIT_ACK).is_established("REPLY")
    talk.client(COOKIE_ECHO).is_established("ORIGINAL")
    talk.server(COOKIE_ACK, DATA, HEARTBEAT, vtag=OTHER_TAG).is_invalid("sctp-vtag")
    assert talk.entry == "3 ESTABLISHED [ASSURED]"


def test_a_wrong_checksum_is_invalid_unless_nobody_asks() -> None:
    for check in (True, False):
        talk = Association(gateway=Gateway(checksum=int(check)))
        packet = bytearray(talk._packet(0, 0, [init(CLIENT_TAG)]))
        packet[28] ^= 1
        said = talk.gateway.sees(bytes(packet))
        if check:
            said.is_invalid("checksum")
        else:
            said.is_new()


def test_a_header_that_is_cut() -> None:
    talk = Association()
    whole = talk._packet(0, 0, [init(CLIENT_TAG)])
    for size in (4, 8, 11):
        talk.gateway.sees(ip(CLIENT, SERVER, 132, whole[20 : 20 + size])).is_invalid("l4-truncated")
    talk.client(vtag=0).is_invalid("sctp-chunk")


@given(st.binary(max_size=200))
def test_crc32c_is_that_of_the_rfc(data: bytes) -> None:
    assert engine_crc32c(data, 0, len(data), 0xFFFFFFFF) ^ 0xFFFFFFFF == crc32c(data)


def test_crc32c_of_known_bytes() -> None:
    """RFC 3720 appendix B.4, and the check value of every catalogue."""
    assert engine_crc32c(b"123456789", 0, 9, 0xFFFFFFFF) ^ 0xFFFFFFFF == 0xE3069283
    assert engine_crc32c(bytes(32), 0, 32, 0xFFFFFFFF) ^ 0xFFFFFFFF == 0x8A9136AA


@given(st.lists(st.integers(0, 255), max_size=3), st.integers(0, 63))
def test_every_damaged_bit_is_seen(kinds: list[int], bit: int) -> None:
    packet = bytearray(sctp(CLIENT, SERVER, 1, 2, 3, *[chunk(kind, 0, b"abcd") for kind in kinds]))
    assert is_checksum_good(decode(bytes(packet), len(packet)))
    packet[24 + bit // 8] ^= 1 << bit % 8
    assert not is_checksum_good(decode(bytes(packet), len(packet)))


@given(st.binary(max_size=120), st.booleans())
def test_no_bytes_raise(body: bytes, opened: bool) -> None:
    talk = Association()
    if opened:
        talk.opened()
    head = struct.pack(">HHII", 40000, 3868, SERVER_TAG, 0)
    talk.gateway.sees(ip(CLIENT, SERVER, 132, head + body), check=False)
    talk.gateway.sees(ip(CLIENT, SERVER, 132, head + body), check=False)


@pytest.mark.parametrize("direction", [0, 1], ids=["original", "reply"])
def test_the_engine_follows_its_table(direction: int) -> None:
    """Each cell, from a connection that is put into its state by hand."""
    for name, row in TRANSITIONS[direction]:
        kind = next(number for number, known in NAMES.items() if known == name)
        for state, cell in enumerate(row.split()):
            if state == 0:
                continue
            talk = Association().opened()
            (conn,) = talk.gateway.conns
            conn.l4state = state
            said = talk.client(kind) if direction == 0 else talk.server(kind)
            if cell == "IV":
                said.is_invalid("sctp-state")
                assert conn.l4state == state
            else:
                said.is_established()
                assert STATE_NAMES[conn.l4state] == STATE_NAMES[ABBREVIATIONS.index(cell)], (name, state)


def test_random_bundles_never_leave_the_states() -> None:
    rng = random.Random(7)
    for _ in range(200):
        talk = Association()
        for _ in range(8):
            kinds = [rng.choice(list(NAMES)) for _ in range(rng.randint(1, 3))]
            say = talk.client if rng.random() < 0.5 else talk.server
            say(*kinds)
        for conn in talk.gateway.conns:
            assert 1 <= conn.l4state <= 8
