"""What FTP, IRC and TFTP announce: expected or not, dropped (docs/state-machine.md, "Helpers and expectations")."""

import pytest
from engine import packets
from engine.conversation import CLIENT, CLIENT6, ROUTER, SERVER, SERVER6, STRANGER, Gateway, Tcp, Udp

FTP = {"ftp": [21]}
IRC = {"irc": [6667]}
TFTP = {"tftp": [69]}

TO_CLIENT = "300 l3proto = 2 proto=6 src=10.2.0.2 dst=10.1.0.2 sport=0 dport=25602 ftp"
TO_SERVER = "300 l3proto = 2 proto=6 src=10.1.0.2 dst=10.2.0.2 sport=0 dport=25602 ftp"
PORT = b"PORT 10,1,0,2,100,2\r\n"
PASV = b"227 Entering Passive Mode (10,2,0,2,100,2).\r\n"


def logged_in(gateway: Gateway | None = None, client: str = CLIENT, server: str = SERVER, sport: int = 40000) -> Tcp:
    """A control connection on which both sides have said a line."""
    talk = Tcp(gateway or Gateway(FTP), client, server, sport, 21).opened()
    talk.server("ack", b"220 ready\r\n").is_established()
    talk.client("ack", b"USER anonymous\r\n").is_established()
    return talk


def data_connection(talk: Tcp, to_client: bool, port: int = 25602, sport: int = 20) -> Tcp:
    client, server = (side.address for side in talk.sides)
    src, dst = (server, client) if to_client else (client, server)
    return Tcp(talk.gateway, src, dst, sport, port)


# FTP


def test_a_client_announces_its_port_and_the_server_comes() -> None:
    talk = logged_in()
    talk.conn.mark = 7
    talk.client("ack", PORT).is_established()
    assert talk.gateway.expected == [TO_CLIENT]
    data = data_connection(talk, to_client=True)
    data.client("syn").is_related("ORIGINAL")
    data.client("syn", seq=0).is_related("ORIGINAL")
    data.server("syn ack").is_established()
    data.client("ack").is_established()
    assert data.conn.master is talk.conn and data.conn.mark == 7


def test_an_expectation_is_fulfilled_once() -> None:
    talk = logged_in()
    talk.client("ack", PORT).is_established()
    data_connection(talk, to_client=True).client("syn").is_related("ORIGINAL")
    assert talk.gateway.expected == []
    data_connection(talk, to_client=True, sport=21000).client("syn").is_new()


def test_a_server_announces_its_port_and_the_client_comes() -> None:
    talk = logged_in()
    talk.client("ack", b"PASV\r\n").is_established()
    talk.server("ack", PASV).is_established()
    assert talk.gateway.expected == [TO_SERVER]
    data_connection(talk, to_client=False, sport=50000).client("syn").is_related("ORIGINAL")


@pytest.mark.parametrize(
    "line",
    [PORT, PORT.lower(), b"EPRT |1|10.1.0.2|25602|\r\n", b"eprt !1!10.1.0.2!25602!\r\n"],
)
def test_ways_to_announce_a_clients_port(line: bytes) -> None:
    talk = logged_in()
    talk.client("ack", line).is_established()
    assert talk.gateway.expected == [TO_CLIENT]


@pytest.mark.parametrize(
    "line",
    [
        PASV,
        b"227 =10,2,0,2,100,2\r\n",
        b"229 Entering Extended Passive Mode (|||25602|)\r\n",
        b"229 (!!!25602!)\r\n",
    ],
)
def test_ways_to_announce_a_servers_port(line: bytes) -> None:
    talk = logged_in()
    talk.server("ack", line).is_established()
    assert talk.gateway.expected == [TO_SERVER]


def test_ipv6_has_the_extended_commands() -> None:
    talk = logged_in(client=CLIENT6, server=SERVER6)
    talk.client("ack", b"EPRT |2|2001:db8:1::2|25602|\r\n").is_established()
    (line,) = talk.gateway.expected
    assert line == (
        "300 l3proto = 10 proto=6 src=2001:0db8:0002:0000:0000:0000:0000:0002 "
        "dst=2001:0db8:0001:0000:0000:0000:0000:0002 sport=0 dport=25602 ftp"
    )
    talk.server("ack", b"229 (|||25603|)\r\n").is_established()
    data_connection(talk, to_client=False, port=25603).client("syn").is_related("ORIGINAL")


def test_the_first_line_of_a_connection_is_never_read() -> None:
    talk = Tcp(Gateway(FTP), dport=21).opened()
    talk.client("ack", PORT).is_established()
    assert talk.gateway.expected == []


def test_a_command_in_the_middle_of_a_line_is_none() -> None:
    talk = logged_in()
    talk.client("ack", b"STOR ").is_established()
    talk.client("ack", PORT).is_established()
    assert talk.gateway.expected == []
    talk.client("ack", PORT).is_established()  # that one had ended the line
    assert talk.gateway.expected == [TO_CLIENT]


