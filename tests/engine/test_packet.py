"""Headers -> Packet: every good packet under every cut, junk of any kind, keys and their inverses, and words."""

import pytest
from engine import packets
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ctfw import reason
from ctfw.checksum import is_checksum_good
from ctfw.packet import decode, inverse
from ctfw.packet_text import describe

OPTIONS = packets.SACK_PERMITTED + packets.scale(7)
EXTENSIONS = [(0, bytes(8)), (60, b"\0\1" + bytes(14)), (44, bytes(8)), (51, b"\0\4" + bytes(22))]
QUOTED = packets.udp(CLIENT, SERVER, 40000, 53, b"?")
QUOTED6 = packets.udp(CLIENT6, SERVER6, 40000, 53, b"?")

# Each with the offset of its transport header, and how much of that the tuple needs.
GOOD = {
    "tcp": (packets.tcp(CLIENT, SERVER, 40000, 80, "syn", options=OPTIONS), 20, 4),
    "tcp with data": (packets.tcp(CLIENT, SERVER, 40000, 80, "psh ack", data=b"GET / HTTP/1.0\r\n"), 20, 4),
    "udp": (QUOTED, 20, 4),
    "udplite": (packets.udplite(CLIENT, SERVER, 1, 2, b"12345678", coverage=12), 20, 4),
    "sctp": (packets.sctp(CLIENT, SERVER, 1, 2, 0, packets.chunk(1, value=bytes(16))), 20, 4),
    "icmp": (packets.icmp(CLIENT, SERVER, 8, 0, 7, 1, b"abcdefgh"), 20, 8),
    "icmp error": (packets.icmp(SERVER, CLIENT, 3, 1, data=QUOTED), 20, 8),
    "esp": (packets.ip(CLIENT, SERVER, 50, b"12345678"), 20, 0),
    "options": (packets.ip(CLIENT, SERVER, 17, QUOTED[20:], options=b"\x94\4\0\0"), 24, 4),
    "ipv6 tcp": (packets.tcp(CLIENT6, SERVER6, 40000, 80, "ack", data=b"abc"), 40, 4),
    "ipv6 udp": (QUOTED6, 40, 4),
    "ipv6 extensions": (packets.udp(CLIENT6, SERVER6, 40000, 53, b"?", extensions=EXTENSIONS), 40 + 8 + 16 + 8 + 24, 4),
    "icmpv6": (packets.icmp(CLIENT6, SERVER6, 128, 0, 7), 40, 8),
    "icmpv6 error": (packets.icmp(SERVER6, CLIENT6, 2, 0, data=QUOTED6), 40, 8),
    "ipv6 esp": (packets.ip(CLIENT6, SERVER6, 50, b"12345678"), 40, 0),
}
GRE = [packets.gre(CLIENT, SERVER), packets.gre(CLIENT, SERVER, call=5)]
NAMED = [pytest.param(*fields, id=name) for name, fields in GOOD.items()]


@pytest.mark.parametrize(("packet", "l4", "needed"), NAMED)
def test_a_good_packet_is_read(packet: bytes, l4: int, needed: int) -> None:
    found = decode(packet, len(packet))
    assert (found.reason, found.l4, found.end) == (0, l4, len(packet))
    assert len(found.key) == (13 if found.family == 2 else 37)
    assert is_checksum_good(found)


@pytest.mark.parametrize(("packet", "l4", "needed"), NAMED)
def test_a_copy_of_its_head_has_the_same_key_as_long_as_the_tuple_is_in_it(packet: bytes, l4: int, needed: int) -> None:
    whole = decode(packet, len(packet))
    for size in range(len(packet)):
        found = decode(packet[:size], len(packet))
        if size >= l4 + needed:
            assert (found.reason, found.key) == (0, whole.key), size
            assert is_checksum_good(found), size  # cannot be said, so not held against it
        else:
            assert found.reason != 0 and found.key == b"", size


@pytest.mark.parametrize(("packet", "l4", "needed"), NAMED)
def test_a_packet_that_was_cut_on_its_way_is_invalid(packet: bytes, l4: int, needed: int) -> None:
    for size in range(len(packet)):
        found = decode(packet[:size], size)
        assert found.reason != 0 and found.key == b"", size


@pytest.mark.parametrize(("packet", "l4", "needed"), NAMED)
def test_a_turned_bit_is_noticed_by_the_checksum(packet: bytes, l4: int, needed: int) -> None:
    proto = decode(packet, len(packet)).proto
    covered = {17: range(l4, len(packet)), 136: (*range(l4, l4 + 4), *range(l4 + 6, l4 + 12))}
    for at in covered.get(proto, range(l4, len(packet)) if proto in (1, 6, 58) else ()):
        turned = packet[:at] + bytes([packet[at] ^ 0x10]) + packet[at + 1 :]
        assert not is_checksum_good(decode(turned, len(turned))), at


