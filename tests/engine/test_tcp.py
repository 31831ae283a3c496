"""TCP conversations (docs/state-machine.md, "TCP"): opening, data, closing, and what goes wrong in between."""

import pytest
from engine import packets
from engine.conversation import CLIENT, SERVER, Gateway, Tcp

OPEN = "432000 ESTABLISHED [ASSURED]"
SCALED = packets.scale(7)


# Opening


def test_a_connection_is_new_until_the_server_answers_and_assured_once_both_have() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    assert talk.entry == "120 SYN_SENT [UNREPLIED]"
    talk.server("syn ack").is_established()
    assert talk.entry == "60 SYN_RECV"
    talk.client("ack").is_established()
    assert talk.entry == OPEN


def test_ipv6_is_tracked_alike() -> None:
    talk = Tcp(client="2001:db8::1", server="2001:db8::2").opened()
    assert talk.entry == OPEN
    talk.client("psh ack", b"GET /").is_established()
    talk.server("ack").is_established()
    talk.closed()
    assert talk.entry == "120 TIME_WAIT [ASSURED]"


def test_every_packet_is_new_until_the_server_answers() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    talk.client("syn", seq=0).is_new()
    talk.client("syn", seq=0).is_new()
    talk.server("syn ack").is_established()
    talk.client("syn", seq=0).is_established()


def test_a_dropped_syn_leaves_nothing() -> None:
    talk = Tcp()
    talk.client("syn", refused=True).is_new()
    assert talk.entry == ""
    talk.server("syn ack", ack=1).is_invalid("tcp-new")
    talk.client("syn", refused=True).is_new()
    talk.client("syn").is_new()
    talk.server("syn ack").is_established()


def test_a_syn_that_is_sent_again_does_not_live_longer_for_it() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    talk.wait(50)
    talk.client("syn", seq=0).is_new()
    assert talk.entry == "70 SYN_SENT [UNREPLIED]"
    talk.wait(71)
    talk.server("syn ack").is_invalid("tcp-new")


def test_a_syn_that_starts_higher_is_the_one_to_be_answered() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    talk.client("syn", seq=5000).is_new()
    talk.server("syn ack", ack=5001).is_established()
    talk.client("ack", seq=5001).is_established()
    assert talk.entry == OPEN


def test_a_syn_ack_for_something_that_was_not_sent_is_invalid() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    talk.server("syn ack", ack=2).is_invalid("tcp-ack-over")
    assert talk.entry == "120 SYN_SENT [UNREPLIED]"


def test_both_ends_open_at_once() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    talk.server("syn").is_established()
    assert talk.entry == "120 SYN_SENT2"
    talk.client("syn ack", seq=0).is_established()
    assert talk.entry == "60 SYN_RECV"
    talk.server("ack").is_established()
    assert talk.entry == OPEN


@pytest.mark.parametrize("flags", ["syn ack", "fin ack", "rst", "rst ack"])
def test_only_a_syn_or_an_ack_opens(flags: str) -> None:
    talk = Tcp()
    talk.client(flags).is_invalid("tcp-new")
    assert talk.gateway.conns == []


def test_ports_tell_connections_apart() -> None:
    gateway = Gateway()
    one = Tcp(gateway, sport=40000).opened()
    two = Tcp(gateway, sport=40001)
    two.client("syn").is_new()
    two.client("rst").is_new()
    assert (one.entry, two.entry) == (OPEN, "")


# Headers


def test_flags_that_no_tcp_sends_are_invalid_and_the_others_are_not() -> None:
    valid = {
        "syn", "syn urg", "syn ack", "rst", "rst ack", "fin ack", "fin ack urg", "ack", "ack urg"
    }  # fmt: skip
    words = ("syn", "fin", "rst", "ack", "urg")
    for number in range(32):
        flags = " ".join(word for bit, word in enumerate(words) if number >> bit & 1)
        talk = Tcp().opened()
        said = talk.client(flags)
        assert (said.reason == "tcp-flags") != (flags in valid), said
    for flags in valid - {"syn ack"}:
        Tcp().opened().client(flags + " psh ece cwr").is_established()