def test_a_line_that_is_sent_again_is_read_again() -> None:
    talk = logged_in()
    at = talk.sides[0].sent
    talk.client("ack", PORT).is_established()
    talk.wait(100)
    talk.client("ack", PORT, seq=at).is_established()
    assert talk.gateway.expected == [TO_CLIENT]


@pytest.mark.parametrize(
    "line",
    [b"P", b"POR", b"PORT", b"PORT 10,1,0,2,100", b"PORT 10,1,0,2,100,2", b"EPRT |1|10.1.0.2|25602", b"PORT what\r\n"],
)
def test_a_command_of_which_a_part_is_here_does_not_pass(line: bytes) -> None:
    talk = logged_in()
    talk.client("ack", line).is_eaten("helper-partial")
    assert talk.gateway.expected == []
    talk.client("ack", PORT).is_established()
    assert talk.gateway.expected == [TO_CLIENT]


@pytest.mark.parametrize("line", [b"227 Entering Passive Mode (10,2,0,2,100", b"229 Entering Extended (|||25602"])
def test_an_answer_of_which_a_part_is_here_does_not_pass(line: bytes) -> None:
    talk = logged_in()
    talk.server("ack", line).is_eaten("helper-partial")
    assert talk.gateway.expected == []


def test_nobody_may_announce_somebody_else() -> None:
    talk = logged_in()
    talk.client("ack", b"PORT 10,9,0,1,100,2\r\n").is_established()
    talk.client("ack", b"EPRT |1|10.2.0.2|25602|\r\n").is_established()
    talk.server("ack", b"227 Entering Passive Mode (10,9,0,1,100,2).\r\n").is_established()
    assert talk.gateway.expected == []


def test_a_stranger_does_not_fulfil_an_expectation() -> None:
    talk = logged_in()
    talk.client("ack", PORT).is_established()
    Tcp(talk.gateway, STRANGER, CLIENT, 20, 25602).client("syn").is_new()
    data_connection(talk, to_client=True, port=25603).client("syn").is_new()
    Udp(talk.gateway, SERVER, CLIENT, 20, 25602).client().is_new()
    assert talk.gateway.expected == [TO_CLIENT]


def test_a_dropped_command_announces_nothing() -> None:
    talk = logged_in()
    talk.client("ack", PORT, refused=True).is_established()
    assert talk.gateway.expected == []


def test_a_connection_has_no_helper_unless_the_admin_says_so() -> None:
    talk = logged_in(Gateway())
    talk.client("ack", PORT).is_established()
    assert talk.gateway.expected == []
    talk.client("ack", b"POR").is_established()


def test_a_helper_does_not_read_what_is_invalid_or_an_error_about_its_connection() -> None:
    talk = logged_in()
    talk.client("ack", PORT, ack=9_000_000).is_invalid("tcp-ack-over")
    quoted = talk.packet(0, "ack")[:28]
    talk.gateway.sees(packets.icmp(ROUTER, CLIENT, 3, data=quoted)).is_related("REPLY")
    assert talk.gateway.expected == []


# Limits of expectations


def test_a_second_announcement_replaces_the_first() -> None:
    talk = logged_in()
    talk.client("ack", PORT).is_established()
    talk.client("ack", b"PORT 10,1,0,2,100,3\r\n").is_established()
    assert talk.gateway.expected == [TO_CLIENT.replace("25602", "25603")]
    data_connection(talk, to_client=True).client("syn").is_new()


def test_an_expectation_is_forgotten_after_300_seconds() -> None:
    talk = logged_in()
    talk.client("ack", PORT).is_established()
    talk.wait(299)
    talk.client("ack", b"NOOP\r\n").is_established()
    assert talk.gateway.expected == [TO_CLIENT.replace("300 ", "1 ", 1)]
    talk.wait(1)
    data_connection(talk, to_client=True).client("syn").is_new()
    talk.gateway.sweep()
    assert talk.gateway.expected == []


def test_the_table_of_expectations_has_a_limit() -> None:
    gateway = Gateway(FTP, expect_max=1)
    one, two = logged_in(gateway), logged_in(gateway, sport=40001)
    one.client("ack", PORT).is_established()
    two.client("ack", b"PORT 10,1,0,2,100,3\r\n").is_eaten("expect-full")
    assert gateway.expected == [TO_CLIENT]
    gateway.wait(299)
    two.client("ack", b"PORT 10,1,0,2,100,3\r\n").is_eaten("expect-full")
    gateway.wait(1)
    gateway.sweep()
    two.client("ack", b"PORT 10,1,0,2,100,3\r\n").is_established()


