"""Reading captures: what is in the file comes out, and what is wrong with a file is one clear error."""

from __future__ import annotations

import gzip
import io
import struct
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.utils import wrpcap, wrpcapng

from ctfw.tools import capture
from ctfw.tools.capture import CaptureError, Frame, Gaps, network_layer, open_capture, read

T = 1_700_000_000_123_456_789  # a time that a float cannot hold
US = T // 1000 * 1000


def raw(payload: bytes = b"x" * 8) -> bytes:
    return bytes(IP(src="192.0.2.1", dst="198.51.100.2") / UDP(sport=1000, dport=53) / payload)


def pcap(
    packets: list[tuple[int, bytes]], order: str = "<", nano: bool = True, link: int = 101, **header: int
) -> bytes:
    """A classic pcap file of (time in ns, bytes)."""
    magic = 0xA1B23C4D if nano else 0xA1B2C3D4
    out = struct.pack(order + "IHHIIII", magic, header.get("major", 2), 4, 0, 0, 262144, link)
    for time, data in packets:
        fraction = time % 10**9 // (1 if nano else 1000)
        out += struct.pack(order + "IIII", time // 10**9, fraction, len(data), len(data)) + data
    return out


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) & 3)
    return struct.pack(order + "II", kind, len(body) + 12) + body + struct.pack(order + "I", len(body) + 12)


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) & 3)


def section(order: str = "<", major: int = 1) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, -1))


def interface(order: str = "<", link: int = 101, snaplen: int = 0, options: bytes = b"") -> bytes:
    return block(order, 1, struct.pack(order + "HHI", link, 0, snaplen) + options)


def packet(ticks: int, data: bytes, order: str = "<", number: int = 0, options: bytes = b"", length: int = 0) -> bytes:
    head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(data), length or len(data))
    return block(order, 6, head + data + bytes(-len(data) & 3) + options)


def frames_and_error(content: bytes) -> tuple[list[Frame], str]:
    frames = []
    try:
        for frame in read(io.BytesIO(content)):
            frames.append(frame)
    except CaptureError as error:
        return frames, str(error)
    return frames, ""


def frames_of(content: bytes) -> list[Frame]:
    frames, error = frames_and_error(content)
    assert error == ""
    return frames


# Classic pcap


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [True, False])
def test_pcap_in_both_byte_orders_and_both_precisions(order: str, nano: bool) -> None:
    frames = frames_of(pcap([(T, b"one"), (T + 5_000, b"")], order, nano, link=1))
    assert frames == [
        Frame(T if nano else US, 1, b"one", 3),
        Frame(T + 5_000 if nano else US + 5_000, 1, b"", 0),
    ]


def test_length_on_the_wire_is_kept_when_the_copy_was_cut() -> None:
    content = pcap([]) + struct.pack("<IIII", 1, 0, 4, 1500) + b"abcd"
    assert frames_of(content) == [Frame(10**9, 101, b"abcd", 1500)]


def test_a_length_on_the_wire_below_the_copy_is_not_believed() -> None:
    content = pcap([]) + struct.pack("<IIII", 1, 0, 4, 2) + b"abcd"
    assert frames_of(content)[0].length == 4


def test_frame_check_sequence_bits_are_not_part_of_the_link_type() -> None:
    assert frames_of(pcap([(T, b"x")], link=0x2400_0001))[0].linktype == 1


def test_file_with_a_header_and_no_packets_is_fine() -> None:
    assert frames_of(pcap([])) == []
    assert frames_of(section()) == []