@st.composite
def nearly_good(draw: st.DrawFn) -> bytes:
    """A good packet, some bytes of it other ones, cut or grown."""
    packet = bytearray(draw(st.sampled_from([*GRE, *(packet for packet, _, _ in GOOD.values())])))
    for _ in range(draw(st.integers(0, 4))):
        packet[draw(st.integers(0, len(packet) - 1))] = draw(st.sampled_from([0, 1, 4, 6, 17, 44, 58, 59, 60, 255, 69]))
    start, stop = draw(st.just(0) | st.integers(0, 4)), draw(st.just(len(packet)) | st.integers(0, len(packet)))
    return bytes(packet[start:stop]) + draw(st.just(b"") | st.binary(max_size=40))


ANYTHING = st.binary(max_size=120) | nearly_good()
LENGTHS = st.none() | st.integers(-(2**31), 2**31) | st.sampled_from([0, 20, 65535, 65536, 1 << 20])


@settings(max_examples=1500, deadline=None)
@given(ANYTHING, LENGTHS)
@example(b"", 0)
@example(b"\x45" + bytes(19), None)
def test_decode_never_raises_and_says_either_a_key_or_why_not(data: bytes, length: int | None) -> None:
    found = decode(data, len(data) if length is None else length)
    assert (found.reason == 0) == (found.key != b"")
    assert 0 <= found.reason < reason.COUNT
    assert len(found.src) == len(found.dst) == {0: 0, 2: 4, 10: 16}[found.family]
    assert 0 <= found.sport <= 65535 and 0 <= found.dport <= 65535
    assert found.reason != 0 or is_checksum_good(found) in (True, False)
    assert "\n" not in describe(found)


# Keys

ANSWERS = {
    1: {8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17},
    58: {128: 129, 129: 128, 139: 140, 140: 139},
}


@given(st.sampled_from([4, 16]), st.integers(0, 255).filter(lambda proto: proto not in ANSWERS), st.data())
def test_the_inverse_of_the_inverse_is_the_key_itself(size: int, proto: int, data: st.DataObject) -> None:
    src, dst = (data.draw(st.binary(min_size=size, max_size=size)) for _ in range(2))
    sport, dport = (data.draw(st.binary(min_size=2, max_size=2)) for _ in range(2))
    key = bytes([proto]) + src + dst + sport + dport
    assert inverse(key) == bytes([proto]) + dst + src + dport + sport
    assert inverse(inverse(key)) == key


@pytest.mark.parametrize("proto", ANSWERS)
@pytest.mark.parametrize("size", [4, 16])
def test_a_querys_inverse_is_its_answer_with_the_same_identifier_and_code(proto: int, size: int) -> None:
    src, dst = bytes(range(size)), bytes(range(100, 100 + size))
    for kind in range(256):
        key = bytes([proto]) + src + dst + b"id" + bytes([kind, 9])
        if kind in ANSWERS[proto]:
            assert inverse(key) == bytes([proto]) + dst + src + b"id" + bytes([ANSWERS[proto][kind], 9])
        else:
            assert inverse(key) == b""


@pytest.mark.parametrize("name", ["tcp", "udp", "udplite", "sctp", "ipv6 tcp", "ipv6 udp", "ipv6 extensions"])
def test_the_answers_key_is_the_inverse(name: str) -> None:
    packet, l4, _ = GOOD[name]
    found = decode(packet, len(packet))
    size = len(found.src)
    addresses = 12 if size == 4 else 8
    turned = bytearray(packet)
    turned[addresses : addresses + 2 * size] = found.dst + found.src
    turned[l4 : l4 + 4] = packet[l4 + 2 : l4 + 4] + packet[l4 : l4 + 2]
    assert decode(bytes(turned), len(turned)).key == inverse(found.key)


# Words


@pytest.mark.parametrize(
    ("packet", "words"),
    [
        (
            packets.tcp(CLIENT, SERVER, 40000, 80, "psh ack", seq=5, ack=6, win=7, data=b"abc"),
            "tcp 10.1.0.2:40000 > 10.2.0.2:80 ack psh seq=5 ack=6 win=7 len=3",
        ),
        (
            packets.tcp(CLIENT6, SERVER6, 1, 2, ""),
            "tcp [2001:db8:1::2]:1 > [2001:db8:2::2]:2 null seq=0 win=64240 len=0",
        ),
        (packets.udp(CLIENT, SERVER, 1, 2, b"abc"), "udp 10.1.0.2:1 > 10.2.0.2:2 len=3"),
        (packets.icmp(CLIENT, SERVER, 8, 0, 7), "icmp 10.1.0.2 > 10.2.0.2 type=8 code=0 id=7"),
        (packets.icmp(SERVER6, CLIENT6, 1, 4), "icmpv6 2001:db8:2::2 > 2001:db8:1::2 type=1 code=4"),
        (packets.ip(CLIENT, SERVER, 50, b"1234"), "esp 10.1.0.2 > 10.2.0.2 len=4"),
        (packets.ip(CLIENT, SERVER, 200, b""), "200 10.1.0.2 > 10.2.0.2 len=0"),
        (packets.ip(CLIENT, SERVER, 17, b"12345678", offset=1480), "udp 10.1.0.2 > 10.2.0.2 fragment=1480 len=8"),
        (b"junk", "not-ip len=4"),
    ],
)
def test_a_packet_in_words(packet: bytes, words: str) -> None:
    assert describe(decode(packet, len(packet))) == words
