"""`ctfw explain` as it is typed: words, captures, a running engine behind a control socket, and mistakes."""

import json
import selectors
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tools.gateway import Gateway, established, picture
from tools.spoken import CLIENT, SERVER, A, B

from ctfw import cli
from ctfw.config.packet_words import parse
from ctfw.nfqueue import VERIFIED
from ctfw.packet import FORWARD
from ctfw.ruleset.rule import Rule
from ctfw.ruleset.ruleset import Ruleset
from ctfw.service.control import Control
from ctfw.service.pages import PAGE
from ctfw.service.peers import Peer
from ctfw.service.record import Blocks
from ctfw.service.record_file import RecordFile
from ctfw.service.session import Refused, Session
from ctfw.tools import explain_live
from ctfw.tools.build_packet import Talk

ROOT = Peer(1, 0, frozenset({0}))
T = 1_700_000_000_000_000_000
RULES = """version: 1
policy: {input: drop, forward: drop, output: accept}
rules:
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: web, chain: forward, in: lan0, proto: tcp, dport: 443, state: NEW, verdict: accept}
  - {name: home, chain: input, in: lan0, proto: udp, dport: 53, mac: 02:00:00:00:00:01, verdict: accept}
"""


@pytest.fixture
def rules(tmp_path: Path) -> str:
    path = tmp_path / "rules.yaml"
    path.write_text(RULES)
    return str(path)