# pcapng


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_times_of_interfaces_with_different_resolutions(order: str) -> None:
    resolution = 9
    content = section(order)
    content += interface(order)  # microseconds unless said
    content += interface(order, options=option(order, resolution, b"\x09") + bytes(4))
    content += interface(order, options=option(order, resolution, b"\x8a"))  # 2**-10 seconds
    content += interface(order, options=option(order, resolution, b"\x00"))  # seconds
    content += interface(order, options=option(order, 14, struct.pack(order + "q", -100)))
    content += packet(T // 1000, b"a", order, 0)
    content += packet(T, b"b", order, 1)
    content += packet(1024 * 5 + 512, b"c", order, 2)
    content += packet(7, b"d", order, 3)
    content += packet(101_000_001, b"e", order, 4)
    times = [frame.time for frame in frames_of(content)]
    assert times == [US, T, 5_500_000_000, 7_000_000_000, 1_000_001_000]


def test_pcapng_section_in_the_other_byte_order_forgets_the_interfaces_before_it() -> None:
    first = section("<") + interface("<", link=1) + interface("<", link=101)
    first += packet(1, b"one", "<", 1)
    second = section(">") + interface(">", link=113) + packet(2, b"two", ">", 0)
    assert [(f.linktype, f.data) for f in frames_of(first + second)] == [(101, b"one"), (113, b"two")]
    frames, error = frames_and_error(first + section(">") + packet(2, b"two", ">", 0))
    assert len(frames) == 1
    assert "interface 0, which was not described" in error


def test_pcapng_simple_and_obsolete_packet_blocks_and_unknown_ones() -> None:
    content = section() + interface(snaplen=4)
    content += block("<", 0x0BAD, b"whatever")
    content += block("<", 3, struct.pack("<I", 9) + b"abcd")
    content += block("<", 2, struct.pack("<HHIIII", 0, 7, 0, 1_000_000, 3, 3) + b"old")
    assert frames_of(content) == [Frame(None, 101, b"abcd", 9), Frame(10**9, 101, b"old", 3)]


def test_pcapng_comments_and_original_length() -> None:
    options = option("<", 1, b"first") + option("<", 2, bytes(4)) + option("<", 1, "zwölf\xff".encode("latin-1"))
    content = section() + interface() + packet(1_000_000, b"abc", options=options + bytes(4), length=900)
    assert frames_of(content) == [Frame(10**9, 101, b"abc", 900, ("first", "zw\\xf6lf\\xff"))]


@pytest.mark.parametrize("order", ["<", ">"])
def test_what_a_capture_says_it_misses_is_summed_up_and_counted_once(order: str) -> None:
    def count(code: int, value: int) -> bytes:
        return option(order, code, struct.pack(order + "Q", value))

    def statistics(number: int, *counts: bytes) -> bytes:
        return block(order, 5, struct.pack(order + "III", number, 0, 0) + b"".join(counts))

    content = section(order) + interface(order) + interface(order)
    content += packet(1, b"a", order, options=count(4, 3)) + packet(2, b"b", order, options=count(4, 2))
    gaps = Gaps()
    assert len(list(read(io.BytesIO(content), gaps))) == 2 and gaps.missing == 5
    # Received ones; fewer than the packets have said; and each counts from the beginning.
    content += statistics(0, count(4, 900), count(5, 4))
    gaps = Gaps()
    assert len(list(read(io.BytesIO(content), gaps))) == 2 and gaps.missing == 5
    content += statistics(0, count(5, 6)) + statistics(0, count(5, 7), count(7, 1))
    content += statistics(1, count(5, 10)) + statistics(9, count(5, 100)) + block(order, 5, b"")
    gaps = Gaps()
    assert len(list(read(io.BytesIO(content), gaps))) == 2 and gaps.missing == 8 + 10


def test_time_that_no_clock_has_is_no_time() -> None:
    content = section() + interface(options=option("<", 9, b"\x00")) + packet(1 << 60, b"x")
    content += interface(options=option("<", 14, struct.pack("<q", -1))) + packet(1, b"y", number=1)
    assert [f.time for f in frames_of(content)] == [None, None]


def test_scapy_writes_what_we_read(tmp_path: Path) -> None:
    packets = [Ether() / IP(raw()), Ether() / Dot1Q(vlan=5) / IP(raw(b"longer payload"))]
    for number, scapy_packet in enumerate(packets):
        scapy_packet.time = 1_700_000_000 + number
    wrpcap(str(tmp_path / "a.pcap"), packets)
    wrpcapng(str(tmp_path / "a.pcapng"), packets)
    with open_capture(str(tmp_path / "a.pcap")) as stream:
        frames = list(read(stream))
    assert [f.time for f in frames] == [1_700_000_000_000_000_000, 1_700_000_001_000_000_000]
    assert [network_layer(f) for f in frames] == [(raw(), 36), (raw(b"longer payload"), 42)]
    with open_capture(str(tmp_path / "a.pcapng")) as stream:
        frames = list(read(stream))
    assert [f.data for f in frames] == [bytes(p) for p in packets]
    assert [f.time for f in frames] == [1_700_000_000_000_000_000, 1_700_000_001_000_000_000]


# Files that are not what they should be


EXAMPLES = {
    "pcap": (pcap([]), [pcap([(T + n, b"p" * n)])[24:] for n in range(4)]),
    "pcapng": (
        section() + interface(),
        [packet(n, b"p" * n, options=option("<", 1, b"c")) for n in range(4)],
    ),
}


@pytest.mark.parametrize("kind", EXAMPLES)
def test_cut_off_at_every_byte_reads_what_is_whole_and_says_so(kind: str) -> None:
    header, parts = EXAMPLES[kind]
    content = header + b"".join(parts)
    whole = {len(header) + sum(map(len, parts[:n])): n for n in range(len(parts) + 1)}
    if kind == "pcapng":
        whole[len(section())] = 0
    expected = 0
    for size in range(len(content) + 1):
        frames, error = frames_and_error(content[:size])
        expected = whole.get(size, expected)
        assert len(frames) == expected
        if size == 0:
            assert error == "not a capture file: it is empty"
        elif size in whole:
            assert error == ""
        else:
            assert error == f"the file is cut off (at byte {size}, after {expected} packets)"


def test_cut_off_gzip_reads_what_can_be_unpacked(tmp_path: Path) -> None:
    file = tmp_path / "a.pcap.gz"
    file.write_bytes(gzip.compress(pcap([(T, raw())] * 3)))
    with open_capture(str(file)) as stream:
        assert len(list(read(stream))) == 3
    file.write_bytes(file.read_bytes()[:-9])
    with open_capture(str(file)) as stream, pytest.raises(CaptureError, match="cannot be read further"):
        assert len(list(read(stream))) == 3
    file.write_bytes(b"\x1f\x8bnot gzip at all")
    with open_capture(str(file)) as stream, pytest.raises(CaptureError, match="cannot be read further"):
        list(read(stream))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a capture file: it is empty"),
        (b"#!/bin/sh\n", "not a pcap or pcapng file: it starts with 23 21 2f 62"),
        (pcap([], major=3), "pcap version 3.4 is not known"),
        (section(major=2), "pcapng version 2.0 is not known"),
        (b"\x0a\x0d\x0d\x0a" + bytes(24), "without byte-order magic (00 00 00 00)"),
        (pcap([]) + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 60), "a packet of 4294967295 bytes"),
        (section() + struct.pack("<II", 6, 0xFFFFFFFC), "a block of 4294967292 bytes"),
        (section() + struct.pack("<II", 6, 0), "a block of 0 bytes"),
        (section() + struct.pack("<II", 6, 33), "a block of 33 bytes"),
        (section()[:-4] + b"\0\0\0\0", "does not end where it says"),
        (section() + block("<", 1, b"1234"), "an interface description that is too short"),
        (section() + interface() + block("<", 6, bytes(16)), "a packet block that is too short"),
        (section() + interface() + block("<", 3, b""), "a packet block that is too short"),
        (section() + block("<", 3, bytes(4)), "interface 0, which was not described"),
        (section() + interface() + packet(0, b"", number=1), "interface 1, which was not described"),
        (
            section() + interface() + block("<", 6, bytes(12) + b"\x05\0\0\0" + bytes(8)),
            "a packet of 5 bytes",
        ),
        (section() + interface() + block("<", 3, b"\x05\0\0\0" + bytes(4)), "a packet of 5 bytes"),
        (section() + interface() + packet(0, b"", options=b"\x01\0\xff\0"), "an option that is longer"),
        (section() + interface() * (capture.MAX_INTERFACES + 1), "more than 4096 interfaces"),
    ],
)
def test_broken_file_is_a_clear_error(content: bytes, message: str) -> None:
    frames, error = frames_and_error(content)
    assert frames == []
    assert message in error


