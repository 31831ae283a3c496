"""The flight recorder in a running daemon: what it keeps, how it leaves, and what `reload --dry-run` makes of it."""

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.running import OPEN, RULES, SHUT, Datagrams, Running, command, wait_until

from ctfw.service.flight import MARK
from ctfw.tools.capture import Frame, read
from lab.net import CLIENT, SERVER, Network

pytestmark = pytest.mark.kernel

RECORDED = RULES + "recorder: {minutes: 5, memory: 1 MiB, headers: 64 bytes}\n"
WEB = "  - {name: web, chain: forward, in: lan0, out: wan0, proto: tcp, dport: 8080, state: NEW, verdict: accept}\n"
WITH_WEB = RULES + WEB + "recorder: {}\n"


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


class Web:
    """A TCP connection from the client to the server, held open."""

    def __init__(self, net: Network, port: int = 8080) -> None:
        with net.server:
            self.listener = socket.create_server((SERVER, port))
        with net.client:
            self.client = socket.create_connection((SERVER, port), timeout=5)
        self.server = self.listener.accept()[0]

    def talk(self, times: int = 1) -> None:
        for _ in range(times):
            self.client.send(b"ping")
            assert self.server.recv(9) == b"ping"
            self.server.send(b"pong")
            assert self.client.recv(9) == b"pong"

    def close(self) -> None:
        for end in (self.client, self.server, self.listener):
            end.close()

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def saved(daemon: Running, path: Path) -> list[Frame]:
    said = daemon.ctfw("flight", "save", str(path)).stdout
    with open(path, "rb") as file:
        frames = list(read(file))
    assert said == f"saved: file={path} packets={len(frames)}\n"
    return frames


def notes(frames: list[Frame], of: str) -> list[str]:
    """The second comments of the frames that hold these bytes in their first comment."""
    return [frame.comments[1] for frame in frames if of in frame.comments[0]]


def dry_run(daemon: Running, *arguments: str, code: int) -> list[dict[str, Any]]:
    done = daemon.ctfw("reload", "--dry-run", "-o", "jsonl", *arguments, code=code)
    return [json.loads(line) for line in done.stdout.splitlines()]


