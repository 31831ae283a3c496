"""The documentation says what the program does: what can be compared with it is compared here.

Diagrams and tables of docs/state-machine.md are drawn from the code by docs/diagrams.py. A fenced block that is called
``record``, ``conntrack``, ``expect`` or ``log`` and has a name behind that shows what ctfw prints about the
conversation of this name, which stands further down here. Shell blocks are held against the command's own parser, YAML
blocks against the reader of rule files, links against the files.
"""

import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from engine import packets
from engine.conversation import Gateway, Ping, Tcp, Udp

from ctfw import cli, config, reason
from ctfw.conntrack.record import conntrack_line, expect_line, proc_line
from ctfw.conntrack.settings import DEFAULTS, HELPERS, UNSUPPORTED, Settings
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.packet import FORWARD
from ctfw.service.packet_log import packet_text

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGE = DOCS / "state-machine.md"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.M | re.S)

HOME, SERVER = "192.168.1.7", "203.0.113.9"
HOME6, SERVER6 = "2001:db8:1::7", "2001:db8:2::9"


def name_of(page: Path) -> str:
    return page.name


def fenced(page: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a page: what stands behind the opening fence, and the text."""
    yield from re.findall(FENCE, page.read_text(encoding="utf-8"))


# --- what is generated --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def diagrams() -> ModuleType:
    spec = importlib.util.spec_from_file_location("diagrams", DOCS / "diagrams.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_blocks_are_up_to_date() -> None:
    command = [sys.executable, str(DOCS / "diagrams.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_a_stale_block_is_noticed_and_repaired(diagrams: ModuleType) -> None:
    page = PAGE.read_text(encoding="utf-8")
    stale = page.replace("432000 s (5 days)", "432000 s (6 days)")
    assert stale != page
    assert diagrams.rewrite(stale, diagrams.BLOCKS) == diagrams.rewrite(page, diagrams.BLOCKS) != stale


def test_a_block_that_is_missing_unknown_or_there_twice_is_an_error(diagrams: ModuleType) -> None:
    page = "<!-- generated: one -->\n<!-- end -->\n"
    assert diagrams.rewrite(page, {"one": lambda: "1"}) == "<!-- generated: one -->\n\n1\n\n<!-- end -->\n"
    for wrong in ("", page.replace("one", "two"), page + page):
        with pytest.raises(LookupError):
            diagrams.rewrite(wrong, {"one": lambda: "1"})


def test_a_knob_without_words_is_an_error(diagrams: ModuleType) -> None:
    with pytest.raises(LookupError, match="tcp_timeout_unheard_of"):
        diagrams.words("tcp_timeout_unheard_of")


def test_a_diagram_shows_the_steps_that_lead_somewhere_else(diagrams: ModuleType) -> None:
    machine = diagrams.Machine(
        transitions=((("open", "UP UP"), ("shut_down", "IV NO")), (("open", "IV IG"), ("shut_down", "IV NO"))),
        states=("NONE", "RUNNING"),
        abbreviations=("NO", "UP", "IV", "IG"),
    )
    assert diagrams.diagram(diagrams.steps(machine), "LR").splitlines() == [
        "```mermaid",
        "stateDiagram-v2",
        "    direction LR",
        "    [*] --> RUNNING : → OPEN",
        "    RUNNING --> [*] : SHUT DOWN",
        "```",
    ]
    with pytest.raises(ValueError, match="open in RUNNING is IG"):
        list(diagrams.walk(machine, ["> open, < open"]))


# --- what ctfw prints ---------------------------------------------------------------------------


def tcp_syn() -> Gateway:
    talk = Tcp(client=HOME, server=SERVER, dport=443)
    talk.client("syn").is_new()
    return talk.gateway


def tcp_established() -> Gateway:
    return Tcp(client=HOME, server=SERVER, dport=443).opened().gateway


def udp_answered() -> Gateway:
    talk = Udp(client=HOME, server=SERVER)
    talk.client().is_new()
    talk.server().is_established()
    return talk.gateway


def udp_counted() -> Gateway:
    talk = Udp(Gateway(acct=1), HOME, SERVER)
    talk.client(bytes(33)).is_new()
    talk.server(bytes(101)).is_established()
    return talk.gateway


def icmp() -> Gateway:
    talk = Ping(client=HOME, server=SERVER)
    talk.client().is_new()
    talk.server().is_established()
    return talk.gateway


def icmpv6() -> Gateway:
    talk = Ping(client=HOME6, server=SERVER6)
    talk.client().is_new()
    talk.server().is_established()
    return talk.gateway


def generic() -> Gateway:
    esp, gateway = 50, Gateway()
    gateway.sees(packets.ip(HOME, SERVER, esp, bytes(32))).is_new()
    gateway.sees(packets.ip(SERVER, HOME, esp, bytes(32))).is_established()
    return gateway


def gre() -> Gateway:
    gateway = Gateway()
    for src, dst in ((HOME, SERVER), (SERVER, HOME), (HOME, SERVER)):
        gateway.sees(packets.ip(src, dst, packets.GRE, bytes([0, 0, 8, 0]) + bytes(20)))
    return gateway


def sctp_init() -> Gateway:
    gateway, init = (
        Gateway(),
        bytes.fromhex("9c40 0050 00000000 00000000  01000014 00000001 0000f000 000a 000a 00000001"),
    )
    gateway.sees(packets.ip(HOME, SERVER, 132, init), check=False).is_new()
    return gateway


def ftp_passive() -> Gateway:
    talk = Tcp(Gateway(helpers={"ftp": [21]}), HOME, SERVER, dport=21).opened()
    talk.server("psh ack", b"220 ready\r\n")
    talk.client("psh ack", b"PASV\r\n")
    talk.server("psh ack", b"227 Entering Passive Mode (203,0,113,9,200,34)\r\n").is_established()
    return talk.gateway


def log_line(packet: bytes) -> str:
    """The line about a packet that comes to the example's gateway from outside, in no connection."""
    example = config.load(str(ROOT / "rules.example.yaml"))
    engine = Engine(ConnTrack(Settings()), example.ruleset)
    judgement = engine.handle(packet, len(packet), FORWARD, "wan0", "lan0", 0, True, 0)
    assert judgement.log
    return f"ctfw: {packet_text(judgement, 'wan0', 'lan0', 0)}"


CONVERSATIONS: dict[str, Callable[[], Gateway]] = {
    made.__name__.replace("_", "-"): made
    for made in (
        tcp_syn,
        tcp_established,
        udp_answered,
        udp_counted,
        icmp,
        icmpv6,
        generic,
        gre,
        sctp_init,
        ftp_passive,
    )
}
LOGGED = {"tcp-new": packets.tcp(SERVER, HOME, 443, 40000, "fin ack", seq=1, ack=1)}


def printed(kind: str, name: str) -> str:
    """What ctfw prints of the conversation ``name``."""
    if kind == "log":
        return log_line(LOGGED[name])
    gateway = CONVERSATIONS[name]()
    if kind == "expect":
        lines = [expect_line(one, gateway.now) for one in gateway.tracker.expectations()]
    else:
        line = {"record": proc_line, "conntrack": conntrack_line}[kind]
        lines = [line(conn, gateway.now, gateway.tracker.settings.acct) for conn in gateway.conns]
    return "\n".join(lines)


SHOWN = [
    pytest.param(*info.split(), text.rstrip("\n"), id=f"{page.name}: {info}")
    for page in PAGES
    for info, text in fenced(page)
    if info.split()[:1] and info.split()[0] in ("record", "conntrack", "expect", "log")
]


@pytest.mark.parametrize(("kind", "name", "text"), SHOWN)
def test_example_lines_are_what_ctfw_prints(kind: str, name: str, text: str) -> None:
    assert text == printed(kind, name)


def test_there_are_example_lines() -> None:
    assert len(SHOWN) >= len(CONVERSATIONS)


def test_the_life_of_a_tcp_connection_is_as_drawn() -> None:
    (drawn,) = [text for info, text in fenced(PAGE) if info == "life"]
    talk, told = Tcp(), []
    for line in drawn.splitlines()[1:]:
        side = talk.client if "►" in line else talk.server
        word = re.sub("[─►◄ ]", "", line.split("│")[1])
        side({"SYN": "syn", "SYN+ACK": "syn ack", "FIN": "fin ack"}.get(word, "ack"), b"GET" if word == "data" else b"")
        time, _, rest = talk.entry.partition(" ")
        told.append((rest, time))
    shown = re.findall(r"│ +([\w \[\]]+?)  +(\d+ \w+)", drawn)
    assert [(state, f"{time} s".replace("432000 s", "5 days")) for state, time in told] == shown


# --- what is there has to stand there -------------------------------------------------------------


def explained(*heads: str) -> list[str]:
    """What stands in the first column of the page's tables that begin with these headings."""
    found = []
    lines = iter(PAGE.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith("| " + " | ".join(heads) + " |"):
            next(lines)
            for row in lines:
                if not row.startswith("| "):
                    break
                found.append(row.split(" | ")[0].strip("| `"))
    return found


def test_every_reason_is_explained_once() -> None:
    assert explained("reason", "what is wrong") == [name for name in reason.NAMES if name]


def test_advice_is_about_reasons_that_exist() -> None:
    advised = [name for cell in explained("reason", "first look at") for name in cell.split("`, `")]
    assert advised and set(advised) <= set(reason.NAMES)


def test_every_knob_is_explained_once() -> None:
    assert sorted(explained("knob", "default")) == sorted(DEFAULTS)


def test_every_helper_is_explained_once() -> None:
    assert explained("helper", "usual port") == [*HELPERS, *UNSUPPORTED]


# --- what readers click, type and copy ------------------------------------------------------------


def without_code(page: Path) -> str:
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    return re.sub(r"`[^`\n]*`", "`", text)


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*?) *$", text, re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f"{slug}-{found[slug]}"] = 0
    return set(found)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_internal_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target}: no such file"
        assert not anchor or anchor in anchors(file), f"{page.name}: {target}: {file.name} has no such heading"