def test_length_fields_do_not_allocate() -> None:
    hostile = [
        pcap([]) + struct.pack("<IIII", 0, 0, capture.MAX_PACKET, 60),
        pcap([]) + struct.pack("<IIII", 0, 0, 0xFFFFFFFF, 60),
        section() + struct.pack("<II", 6, capture.MAX_BLOCK),
        section() + struct.pack("<II", 6, 0xFFFFFFFC),
        struct.pack("<III", 0x0A0D0D0A, 0xFFFFFFFC, 0x1A2B3C4D),
    ]
    tracemalloc.start()
    try:
        for content in hostile:
            assert frames_and_error(content)[1] != ""
        assert tracemalloc.get_traced_memory()[1] < 2 * capture.MAX_BLOCK
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_then_one_capture_error_or_the_end(content: bytes) -> None:
    for start in (b"", b"\xd4\xc3\xb2\xa1\x02\0\x04\0", section(), section(">") + interface(">")):
        for frame in frames_and_error(start + content)[0]:
            assert len(frame.data) <= frame.length


@given(st.data())
def test_any_damage_to_a_good_file_is_frames_then_one_capture_error_or_the_end(data: st.DataObject) -> None:
    header, parts = EXAMPLES[data.draw(st.sampled_from(sorted(EXAMPLES)))]
    content = bytearray(header + b"".join(parts))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    for frame in frames_and_error(bytes(content))[0]:
        try:
            network_layer(frame)
        except CaptureError as error:
            assert "link type" in str(error)


# Link layers


V4 = raw()
V6 = bytes.fromhex("6000000000083a40") + bytes(32) + b"12345678"
ETHERNET = bytes(12)
SLL = bytes(14)
SLL2 = bytes(18)