def test_two_masters_cannot_expect_the_same() -> None:
    gateway = Gateway(FTP)
    one, two = logged_in(gateway), logged_in(gateway, sport=40001)
    one.client("ack", PORT).is_established()
    two.client("ack", PORT).is_eaten("expect-full")


def test_what_a_connection_expects_goes_with_it() -> None:
    talk = logged_in()
    talk.client("ack", PORT).is_established()
    talk.client("rst").is_established()
    talk.wait(10)
    talk.gateway.sweep()
    assert talk.gateway.expected == []
    data_connection(talk, to_client=True).client("syn").is_new()


def test_what_a_connection_expected_is_not_in_the_way_of_its_successor() -> None:
    talk = logged_in()
    talk.client("ack", PORT).is_established()
    talk.client("rst").is_established()
    talk.wait(10)
    again = logged_in(talk.gateway)  # the same ports; nothing has been swept yet
    again.client("ack", PORT).is_established()
    assert talk.gateway.expected == [TO_CLIENT]


def test_a_flush_forgets_expectations_too() -> None:
    talk = logged_in()
    talk.client("ack", PORT).is_established()
    talk.gateway.tracker.flush()
    assert (talk.gateway.conns, talk.gateway.expected) == ([], [])


# IRC

ADDRESS = b"167837698"  # 10.1.0.2 as one number


def chat() -> Tcp:
    return Tcp(Gateway(IRC), dport=6667).opened()


@pytest.mark.parametrize(
    "line",
    [
        b"PRIVMSG bob :\1DCC SEND file %s 25602 1234\1\r\n",
        b"privmsg bob :\1DCC CHAT chat %s 25602\1\r\n",
        b" \r\n PRIVMSG bob :\1DCC TSEND file %s 25602 1234\1\r\n",
    ],
)
def test_an_offer_in_irc_expects_anybody(line: bytes) -> None:
    talk = chat()
    talk.client("ack", line % ADDRESS).is_established()
    assert talk.gateway.expected == ["300 l3proto = 2 proto=6 src=0.0.0.0 dst=10.1.0.2 sport=0 dport=25602 irc"]
    Tcp(talk.gateway, STRANGER, CLIENT, 50000, 25602).client("syn").is_related("ORIGINAL")


@pytest.mark.parametrize(
    "line",
    [
        b"PRIVMSG bob :\1DCC SEND file 167837699 25602 1234\1\r\n",  # not its own address
        b"PRIVMSG bob :\1DCC SEND file 167837698 0 1234\1\r\n",
        b"PRIVMSG bob :\1DCC SEND file 167837698 25602 1234\1",  # the line end is not here
        b"PRIVMSG bob :DCC SEND file 167837698 25602 1234\r\n",
        b"NOTICE bob :\1DCC SEND file 167837698 25602 1234\1\r\n",
        b"PRIVMSG bob :\1DCC HACK file 167837698 25602 1234\1\r\n",
    ],
)
def test_what_is_no_offer_in_irc_expects_nothing_and_passes(line: bytes) -> None:
    talk = chat()
    talk.client("ack", line).is_established()
    assert talk.gateway.expected == []


def test_only_the_client_offers_in_irc() -> None:
    talk = chat()
    talk.server("ack", b"PRIVMSG bob :\1DCC SEND file 167903234 25602 1234\1\r\n").is_established()
    assert talk.gateway.expected == []


def test_an_irc_client_may_have_eight_offers() -> None:
    talk = chat()
    for port in range(1001, 1011):
        talk.client("ack", b"PRIVMSG bob :\1DCC SEND file %s %d 1234\1\r\n" % (ADDRESS, port)).is_established()
    ports = sorted(line.split("dport=")[1] for line in talk.gateway.expected)
    assert ports == sorted(f"{port} irc" for port in range(1003, 1011))


# TFTP

READ, WRITE, DATA = b"\0\1file\0octet\0", b"\0\2file\0octet\0", b"\0\3\0\1"


@pytest.mark.parametrize("request_", [READ, WRITE])
def test_a_tftp_request_is_answered_from_another_port(request_: bytes) -> None:
    talk = Udp(Gateway(TFTP), dport=69)
    talk.client(request_).is_new()
    assert talk.gateway.expected == ["300 l3proto = 2 proto=17 src=10.2.0.2 dst=10.1.0.2 sport=0 dport=40000 tftp"]
    answer = Udp(talk.gateway, SERVER, CLIENT, 30000, 40000)
    answer.client(DATA).is_related("ORIGINAL")
    answer.server().is_established("REPLY")
    answer.client(DATA).is_established("ORIGINAL")


def test_only_an_accepted_request_of_tftp_is_one() -> None:
    talk = Udp(Gateway(TFTP), dport=69)
    talk.client(READ, refused=True).is_new()
    assert talk.gateway.expected == []
    talk.client(DATA).is_new()
    talk.client(b"\0").is_new()
    assert talk.gateway.expected == []
