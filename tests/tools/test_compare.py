"""Two tables side by side: what is the same, what is not, and lines that are none."""

from hypothesis import given
from hypothesis import strategies as st

from ctfw.tools.compare import compare, parse

TCP = (
    "ipv4     2 tcp      6 431998 ESTABLISHED src=10.71.1.2 dst=10.71.2.2 sport=20008 dport=82 "
    "src=10.71.2.2 dst=10.71.1.2 sport=82 dport=20008 [ASSURED] mark=0 zone=0 use=2"
)
ICMP6 = (
    "ipv6     10 icmpv6   58 30 src=2001:0db8:0001:0000:0000:0000:0000:0002 "
    "dst=2001:0db8:0002:0000:0000:0000:0000:0002 type=128 code=0 id=7 [UNREPLIED] "
    "src=2001:0db8:0002:0000:0000:0000:0000:0002 dst=2001:0db8:0001:0000:0000:0000:0000:0002 type=129 code=0 id=7 "
    "mark=0 zone=0 use=2"
)
ESP = "ipv4     2 unknown  50 600 src=10.71.1.2 dst=10.71.2.2 src=10.71.2.2 dst=10.71.1.2 mark=0 zone=0 use=2"


def test_equal_tables_are_equal_in_any_order() -> None:
    found = compare([TCP, ICMP6, ESP], [ESP, TCP, ICMP6])
    assert found.is_equal()
    assert found.same == 3


def test_mark_zone_use_counters_and_the_spelling_of_addresses_do_not_count() -> None:
    other = ICMP6.replace("2001:0db8:0001:0000:0000:0000:0000:0002", "2001:db8:1::2").replace("mark=0", "mark=7")
    assert compare([ICMP6], [other.replace("use=2", "use=1")]).is_equal()
    counted = TCP.replace("dport=82 ", "dport=82 packets=3 bytes=180 ").replace("zone=0 ", "")
    assert compare([counted], [TCP]).is_equal()


def test_what_only_one_has_is_said() -> None:
    found = compare([TCP, ESP], [ICMP6, ESP])
    assert [record.line for record in found.only_kernel] == [TCP]
    assert [record.line for record in found.only_ours] == [ICMP6]
    assert not found.is_equal()


def test_what_differs_is_named() -> None:
    for change, wanted in (
        (("ESTABLISHED", "CLOSE_WAIT"), "state ESTABLISHED / CLOSE_WAIT"),
        (("[ASSURED] ", ""), "flags ASSURED / none"),
        (("431998", "300"), "seconds 431998 / 300"),
    ):
        ((_, _, differences),) = compare([TCP], [TCP.replace(*change)]).differing
        assert differences == [wanted]


def test_seconds_may_differ_by_the_tolerance() -> None:
    assert compare([TCP], [TCP.replace("431998", "431996")]).is_equal()
    assert not compare([TCP], [TCP.replace("431998", "431995")]).is_equal()
    assert compare([TCP], [TCP.replace("431998", "431995")], tolerance=3).is_equal()


@given(st.text() | st.text(alphabet=TCP, max_size=200).map(lambda text: TCP[:60] + text))
def test_no_line_raises(line: str) -> None:
    compare([line], [TCP])
    compare([TCP], [line])


def test_a_line_is_taken_apart() -> None:
    record = parse(TCP)
    assert record is not None
    assert (record.seconds, record.state, record.flags) == (431998, "ESTABLISHED", frozenset({"ASSURED"}))
    assert parse("conntrack v1.4.7 (conntrack-tools): 6 flow entries have been shown.") is None
