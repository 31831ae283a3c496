"""FTP: what of a repeated or strange line is read (the usual ones are in test_helpers)."""

import pytest
from engine.conversation import CLIENT, CLIENT6, SERVER, SERVER6, Gateway, Tcp

PORT = b"PORT 10,1,0,2,100,2\r\n"


def logged_in(client: str = CLIENT, server: str = SERVER) -> Tcp:
    talk = Tcp(Gateway({"ftp": [21]}), client, server, 40000, 21).opened()
    talk.server("ack", b"220 ready\r\n").is_established()
    talk.client("ack", b"USER anonymous\r\n").is_established()
    return talk


def test_an_old_line_that_comes_again_does_not_displace_a_newer_one() -> None:
    talk = logged_in()
    user, noop = b"USER anonymous\r\n", b"NOOP\r\n"
    talk.client("ack", noop).is_established()
    talk.client("ack", PORT).is_established()
    Tcp(talk.gateway, SERVER, CLIENT, 20, 25602).client("syn").is_related("ORIGINAL")
    talk.client("ack", user, seq=1).is_established()
    talk.client("ack", PORT, seq=1 + len(user) + len(noop)).is_established()
    assert len(talk.gateway.expected) == 1


def test_a_line_that_announces_somebody_elses_address_is_a_line_all_the_same() -> None:
    talk = logged_in()
    talk.client("ack", b"PORT 10,3,0,3,100,2\r\n").is_established()
    talk.client("ack", PORT).is_established()
    assert len(talk.gateway.expected) == 1


@pytest.mark.parametrize("ends", [(CLIENT, SERVER), (CLIENT6, SERVER6)])
def test_six_numbers_over_ipv6_are_the_addresss_first_four_bytes(ends: tuple[str, str]) -> None:
    talk = logged_in(*ends)
    talk.client("ack", b"PORT 32,1,13,184,100,2\r\n").is_established()
    assert len(talk.gateway.expected) == (ends[0] == CLIENT6)


@pytest.mark.parametrize(
    ("text", "is_ours"),
    [
        ("2001:db8:1::2", True),
        ("2001:DB8:1:0::2", True),
        ("2001:db8:1:0:0:0:0:2", True),
        ("2001:0000db8:1::2", True),
        ("2001:db8:1::0.0.0.2", True),
        ("2001:db8:1::3", False),
    ],
)
def test_ways_to_write_an_ipv6_address(text: str, is_ours: bool) -> None:
    talk = logged_in(CLIENT6, SERVER6)
    talk.client("ack", f"EPRT |2|{text}|25602|\r\n".encode()).is_established()
    assert (talk.gateway.expected != []) is is_ours


NO_ADDRESSES = (
    "", ":", ":::", "1", "1:2", "::1::", "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7::8", "1:2:3:4::5:6:7:8", "12345::", "g::",
    "::1.2.3", "::1.2.3.4.5", "::1.2.3.256", "1.2.3.4", "1::2 ",
)  # fmt: skip


@pytest.mark.parametrize("text", NO_ADDRESSES)
def test_what_is_no_ipv6_address_is_half_a_command(text: str) -> None:
    talk = logged_in(CLIENT6, SERVER6)
    talk.client("ack", f"EPRT |2|{text}|25602|\r\n".encode()).is_eaten("helper-partial")