@pytest.mark.parametrize(
    ("link", "data", "expected"),
    [
        pytest.param(1, ETHERNET + b"\x08\x00" + V4, V4, id="ethernet"),
        pytest.param(1, ETHERNET + b"\x86\xdd" + V6, V6, id="ethernet ipv6"),
        pytest.param(1, ETHERNET + b"\x81\x00\x00\x05\x08\x00" + V4, V4, id="vlan"),
        pytest.param(1, ETHERNET + b"\x88\xa8\x00\x05\x81\x00\x00\x06\x86\xdd" + V6, V6, id="qinq"),
        pytest.param(1, ETHERNET + b"\x08\x06" + bytes(28), None, id="arp"),
        pytest.param(1, ETHERNET + b"\x81\x00\x00\x05\x08\x06" + bytes(28), None, id="arp in vlan"),
        pytest.param(1, ETHERNET + b"\x81\x00\x00\x05" * 99, None, id="nothing but tags"),
        pytest.param(1, ETHERNET + b"\x81\x00\x00", None, id="cut in a tag"),
        pytest.param(1, ETHERNET[:5], None, id="cut in ethernet"),
        pytest.param(1, b"", None, id="empty"),
        pytest.param(101, V4, V4, id="raw"),
        pytest.param(12, V6, V6, id="raw as 12"),
        pytest.param(14, V4, V4, id="raw as 14"),
        pytest.param(228, V4, V4, id="ipv4"),
        pytest.param(229, V6, V6, id="ipv6"),
        pytest.param(0, b"\x02\0\0\0" + V4, V4, id="null little"),
        pytest.param(0, b"\0\0\0\x02" + V4, V4, id="null big"),
        pytest.param(0, b"\x1e\0\0\0" + V6, V6, id="null macos ipv6"),
        pytest.param(108, b"\0\0\0\x18" + V6, V6, id="loop openbsd ipv6"),
        pytest.param(108, b"\0\0\0\x07" + V6, None, id="loop other family"),
        pytest.param(0, b"\x02", None, id="null cut"),
        pytest.param(113, SLL + b"\x08\x00" + V4, V4, id="cooked"),
        pytest.param(113, SLL + b"\x81\x00\x00\x05\x86\xdd" + V6, V6, id="cooked vlan"),
        pytest.param(113, SLL + b"\x08\x06" + bytes(28), None, id="cooked arp"),
        pytest.param(276, b"\x08\x00" + SLL2 + V4, V4, id="cooked 2"),
        pytest.param(276, b"\x81\x00" + SLL2 + b"\x00\x05\x08\x00" + V4, V4, id="cooked 2 vlan"),
        pytest.param(276, b"\x08\x00" + SLL2[:-1], None, id="cooked 2 cut"),
    ],
)
def test_link_layer_is_taken_off(link: int, data: bytes, expected: bytes | None) -> None:
    cut = 1000 if expected is not None else 0
    layer = network_layer(Frame(T, link, data, len(data)))
    assert layer == (None if expected is None else (expected, len(expected)))
    if cut:
        # The copy was cut: nothing is known of the end, and the header's length stands.
        assert network_layer(Frame(T, link, data[:-1], len(data))) == (expected[:-1], len(expected))  # type: ignore[index, arg-type]


@pytest.mark.parametrize("good", [V4, V6], ids=["ipv4", "ipv6"])
def test_what_ethernet_added_behind_the_packet_is_cut_off(good: bytes) -> None:
    ethertype = b"\x08\x00" if good is V4 else b"\x86\xdd"
    frame = ETHERNET + ethertype + good + bytes(18)
    assert network_layer(Frame(T, 1, frame, len(frame))) == (good, len(good))
    assert network_layer(Frame(T, 1, frame[:-20], len(frame))) == (good[:-2], len(good))


def test_lengths_that_cannot_be_are_left_to_the_decoder() -> None:
    for total in (0, 19, len(V4) + 1):
        wrong = V4[:2] + struct.pack("!H", total) + V4[4:]
        assert network_layer(Frame(T, 101, wrong, len(wrong))) == (wrong, len(wrong))


def test_unknown_link_type_is_an_error_that_names_it() -> None:
    with pytest.raises(CaptureError, match=r"link type 127 \(802.11 radiotap\) is not known"):
        network_layer(Frame(T, 127, b"", 0))
    with pytest.raises(CaptureError, match="link type 250 is not known"):
        network_layer(Frame(T, 250, b"", 0))


def test_directory_and_missing_file_are_os_errors(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing.pcap"):
        with pytest.raises(OSError), open_capture(str(path)):
            pass