def forwarded(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the machines' own neighbour discovery."""
    return [line for line in lines if CLIENT in line["packet"]]


def test_it_is_off_unless_the_file_says_so(net: Network, tmp_path: Path) -> None:
    file = tmp_path / "flight.pcapng"
    with Running(net, tmp_path) as daemon:
        said = daemon.ctfw("flight", "save", str(file), code=1).stderr
        assert said.startswith("ctfw: the flight recorder is off; add 'recorder: {minutes: 10}'")
        assert not file.exists()
        assert "recorder:" not in daemon.ctfw("status").stdout
        daemon.rules.write_text(RECORDED)
        daemon.ctfw("reload")
        assert re.search(
            r"^recorder:    seconds=\d+ packets=\d+ used=0.0 of 1 MiB$", daemon.ctfw("status").stdout, re.M
        )
        with Datagrams(net, OPEN) as good:
            assert good.answered()
        assert len(notes(saved(daemon, file), "in=lan0")) == 1
        daemon.rules.write_text(RULES)
        daemon.ctfw("reload")
        daemon.ctfw("flight", "save", str(file), code=1)


def test_what_it_keeps_is_the_beginning_and_end_of_connections_and_what_was_dropped(
    net: Network, tmp_path: Path
) -> None:
    rules = WITH_WEB.replace("{}", "{headers: 64 bytes}")
    with Running(net, tmp_path, rules=rules) as daemon, Datagrams(net, SHUT) as bad:
        with Web(net) as web:
            web.talk(20)
        assert not bad.arrives()
        frames = saved(daemon, tmp_path / "flight.pcapng")
        flags = [frame.data[33] for frame in frames if frame.data[0] == 0x45 and frame.data[9] == 6]
        assert flags[:3] == [0x02, 0x12, 0x10]
        assert [flag & 1 for flag in flags].count(1) == 2  # both FINs
        assert len(flags) <= 8  # and not the 80 packets between
        assert {len(frame.data) for frame in frames} <= set(range(20, 65))
        web_notes = notes(frames, "chain=forward in=lan0 out=wan0 mark=0x0")
        assert web_notes[0] == f"{MARK} verdict=accept state=NEW rule=web generation=0"
        assert web_notes[-1] == f"{MARK} verdict=drop state=NEW rule=policy%20forward generation=0"
        assert "ESTABLISHED rule=replies" in notes(frames, "in=wan0 out=lan0")[0]


def test_what_is_saved_can_be_replayed(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WITH_WEB) as daemon:
        with Web(net) as web:
            for _ in range(256):
                web.client.sendall(bytes(1 << 14))
                left = 1 << 14
                while left:
                    left -= len(web.server.recv(left))
        file = str(tmp_path / "flight.pcapng")
        saved(daemon, Path(file))
        lines = [json.loads(line) for line in replay(file, daemon, "-o", "jsonl").splitlines()]
        # The FIN lies four mebibytes behind the last packet that was kept.
        web_lines = [line for line in lines if ":8080" in line["packet"]]
        assert {line["verdict"] for line in web_lines} == {"accept"}, web_lines
        assert [line["rule"] for line in web_lines].count("web") == 1


def replay(file: str, daemon: Running, *arguments: str) -> str:
    done = command("replay", file, "--rules", str(daemon.rules), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dry_run_names_what_would_be_judged_otherwise_and_changes_nothing(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WITH_WEB) as daemon, Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        assert good.answered()
        assert not bad.arrives()
        assert dry_run(daemon, code=0) == []
        other = tmp_path / "other.yaml"
        other.write_text(WITH_WEB.replace("dport: 5353", f"dport: {SHUT}"))
        lines = forwarded(dry_run(daemon, "--rules", str(other), code=1))
        port = good.client.getsockname()[1]
        (staying,) = [line for line in lines if line["kind"] == "living"]
        assert (staying["packet"], staying["cut"]) == (f"udp {CLIENT}:{port} > {SERVER}:{OPEN}", False)
        assert staying["interfaces"] == "recorded"
        lost, won = sorted((line for line in lines if "old" in line), key=lambda line: str(line["old"]["verdict"]))
        assert lost["kind"] == "recorded"
        assert lost["packet"] == f"udp {CLIENT}:{port} > {SERVER}:{OPEN} len=6"
        assert lost["old"] == {"verdict": "accept", "rule": "open", "origin": None, "reason": None}
        assert lost["new"] == {"verdict": "drop", "rule": "policy forward", "origin": None, "reason": None}
        assert (lost["packets"], lost["bytes"]) == (2, 68)  # the answer would not have been either
        assert (won["old"]["verdict"], won["new"]["verdict"], won["new"]["rule"]) == ("drop", "accept", "open")
        assert won["new"]["origin"] == f"{other}:7"
        assert dry_run(daemon, code=0) == []
        assert json.loads(daemon.ctfw("status", "-o", "json").stdout)["rules"]["generation"] == 0
        assert good.answered()


GOLDEN = """\
accept -> drop: 1 connection, N packets, N bytes
  was: web
  now: policy forward
  N  TIME  tcp 192.168.1.2:PORT > 203.0.113.2:8080 syn seq=N win=N len=0  (N packets, N bytes)

living connections that would be cut:
  tcp 192.168.1.2:PORT > 203.0.113.2:8080  ESTABLISHED  drop  policy forward

recorder     N packets of the last N seconds, N with another verdict, N bytes
connections  1 with another verdict
living       N, 1 would be cut (existing: recheck)
"""


def test_a_dry_run_in_words(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=WITH_WEB) as daemon, Web(net) as web:
        web.talk()
        daemon.rules.write_text(WITH_WEB.replace("dport: 8080", "dport: 8081") + "existing: recheck\n")
        text = daemon.ctfw("reload", "--dry-run", code=1).stdout
        text = re.sub(r"seconds?\b", "seconds", re.sub(r"192.168.1.2:\d+", "192.168.1.2:PORT", text))
        text = re.sub(r" +\d+  \d{4}-\S+Z", "  N  TIME", text)
        text = re.sub(r"\b(seq|win)=\d+", r"\1=N", text)
        text = re.sub(r"\d+ (packets|bytes|seconds|with another verdict, N)", r"N \1", text)
        text = re.sub(r"\d+ with another verdict, ", "N with another verdict, ", text)
        text = re.sub(r"living       \d+", "living       N", text)
        assert text == GOLDEN
        daemon.ctfw("reload")
        web.client.send(b"x")
        wait_until(lambda: daemon.stats()["packets"]["forward"]["drop"])  # and so it came


@pytest.mark.parametrize(("existing", "cut"), [("keep", False), ("recheck", True), ("kill", True)])
def test_a_living_connection_is_cut_as_the_file_wants_it(
    net: Network, tmp_path: Path, existing: str, cut: bool
) -> None:
    """Without a recorder: the interfaces come from the routing table."""
    rules = RULES + WEB
    with Running(net, tmp_path, rules=rules) as daemon, Web(net) as web:
        web.talk()
        shut = rules.replace("dport: 8080", "dport: 8081") + f"existing: {existing}\n"
        daemon.rules.write_text(shut)
        (line,) = [line for line in dry_run(daemon, code=int(cut)) if ":8080" in line["packet"]]
        assert line["kind"] == "living"
        assert (line["cut"], line["state"], line["interfaces"]) == (cut, "ESTABLISHED", "routed")
        assert line["new"]["rule"] == "policy forward"
        daemon.rules.write_text(rules.replace("in: lan0, out: wan0", "in: wan0, out: lan0") + f"existing: {existing}\n")
        assert bool([line for line in dry_run(daemon, code=int(cut)) if ":8080" in line["packet"]])
        daemon.rules.write_text(rules + f"existing: {existing}\n")
        assert forwarded(dry_run(daemon, code=0)) == []


def test_members_of_dynamic_sets_count_in_a_dry_run(net: Network, tmp_path: Path) -> None:
    banned = RULES.replace(
        "rules:\n",
        "sets: {banned: {dynamic: on}}\n"
        "rules:\n"
        "  - {name: ban, proto: udp, dport: 666, verdict: continue, add: {set: banned}}\n"
        "  - {name: out, chain: forward, src: $banned, state: NEW, verdict: VERDICT}\n",
    )
    rules = banned.replace("VERDICT", "continue")
    with Running(net, tmp_path, rules=rules) as daemon, Datagrams(net, OPEN) as good, Datagrams(net, SHUT) as bad:
        assert not bad.arrives()
        daemon.rules.write_text(rules + "recorder: {}\n")  # what banned him is not recorded: only the set knows
        daemon.ctfw("reload")
        assert good.answered()
        daemon.rules.write_text(banned.replace("VERDICT", "drop") + "recorder: {}\n")
        lines = [line for line in dry_run(daemon, code=1) if f":{OPEN}" in line["packet"]]
        assert [line["new"]["rule"] for line in lines if line["kind"] == "recorded"] == ["out"]


def test_a_dry_run_of_a_broken_file_shows_its_mistakes(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon:
        daemon.rules.write_text(RULES.replace("verdict: drop", "verdict: dorp"))
        done = daemon.ctfw("reload", "--dry-run", code=1)
        assert "dorp" in done.stderr
        assert done.stdout == ""
        done = daemon.ctfw("reload", "--rules", "x", code=2)
        assert done.stderr == "ctfw: reload: the daemon reads its own file again; --rules is for --dry-run\n"