def parse(command: str) -> object:
    """What the command's parser says at the end: an exit code, or None when it would run."""
    try:
        cli.parser().parse_args(shlex.split(command))
    except SystemExit as stop:
        return stop.code
    return None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_can_be_typed(page: Path) -> None:
    for info, text in fenced(page):
        if info == "sh":
            for command in re.findall(r"^(?:sudo )?(?:\S+/)?ctfw ([^|#\n]*)", text, re.M):
                assert parse(command) in (None, 0), f"{page.name}: ctfw {command}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_options_in_the_text_exist(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = re.sub(FENCE, "", page.read_text(encoding="utf-8"))
    for command in re.findall(r"`(?:sudo )?ctfw ([^`]*)`", text):
        words = command.split()
        name = "" if words[0].startswith("-") else words[0]
        assert parse(f"{name} --help") == 0, f"{page.name}: ctfw {command}"
        if words[1:] and words[1].isalpha():
            parse(f"{name} {words[1]} --help")  # where it has commands of its own, the help of that one too
        known = capsys.readouterr().out
        assert [word for word in words if word.startswith("-") and word not in known] == [], f"{page.name}: {command}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_rules_are_good(page: Path) -> None:
    ahead = "version: 1\npolicy: {input: drop, forward: drop, output: drop}\n"
    for info, text in fenced(page):
        if info == "yaml":
            assert config.load(page.name, text if "version:" in text else ahead + text).warnings == []


CITED = re.compile(r'docs/([a-z-]+\.md)(?:,\s+"([^"]+)")?')


def sources() -> Iterator[Path]:
    for folder in ("ctfw", "tests", "bench"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def test_what_the_code_cites_of_the_documentation_is_there() -> None:
    """``docs/PAGE.md``, or ``docs/PAGE.md, "Heading"``; also over the end of a line."""
    headings = {page.name: set(re.findall(r"^#+ (.*)$", page.read_text(), re.M)) for page in DOCS.glob("*.md")}
    cited = 0
    for path in sources():
        for page, heading in CITED.findall(path.read_text()):
            name = " ".join(heading.split())
            assert page in headings and (not name or name in headings[page]), f"{path}: docs/{page}, {name!r}"
            cited += bool(name)
    assert cited > 20