def test_invalid_flags_create_nothing() -> None:
    for flags in ("", "fin", "syn fin", "syn rst", "fin psh urg", "syn ack urg"):
        talk = Tcp()
        talk.client(flags).is_invalid("tcp-flags")
        assert talk.gateway.conns == []


@pytest.mark.parametrize("length", [0, 16, 24, 60])
def test_a_header_shorter_than_20_bytes_or_longer_than_the_segment_is_invalid(length: int) -> None:
    packet = packets.tcp(CLIENT, SERVER, 40000, 80, "syn")
    segment = packet[20:32] + bytes([length // 4 << 4]) + packet[33:]
    packet = packets.ip(CLIENT, SERVER, packets.TCP, packets.summed(CLIENT, SERVER, packets.TCP, segment, 16))
    Gateway().sees(packet).is_invalid("tcp-header")


def test_a_wrong_checksum_is_invalid_and_changes_nothing() -> None:
    talk = Tcp()
    syn = talk.packet(0, "syn")
    talk.gateway.sees(packets.spoiled(syn)).is_invalid("checksum")
    assert talk.gateway.conns == []
    talk.opened()
    talk.wait(60)
    talk.gateway.sees(packets.spoiled(talk.packet(0, "fin ack"))).is_invalid("checksum")
    assert talk.entry == "431940 ESTABLISHED [ASSURED]"


def test_a_checksum_is_not_looked_at_when_somebody_else_has_or_the_admin_says_so() -> None:
    syn = packets.spoiled(Tcp().packet(0, "syn"))
    Gateway().sees(syn, check=False).is_new()
    Gateway(checksum=0).sees(syn).is_new()


# Data and windows


def test_data_that_nobody_acknowledged_is_waited_for_300_seconds() -> None:
    talk = Tcp().opened()
    talk.client("psh ack", b"GET / HTTP/1.0\r\n\r\n").is_established()
    assert talk.entry == "300 ESTABLISHED [ASSURED]"
    talk.server("ack").is_established()
    assert talk.entry == OPEN
    talk.server("psh ack", bytes(1400)).is_established()
    assert talk.entry == "300 ESTABLISHED [ASSURED]"
    talk.client("ack").is_established()
    assert talk.entry == OPEN


@pytest.mark.parametrize("start", [2**32 - 1, 2**32 - 2, 2**32 - 30, 2**31 - 5, 0])
def test_sequence_numbers_wrap(start: int) -> None:
    talk = Tcp(client_start=start, server_start=start).opened()
    for _ in range(3):
        talk.client("ack", bytes(20)).is_established()
        talk.server("ack", bytes(30)).is_established()
        talk.client("ack").is_established()
        assert talk.entry == OPEN
    talk.client("ack", seq=200_000).is_invalid("tcp-seq-over")
    talk.closed()
    assert talk.entry == "120 TIME_WAIT [ASSURED]"


def test_data_far_beyond_the_window_is_invalid() -> None:
    talk = Tcp().opened()
    talk.wait(60)
    talk.client("ack", b"?", seq=200_000).is_invalid("tcp-seq-over")
    assert talk.entry == "431940 ESTABLISHED [ASSURED]"


def test_data_a_little_beyond_the_window_is_let_through_without_effect() -> None:
    talk = Tcp().opened()
    talk.wait(60)
    talk.client("ack", b"?", seq=64_240 + 1000).is_established()
    assert talk.entry == "431940 ESTABLISHED [ASSURED]"


def test_an_acknowledgement_of_what_was_never_sent_is_invalid() -> None:
    talk = Tcp().opened()
    talk.wait(60)
    talk.client("ack", ack=2).is_invalid("tcp-ack-over")
    assert talk.entry == "431940 ESTABLISHED [ASSURED]"


def test_old_data_once_more_is_let_through_without_effect() -> None:
    talk = Tcp().opened()
    for _ in range(2):
        talk.client("ack", bytes(60_000)).is_established()
        talk.server("ack").is_established()
    talk.wait(60)
    talk.client("ack", b"?", seq=1).is_established()
    assert talk.entry == "431940 ESTABLISHED [ASSURED]"


def test_a_very_old_acknowledgement_is_let_through_without_effect() -> None:
    talk = Tcp().opened()
    for _ in range(2):
        talk.server("ack", bytes(60_000)).is_established()
        talk.client("ack").is_established()
    talk.wait(60)
    talk.client("ack", ack=1).is_established()
    assert talk.entry == "431940 ESTABLISHED [ASSURED]"


def test_liberal_lets_every_window_pass() -> None:
    talk = Tcp(Gateway(tcp_be_liberal=1)).opened()
    talk.wait(60)
    talk.client("ack", b"?", seq=200_000).is_established()
    talk.client("ack", ack=200_000).is_established()
    assert talk.entry == OPEN


def test_a_window_is_scaled_when_both_sides_offered_it() -> None:
    talk = Tcp(client_options=SCALED, server_options=SCALED).opened()
    talk.server("ack", win=2000).is_established()
    talk.client("ack", b"?", seq=200_000).is_established()
    talk.client("ack", b"?", seq=1_000_000).is_invalid("tcp-seq-over")


@pytest.mark.parametrize("options", [(SCALED, b""), (b"", SCALED), (b"", b"")])
def test_a_window_is_not_scaled_when_one_side_did_not_offer_it(options: tuple[bytes, bytes]) -> None:
    talk = Tcp(client_options=options[0], server_options=options[1]).opened()
    talk.server("ack", win=2000).is_established()
    talk.client("ack", b"?", seq=200_000).is_invalid("tcp-seq-over")


def test_sack_blocks_count_as_acknowledgement_when_they_were_agreed_on() -> None:
    agreed = packets.SACK_PERMITTED
    talk = Tcp(client_options=agreed, server_options=agreed).opened()
    server = talk.sides[1].start
    talk.server("ack", bytes(100), seq=101).is_established()
    talk.client("ack", options=packets.sack((server + 101, server + 201))).is_established()
    talk.client("ack", options=packets.sack((server + 101, server + 9000))).is_invalid("tcp-ack-over")

    deaf = Tcp().opened()
    deaf.client("ack", options=packets.sack((server + 101, server + 9000))).is_established()


def test_a_closed_window_is_waited_for_300_seconds() -> None:
    talk = Tcp().opened()
    talk.server("ack", win=0).is_established()
    assert talk.entry == "300 ESTABLISHED [ASSURED]"
    talk.server("ack", win=1000).is_established()
    assert talk.entry == OPEN


def test_the_third_repetition_of_an_ack_is_a_sign_of_trouble() -> None:
    talk = Tcp().opened()
    entries = [talk.client("ack").is_established() and talk.entry for _ in range(4)]
    assert entries == [OPEN, OPEN, "300 ESTABLISHED [ASSURED]", "300 ESTABLISHED [ASSURED]"]
    talk.server("ack").is_established()
    assert talk.entry == OPEN


def test_a_keep_alive_is_within_the_window() -> None:
    talk = Tcp().opened()
    talk.wait(7200)
    talk.client("ack", seq=0).is_established()
    talk.server("ack").is_established()
    assert talk.entry == OPEN


# Picked up in the middle


def test_a_connection_that_is_older_than_the_gateway_is_picked_up() -> None:
    talk = Tcp()
    talk.client("ack", b"still there?").is_new()
    assert talk.entry == "300 ESTABLISHED [UNREPLIED]"
    talk.client("ack", b"still there?", seq=0).is_new()
    talk.server("ack").is_established()
    assert talk.entry == "300 ESTABLISHED"
    talk.client("ack").is_established()
    assert talk.entry == OPEN


def test_the_windows_of_a_picked_up_connection_bind_nobody() -> None:
    talk = Tcp()
    talk.client("ack", b"still there?").is_new()
    talk.server("ack").is_established()
    talk.client("ack", b"?", seq=50_000_000).is_established()
    talk.client("ack", ack=50_000_000).is_established()


def test_nothing_is_picked_up_when_the_admin_says_so() -> None:
    talk = Tcp(Gateway(tcp_loose=0))
    talk.client("ack", b"still there?").is_invalid("tcp-new")
    assert talk.gateway.conns == []
    talk.opened()


# Closing


def test_a_close_is_followed_step_by_step() -> None:
    talk = Tcp().opened()
    talk.client("fin ack").is_established()
    assert talk.entry == "120 FIN_WAIT [ASSURED]"
    talk.server("ack").is_established()
    assert talk.entry == "60 CLOSE_WAIT [ASSURED]"
    talk.server("fin ack").is_established()
    assert talk.entry == "30 LAST_ACK [ASSURED]"
    talk.client("ack").is_established()
    assert talk.entry == "120 TIME_WAIT [ASSURED]"
    talk.wait(119)
    assert talk.entry == "1 TIME_WAIT [ASSURED]"
    talk.wait(1)
    assert talk.entry == ""
    talk.client("fin ack").is_invalid("tcp-new")


def test_dropping_a_packet_does_not_undo_what_it_did_to_the_state() -> None:
    talk = Tcp().opened()
    talk.client("fin ack", refused=True).is_established()
    assert talk.entry == "120 FIN_WAIT [ASSURED]"


def test_a_syn_in_time_wait_opens_a_new_connection() -> None:
    talk = Tcp().opened().closed()
    talk.client("syn", seq=100_000).is_new()
    assert talk.entry == "120 SYN_SENT [UNREPLIED]"
    assert len(talk.gateway.conns) == 1
    talk.server("syn ack", ack=100_001).is_established()


def test_a_refused_syn_in_time_wait_takes_the_old_connection_with_it() -> None:
    talk = Tcp().opened().closed()
    talk.client("syn", seq=100_000, refused=True).is_new()
    assert talk.gateway.conns == []


def test_a_syn_of_the_server_in_time_wait_opens_a_connection_in_its_direction() -> None:
    talk = Tcp().opened().closed()
    talk.server("syn", seq=100_000).is_new()
    back = Tcp(talk.gateway, SERVER, CLIENT, 80, 40000)
    assert talk.conn.key == back.conn.key
    assert talk.entry == "120 SYN_SENT [UNREPLIED]"


def test_who_reset_a_connection_may_open_it_again() -> None:
    talk = Tcp().opened()
    talk.client("rst").is_established()
    assert talk.entry == "10 CLOSE [ASSURED]"
    talk.client("syn", seq=100_000).is_new()
    assert talk.entry == "120 SYN_SENT [UNREPLIED]"


def test_a_syn_after_the_servers_reset_is_let_through_and_followed_once_it_is_answered() -> None:
    talk = Tcp().opened()
    talk.server("rst").is_established()
    talk.client("syn", seq=100_000).is_established()
    assert talk.entry == "10 CLOSE [ASSURED]"
    talk.server("syn ack", seq=70_000, ack=100_001).is_established()
    assert talk.entry == "60 SYN_RECV [ASSURED]"
    talk.client("ack", seq=100_001, ack=70_001).is_established()
    assert talk.entry == OPEN


def test_a_syn_inside_a_connection_is_let_through_and_followed_once_it_is_answered() -> None:
    talk = Tcp().opened()
    talk.wait(60)
    talk.client("syn", seq=3_000_000).is_established()
    assert talk.entry == "431940 ESTABLISHED [ASSURED]"
    talk.server("ack").is_established()  # the challenge: the server still holds the old connection
    assert talk.entry == OPEN
    talk.client("syn", seq=3_000_000).is_established()
    talk.server("syn ack", seq=6_000_000, ack=3_000_001).is_established()
    assert talk.entry == "60 SYN_RECV [ASSURED]"


def test_the_challenge_to_a_syn_is_not_the_last_ack() -> None:
    talk = Tcp().opened()
    talk.client("fin ack").is_established()
    talk.server("ack").is_established()
    talk.server("fin ack").is_established()
    talk.client("syn", seq=3_000_000).is_established()
    talk.server("ack").is_established()
    assert talk.entry == "30 LAST_ACK [ASSURED]"
    talk.client("ack").is_established()
    assert talk.entry == "120 TIME_WAIT [ASSURED]"


# Resets


def test_a_reset_as_the_first_answer_deletes_the_connection() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    talk.server("rst ack").is_established()
    assert talk.gateway.conns == []
    talk.client("syn", seq=0).is_new()


def test_a_client_that_takes_its_syn_back_deletes_the_connection() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    talk.client("rst").is_new()
    assert talk.gateway.conns == []


def test_a_reset_right_behind_what_was_acknowledged_closes() -> None:
    talk = Tcp().opened()
    talk.client("rst").is_established()
    assert talk.entry == "10 CLOSE [ASSURED]"


def test_a_reset_inside_the_window_closes_nothing_but_is_a_sign_of_trouble() -> None:
    talk = Tcp().opened()
    talk.client("rst", seq=100).is_established()
    assert talk.entry == "10 ESTABLISHED [ASSURED]"


def test_a_reset_below_what_was_acknowledged_is_invalid() -> None:
    talk = Tcp().opened()
    talk.client("ack", bytes(100)).is_established()
    talk.server("ack").is_established()
    talk.client("rst", seq=50).is_invalid("tcp-rst-seq")
    assert talk.entry == OPEN


def test_a_reset_below_what_was_acknowledged_is_let_through_when_the_admin_says_so() -> None:
    talk = Tcp(Gateway(tcp_ignore_invalid_rst=1)).opened()
    talk.client("ack", bytes(100)).is_established()
    talk.server("ack").is_established()
    talk.client("rst", seq=50).is_established()
    assert talk.entry == "10 ESTABLISHED [ASSURED]"


def test_a_reset_right_behind_data_closes() -> None:
    talk = Tcp().opened()
    talk.client("ack", bytes(100)).is_established()
    talk.client("rst").is_established()
    assert talk.entry == "10 CLOSE [ASSURED]"


def test_a_reset_of_a_connection_that_is_closing_closes_wherever_it_lies() -> None:
    talk = Tcp().opened()
    talk.client("fin ack").is_established()
    talk.server("rst", seq=90_000_000).is_established()
    assert talk.entry == "10 CLOSE [ASSURED]"


def test_a_reset_that_answers_a_challenge_closes() -> None:
    talk = Tcp()
    talk.client("syn").is_new()
    talk.server("ack", ack=777).is_established()  # the server still holds an old connection of this tuple
    assert talk.entry == "120 SYN_SENT"
    talk.client("rst", seq=777).is_established()
    assert talk.entry == "10 CLOSE"


def test_resets_outside_of_the_window_from_both_sides_shorten_the_wait() -> None:
    talk = Tcp().opened()
    talk.client("rst", seq=9_000_000).is_invalid("tcp-seq-over")
    assert talk.entry == OPEN
    talk.server("fin ack", seq=9_000_000).is_invalid("tcp-seq-over")
    assert talk.entry == "300 ESTABLISHED [ASSURED]"


# Time-outs are settings


def test_time_outs_are_settings() -> None:
    talk = Tcp(Gateway(tcp_timeout_syn_sent=7, tcp_timeout_established=3600, tcp_timeout_unacknowledged=20))
    talk.client("syn").is_new()
    assert talk.entry == "7 SYN_SENT [UNREPLIED]"
    talk.server("syn ack").is_established()
    talk.client("ack").is_established()
    assert talk.entry == "3600 ESTABLISHED [ASSURED]"
    talk.client("ack", b"?").is_established()
    assert talk.entry == "20 ESTABLISHED [ASSURED]"
