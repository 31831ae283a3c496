"""A test written from a capture: it passes, and says of the packets what the capture's own would have got."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tools.spoken import CLIENT, SERVER, A, B, others, segments

from ctfw import cli, config
from ctfw.config.packet_words import parse
from ctfw.nfqueue import VERIFIED
from ctfw.packet import FORWARD, decode
from ctfw.service.record import Annotation, Blocks
from ctfw.service.record_file import RecordFile
from ctfw.tools import from_pcap, rule_tests
from ctfw.tools.build_packet import Talk
from ctfw.tools.capture import Frame
from ctfw.tools.write_packet import Bases, escaped, write

SECOND = 1_000_000_000
T = 1_700_000_000 * SECOND
GIVEN = Annotation(FORWARD, "lan0", "wan0", 0, VERIFIED)

RULES = """version: 1
conntrack: {helpers: {ftp: 21}}
policy: {input: drop, forward: drop, output: accept}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: garbage, state: INVALID, verdict: drop}
  - {name: near, ttl: 0-10, verdict: reject}
  - {name: lan, in: lan0, state: NEW, limit: {rate: 1/minute, burst: 3}, verdict: accept}
"""

OPENED = [
    (f"{CLIENT} syn seq=4000000000 mss=1460 sackok wscale=7", 0),
    (f"{SERVER} syn ack seq=7 ack=4000000001 wscale=5", 0),
]


def frames(steps: list[tuple[str, int]]) -> list[tuple[Frame, Annotation | None]]:
    """The packets of these words, each so many seconds after the one before."""
    talk, now = Talk(), T
    found: list[tuple[Frame, Annotation | None]] = []
    for text, seconds in steps:
        now += seconds * SECOND
        data = talk.build(parse(text))
        talk.arrived()
        found.append((Frame(now, 101, data, len(data)), None))
    return found


def written(steps: list[tuple[str, int]], number: int = 0) -> from_pcap.Written:
    found = from_pcap.conversations(frames(steps))
    return from_pcap.write_test(found[number], lambda: config.load("rules.yaml", RULES), GIVEN)


def assert_passes(text: str) -> None:
    loaded = config.load("rules.yaml", RULES + text)
    played = rule_tests.run(loaded)
    assert [line for one in played if one.failed for line in rule_tests.lines(one)] == [], text


def test_a_conversation_reads_as_one_would_have_written_it() -> None:
    found = written([
        *OPENED,
        (f"{CLIENT} ack", 0),
        (f'{CLIENT} ack psh payload="GET / HTTP/1.0\\r\\n\\r\\n"', 3),
        (f"{SERVER} ack sack=4000000001-4000000019", 0),
        (f"{SERVER} ack win=12 seq=90000000", 0),
    ])  # fmt: skip
    assert found.notes == []
    assert found.text.splitlines() == [
        "tests:",
        f'  - name: "{CLIENT}"',
        '    in: "lan0"',
        '    out: "wan0"',
        "    steps:",
        f"      - send: '{CLIENT} syn mss=1460 sackok wscale=7'",
        "        expect: {verdict: accept, state: NEW, rule: lan}",
        f"      - send: '{SERVER} syn ack wscale=5'",
        "        expect: {verdict: accept, state: ESTABLISHED, rule: replies}",
        f"      - send: '{CLIENT} ack'",
        "        expect: {verdict: accept, state: ESTABLISHED, rule: replies}",
        "      - wait: 3s",
        f"      - send: '{CLIENT} ack psh len=18'",
        "        expect: {verdict: accept, state: ESTABLISHED, rule: replies}",
        f"      - send: '{SERVER} ack sack=1-19'",
        "        expect: {verdict: accept, state: ESTABLISHED, rule: replies}",
        f"      - send: '{SERVER} ack win=12 seq=89999993'",
        "        expect: {verdict: drop, state: INVALID, rule: garbage, reason: tcp-seq-over}",
    ]
    assert_passes(found.text)


def test_what_a_helper_reads_is_in_it() -> None:
    control, answers = f"tcp {A}:40000 > {B}:21", f"tcp {B}:21 > {A}:40000"
    user = control + r""" ack psh payload="USER it's\x01\r\n" """
    found = written([(f"{control} syn", 0), (f"{answers} syn ack", 0), (f"{control} ack", 0), (user, 0)])
    assert r"""payload="USER it''s\x01\r\n" """.strip() in found.text
    assert_passes(found.text)


def test_an_error_belongs_to_the_conversation_that_it_speaks_about() -> None:
    udp = f"udp {A}:1 > {B}:53"
    found = from_pcap.conversations(
        frames(
            [
                (udp, 0),
                (f"{CLIENT} syn", 0),
                (f"icmp {B} > {A} port-unreachable quotes ({udp})", 0),
                (f"gre {A} > {B}", 0),
            ]
        )
    )
    assert [(one.name, len(one.packets)) for one in found] == [(udp, 2), (CLIENT, 1), (f"gre {A} > {B}", 1)]
    assert_passes(written([(udp, 0), (f"icmp {B} > {A} port-unreachable quotes ({udp})", 0)]).text)


def test_later_fragments_belong_to_their_first_one() -> None:
    steps = [(f"udp {A}:1 > {B}:53 more len=1472 ipid=7", 0), (f"udp {A} > {B} fragment=1480 len=100 ipid=7", 0)]
    found = written(steps)
    assert "fragment=1480 len=100 ipid=7" in found.text and found.text.count("rule: lan") == 2
    assert_passes(found.text)


def test_the_ttl_is_said_when_a_rule_asks_for_it() -> None:
    found = written([(f"udp {A}:1 > {B}:53 ttl=3 dscp=46", 0)])
    assert f"udp {A}:1 > {B}:53 ttl=3 dscp=46" in found.text and "verdict: reject, state: NEW, rule: near" in found.text
    assert_passes(found.text)


def test_the_recorders_notes_are_taken_over() -> None:
    data = Talk().build(parse(f"udp {A}:1 > {B}:53"))
    captured = [(Frame(T, 101, data, len(data)), Annotation(1, "lan0", "", 5, VERIFIED))]
    found = from_pcap.write_test(from_pcap.conversations(captured)[0], lambda: config.load("r", RULES), GIVEN)
    assert "    chain: input\n" in found.text and "mark=0x5'" in found.text
    assert_passes(found.text)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.one_of(segments(), segments(), others), st.sampled_from([0, 0, 1, 400])), min_size=1, max_size=12
    )
)
def test_whatever_was_captured_the_test_passes(steps: list[tuple[str, int]]) -> None:
    for number in range(len(from_pcap.conversations(frames(steps)))):
        assert_passes(written(steps, number).text)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(segments(), st.sampled_from([0, 0, 1, 400])), min_size=1, max_size=12))
def test_and_no_segment_is_judged_otherwise_than_as_it_was_captured(steps: list[tuple[str, int]]) -> None:
    assert written([*OPENED, *steps]).notes == []


@given(st.one_of(segments(), others))
def test_the_words_make_the_packet_again(text: str) -> None:
    data = Talk().build(parse(text))
    words = write(decode(data, len(data)), Talk(), Bases(False), True, True)
    assert Talk().build(parse(words)) == data


@given(st.binary(max_size=40))
def test_any_payload_can_be_said(data: bytes) -> None:
    assert parse(f'udp {A}:1 > {B}:2 payload="{escaped(data)}"').payload == data


# --- the command --------------------------------------------------------------------------------


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "traffic.pcapng"
    recording, blocks = RecordFile(str(path)), Blocks()
    for frame, _ in frames([*OPENED, (f"udp {A}:1 > {B}:53", 0)]):
        time = frame.time or 0
        recording.write(blocks.packet(frame.data, frame.length, time, FORWARD, "lan0", "wan0", 0, VERIFIED))
    recording.close(0)
    return path


def test_one_is_chosen_by_its_number_or_a_word(
    capture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    assert cli.main(["test", "--from-pcap", str(capture), "--rules", str(rules)]) == 1
    said = capsys.readouterr()
    assert said.out == "" and f"     2       1 packets  udp {A}:1 > {B}:53" in said.err
    assert "2 conversations: choose one with --conn or --filter" in said.err
    for options in (["--conn", "1"], ["--filter", ":443"]):
        assert cli.main(["test", "--from-pcap", str(capture), "--rules", str(rules), *options]) == 0
        out = capsys.readouterr().out
        assert_passes(out)
        (tmp_path / "with.yaml").write_text(RULES + out)
        assert cli.main(["test", str(tmp_path / "with.yaml")]) == 0
        capsys.readouterr()
    assert cli.main(["test", "--from-pcap", str(capture), "--rules", str(rules), "--conn", "9"]) == 1
    assert cli.main(["test", "--from-pcap", str(rules), "--rules", str(rules)]) == 1
    assert cli.main(["test", "--from-pcap", str(tmp_path / "none"), "--rules", str(rules)]) == 1
    assert "not a pcap or pcapng file" in capsys.readouterr().err