def lines(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> list[str]:
    assert cli.main(["explain", *arguments]) == code
    said = capsys.readouterr()
    return (said.err if code else said.out).splitlines()


def test_in_words(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys, f"{CLIENT} syn", "--in", "lan0", "--rules", rules)
    assert f"verdict      accept by 'web' ({rules}:5)" in found
    found = lines(capsys, f"{CLIENT} syn", "--rules", rules)
    assert "rule         'web' differs in in: the packet has no interface" in found
    assert "verdict      drop by 'policy forward'" in found


def test_the_other_options(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--chain", "input", "--in", "lan0", "--out", "wan0", "--rules", rules]
    text = f"udp {A}:1 > 192.168.1.1:53 mark=7"
    assert "where        chain=input in=lan0 out=- mark=0x7 length=28" in lines(capsys, text, *options)
    found = lines(capsys, text, *options, "--mac", "02:00:00:00:00:02")
    assert "rule         'home' differs in mac: the packet has 02:00:00:00:00:02" in found
    assert "matches: accept" in lines(capsys, text, *options, "--mac", "02:00:00:00:00:01")[-3]


def test_after_other_packets(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = ["--after", f"{CLIENT} syn", "--in", "wan0", "--out", "lan0", "--rules", rules]
    found = lines(capsys, f"{SERVER} syn ack", *before)
    assert "state        ESTABLISHED REPLY" in found
    assert found[2].startswith("connection   tcp      6 120 SYN_SENT src=192.168.1.7")
    found = lines(capsys, f"{SERVER} syn ack", *before, "--after", "wait 2m")
    assert "reason       tcp-new: no connection, and this segment cannot open one" in found


def test_as_json(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads("\n".join(lines(capsys, f"{CLIENT} syn fin", "--rules", rules, "-o", "json")))
    assert told["state"]["reason"] == "tcp-flags"
    assert told["state"]["arithmetic"]["facts"] == {"the segment": {"flags": "fin,syn"}}
    assert [rule["missed"] for rule in told["rules"]] == ["state", "state", "chain", None]
    assert told["verdict"]["verdict"] == "drop"


def test_a_frame_of_a_capture(rules: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "traffic.pcapng"
    recording, blocks, talk = RecordFile(str(path)), Blocks(), Talk()
    for number, text in enumerate((f"{CLIENT} syn", f"{SERVER} syn ack", f"{CLIENT} ack", f"{CLIENT} ack ack=70000")):
        data = talk.build(parse(text))
        talk.arrived()
        way = ("wan0", "lan0") if text.startswith(SERVER) else ("lan0", "wan0")
        recording.write(blocks.packet(data, len(data), T + number, FORWARD, *way, 0, VERIFIED))
    recording.close(T)
    options = ["--rules", rules, "--pcap", str(path), "--frame"]
    assert "state        NEW ORIGINAL" in lines(capsys, *options, "1")
    assert "state        ESTABLISHED REPLY" in lines(capsys, *options, "2")
    assert "             FAILS  ack <= the receiver's end: 70000 <= 1" in lines(capsys, *options, "4")
    assert lines(capsys, *options, "5", code=1) == [f"ctfw: explain: {path}: has no frame 5"]
    options[3] = rules
    assert "not a pcap or pcapng file" in lines(capsys, *options, "1", code=1)[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a packet in words, or --pcap and --frame"),
        ([f"{CLIENT} syn", "--frame", "1"], "--pcap and --frame go together"),
        ([f"{CLIENT} syn", "--live", "--after", "wait 5s"], "--live asks the daemon as it is"),
        ([f"{CLIENT} syn", "--mac", "02:00"], "'02:00' is not a MAC address"),
        (["--pcap", "x", "--frame", "0"], "frames count from 1"),
    ],
)
def test_what_does_not_go_together(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in lines(capsys, *arguments, code=2)[0]


def test_mistakes_are_shown_with_a_caret(rules: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, f"{CLIENT} sny", "--rules", rules, code=1) == [
        "PACKET:1:41: error: unknown word 'sny'",
        f"    {CLIENT} sny",
        f"    {' ' * 40}^",
        "    hint: did you mean 'syn'?",
    ]
    assert lines(capsys, f"{CLIENT} syn", "--after", "wait long", code=1)[0].startswith("--after 1:1:6: error: 'long'")
    assert "cannot be read" in lines(capsys, f"{CLIENT} syn", "--rules", rules + "x", code=1)[0]


# --- the running engine -------------------------------------------------------------------------


class Served:
    """A control socket with `explain` of an engine, turned in a thread."""

    def __init__(self, path: str, gateway: Gateway) -> None:
        self.selector = selectors.DefaultSelector()
        self.control = Control(path, self.selector, {"explain": explain_live.method(gateway.engine)}, lambda *_: None)
        self.stopped = False
        self.thread = threading.Thread(target=self._serve)
        self.thread.start()

    def _serve(self) -> None:
        while not self.stopped:
            for key, mask in self.selector.select(0.01):
                key.data(mask)
            self.control.step()

    def stop(self) -> None:
        self.stopped = True
        self.thread.join()
        self.control.close()
        self.selector.close()


@pytest.fixture
def live(tmp_path: Path) -> Iterator[tuple[str, Gateway]]:
    gateway = established()
    for number in range(256):
        for conn in gateway.engine.tracker.table.shard(number):
            conn.expires = 1 << 62  # the daemon's clock is the machine's
    path = str(tmp_path / "control.sock")
    served = Served(path, gateway)
    yield path, gateway
    served.stop()


def test_the_running_engine_is_asked_and_not_changed(
    live: tuple[str, Gateway], capsys: pytest.CaptureFixture[str]
) -> None:
    path, gateway = live
    before = picture({"tracker": gateway.engine.tracker, "rules": gateway.engine.ruleset.every}, {})
    found = lines(capsys, f"{SERVER} ack ack=70000", "--live", "--socket", path, "--in", "wan0")
    assert "reason       tcp-ack-over: acknowledges data that was never sent" in found
    found = lines(capsys, f"{SERVER} ack len=10 seq=1 ack=1", "--live", "--socket", path, "--in", "wan0")
    assert "verdict      accept by 'replies' (f:3)" in found
    assert "packets=3 bytes=130" not in found[-1] and "packets=2 bytes=90" in found[-1]
    assert picture({"tracker": gateway.engine.tracker, "rules": gateway.engine.ruleset.every}, {}) == before


def test_a_long_list_of_rules_comes_in_pages(live: tuple[str, Gateway], capsys: pytest.CaptureFixture[str]) -> None:
    path, gateway = live
    gateway.engine.ruleset = Ruleset([Rule(f"rule {n}", "", 0, 1, 31) for n in range(2000)], {})
    found = lines(capsys, f"udp {A}:1 > {B}:53", "--live", "--socket", path)
    assert sum(line.startswith("rule ") for line in found) == 2001  # and the policy
    assert "verdict      drop by 'policy forward'" in found


def test_no_page_is_longer_than_it_may_be() -> None:
    gateway = Gateway(Ruleset([Rule(f"rule {n}", "", 0, 1, 31) for n in range(250)], {}))
    ask, session = explain_live.method(gateway.engine), Session(ROOT)
    data = Talk().build(parse(f"udp {A}:1 > {B}:53"))
    sizes = [len(ask({"packet": data.hex()}, session)["entries"])]
    while (answer := ask({"next": True}, session))["more"]:
        sizes.append(len(answer["entries"]))
    assert max(sizes) <= PAGE and sum(sizes) == 256
    with pytest.raises(Refused):
        ask({"next": True}, session)


def test_nobody_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines(capsys, f"{CLIENT} syn", "--live", "--socket", str(tmp_path / "none"), code=3)


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"packet": "zz"},
        {"packet": 5},
        *({"packet": "00", **one} for one in ({"chain": "x"}, {"mark": -1}, {"in": 1})),
    ],
)
def test_a_wrong_question_is_refused(params: dict[str, object]) -> None:
    with pytest.raises(Refused):
        explain_live.method(Gateway().engine)(params, Session(ROOT))
