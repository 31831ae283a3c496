"""Scalars: what each form means, and which are refused."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctfw.config import values
from ctfw.config.names import ICMP, ICMPV6, PROTOCOLS, SERVICES
from ctfw.config.values import Wrong


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("2h30m", 9000), ("5d", 432000), ("1d1h1m1s", 90061), ("1m", 60)],
)
def test_duration(text: str, seconds: int) -> None:
    assert values.duration(text, 1, 10**6) == seconds


@pytest.mark.parametrize("text", ["", "d", "5 d", "1s1m", "-5s", "1.5h", "5D", "٣", "5d\n"])
def test_no_duration(text: str) -> None:
    with pytest.raises(Wrong):
        values.duration(text, 0, 10**9)


@pytest.mark.parametrize(
    ("text", "interval"),
    [
        ("5/minute", 12 * 10**9),
        ("1/second", 10**9),
        ("10/s", 10**8),
        ("2/hour", 1800 * 10**9),
        ("1 / day", 86400 * 10**9),
    ],
)
def test_rate(text: str, interval: int) -> None:
    assert values.rate(text) == interval


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("10.0.0.1", b"\x0a\0\0\1", b"\x0a\0\0\1"),
        ("10.0.0.0/8", b"\x0a\0\0\0", b"\x0a\xff\xff\xff"),
        ("0.0.0.0/0", bytes(4), b"\xff" * 4),
        ("10.0.0.5-10.0.0.9", b"\x0a\0\0\5", b"\x0a\0\0\x09"),
        ("10.0.0.5 - 10.0.0.9", b"\x0a\0\0\5", b"\x0a\0\0\x09"),
        ("::/0", bytes(16), b"\xff" * 16),
        ("::1", bytes(15) + b"\1", bytes(15) + b"\1"),
        ("fe80::/10", b"\xfe\x80" + bytes(14), b"\xfe\xbf" + b"\xff" * 14),
    ],
)
def test_address(text: str, first: bytes, last: bytes) -> None:
    assert values.address(text) == (first, last)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10.0.0",
        "1",
        "0x0a.0.0.1",
        "10.0.0.1/",
        "10.0.0.1/-1",
        "10.0.0.0/8/8",
        "-",
        "a-b",
        "1.2.3.4-",
        "::1::",
        "\0",
    ],
)
def test_no_address(text: str) -> None:
    with pytest.raises(Wrong):
        values.address(text)


@pytest.mark.parametrize(
    ("text", "interval"),
    [("22", (22, 22)), ("ssh", (22, 22)), ("SSH", (22, 22)), ("8000-8099", (8000, 8099)), ("0-65535", (0, 65535))]
    + [("ftp-data", (20, 20)), ("http-alt", (8080, 8080))],
)
def test_port(text: str, interval: tuple[int, int]) -> None:
    assert values.port(text) == interval


@pytest.mark.parametrize(
    ("read", "text", "interval"),
    [
        (values.icmp_type, "echo-request", (0x800, 0x8FF)),
        (values.icmp_type, "3/4", (0x304, 0x304)),
        (values.icmp_type, "fragmentation-needed", (0x304, 0x304)),
        (values.icmpv6_type, "echo-request", (0x8000, 0x80FF)),
        (values.icmpv6_type, "255", (0xFF00, 0xFFFF)),
        (values.proto, "ICMPv6", (58, 58)),
        (values.proto, "0", (0, 0)),
    ],
)
def test_icmp_and_proto(read: Callable[[str], tuple[int, int]], text: str, interval: tuple[int, int]) -> None:
    assert read(text) == interval


@pytest.mark.parametrize("text", ["eth0", "+", "ppp+", "br-lan", "eth0.100", "a23456789012345", "wg0"])
def test_interface(text: str) -> None:
    assert values.interface(text) == text


@pytest.mark.parametrize(
    "text", ["", "eth0:1", "a b", "eth/0", "e+h", "++", "eth*", "..", "a234567890123456", "$x", "!x"]
)
def test_no_interface(text: str) -> None:
    with pytest.raises(Wrong):
        values.interface(text)


def test_every_name_is_in_range_and_lower_case() -> None:
    assert all(0 < port < 65536 for port in SERVICES.values())
    assert all(0 <= number < 256 for number in PROTOCOLS.values())
    for table in (ICMP, ICMPV6):
        assert all(0 <= kind < 256 and (code is None or 0 <= code < 256) for kind, code in table.values())
    assert all(name == name.lower() for table in (SERVICES, PROTOCOLS, ICMP, ICMPV6) for name in table)


READERS: list[Callable[[str], Any]] = [
    values.address, values.port, values.proto, values.icmp_type, values.icmpv6_type, values.interface, values.rate,
    values.name, values.switch, lambda text: values.duration(text, 0, 9), lambda text: values.number(text, 0, 9),
    lambda text: values.choice(text, {"NEW": 1, "accept": 0}),
]  # fmt: skip


@pytest.mark.parametrize("read", READERS)
@given(text=st.one_of(st.text(), st.text("0123456789./:-+!$%abcdefx \0\ud800,"), st.sampled_from(sorted(SERVICES))))
def test_any_text_is_read_or_wrong(read: Callable[[str], Any], text: str) -> None:
    try:
        read(text)
    except Wrong as wrong:
        wrong.message.encode()  # no lone surrogate reaches a terminal
        wrong.hint.encode()
        assert not any(ord(c) < 32 for c in wrong.message + wrong.hint)
