"""`ctfw set` and `ctfw reload --existing` against a real daemon, and what of the sets outlives it."""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import OPEN, Datagrams, Running

from ctfw import config
from ctfw.service.members import MOST_TTL, texts
from ctfw.service.members_file import INTERVAL, MEMBER_BYTES, NAME, SetsKeeper, read_members, write_members
from lab.net import CLIENT, Network

SECOND = 1_000_000_000
RULES = """
version: 1
policy: {input: accept, forward: drop, output: accept}
sets: {banned: {members: [], dynamic: true, ttl: 1h}}
rules:
  - {name: banned, src: $banned, verdict: drop}
  - {name: replies, state: [ESTABLISHED, RELATED], verdict: accept}
  - {name: open, chain: forward, proto: udp, dport: 5353, state: NEW, verdict: accept}
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


@pytest.mark.kernel
def test_a_ban_holds_at_once_ends_by_hand_and_outlives_reload_and_restart(net: Network, tmp_path: Path) -> None:
    state = ("--state", str(tmp_path))
    with Running(net, tmp_path, *state, rules=RULES) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        daemon.ctfw("set", "add", "banned", CLIENT, "2001:db8:bad::/48", "--ttl", "10m")
        assert not good.arrives()
        daemon.ctfw("reload")
        assert not good.arrives()
        lines = dict(line.split()[1:] for line in daemon.ctfw("set", "list", "banned").stdout.splitlines())
        assert lines.keys() == {CLIENT, "2001:db8:bad::/48"}
        assert 590 < int(lines[CLIENT]) <= 600
        assert re.search(rf"^ctfw: set_add by uid=\d+ pid=\d+: .*{CLIENT}", daemon.log(), re.MULTILINE)
        daemon.stop()
        assert json.loads((tmp_path / NAME).read_text())["version"] == 1
    (tmp_path / "notify").unlink()
    with Running(net, tmp_path, *state, rules=RULES) as daemon, Datagrams(net, OPEN) as good:
        assert not good.arrives()
        daemon.ctfw("set", "del", "banned", CLIENT)
        assert good.arrives()
        daemon.ctfw("set", "del", "banned", CLIENT, code=1)
        assert "no dynamic set is named" in daemon.ctfw("set", "add", "nothing", CLIENT, code=1).stderr
        assert "is not an address" in daemon.ctfw("set", "add", "banned", "x", code=1).stderr
        (left,) = (json.loads(line) for line in daemon.ctfw("set", "list", "-o", "jsonl").stdout.splitlines())
        assert left["member"] == "2001:db8:bad::/48"


@pytest.mark.kernel
def test_what_becomes_of_open_connections_is_said_at_each_reload(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path, rules=RULES) as daemon, Datagrams(net, OPEN) as good:
        assert good.answered()
        daemon.rules.write_text(RULES.replace("dport: 5353", "dport: 5354"))
        daemon.ctfw("reload", "--existing", "keep")
        assert good.answered()
        daemon.ctfw("reload", "--existing", "recheck")
        assert not good.arrives()


def _ruleset(name: str = "banned") -> config.Config:
    return config.load("rules.yaml", RULES.replace("banned", name))


def test_the_file_gives_back_what_is_left(tmp_path: Path) -> None:
    before, after = _ruleset().ruleset, _ruleset().ruleset
    assert before.sets["banned"].add(bytes([192, 0, 2, 1]), 32, 100 * SECOND, 5 * SECOND)
    write_members(str(tmp_path), before, 5 * SECOND, 1000 * SECOND)
    assert read_members(str(tmp_path), after, 7 * SECOND, 1040 * SECOND) == []
    assert after.sets["banned"].members(7 * SECOND) == [(bytes([192, 0, 2, 1]), 32, 60 * SECOND)]
    late = _ruleset().ruleset
    read_members(str(tmp_path), late, 7 * SECOND, 1101 * SECOND)
    assert late.sets["banned"].members(7 * SECOND) == []


def test_a_large_set_is_written_while_packets_come_without_making_them_wait(tmp_path: Path) -> None:
    """In slices of a tick, the writing itself elsewhere: the disk may take as long as it likes."""
    ruleset, after = _ruleset().ruleset, _ruleset().ruleset
    now = time.monotonic_ns()
    for number in range(20_000):
        assert ruleset.sets["banned"].add(bytes([198, 18, number >> 8, number & 255]), 32, 0, now)
    complaints: list[str] = []
    keeper = SetsKeeper(str(tmp_path), complaints.append)
    keeper.tick(ruleset, now)
    assert not (tmp_path / NAME).exists()  # not yet due
    os.mkfifo(tmp_path / f"{NAME}.new")  # a disk that does not answer, until somebody reads
    ticks = 0
    while keeper._writer is None:
        keeper.tick(ruleset, now + INTERVAL + SECOND)
        ticks += 1
    assert ticks > 5
    keeper.tick(ruleset, now + 3 * INTERVAL)  # while it waits for the disk, no second one begins
    written = (tmp_path / f"{NAME}.new").read_text()
    assert len(json.loads(written)["sets"]["banned"]) == 20_000
    keeper.close(ruleset)
    assert len(complaints) == 1  # a pipe cannot be synchronised
    keeper.close(ruleset)
    assert read_members(str(tmp_path), after, now, time.time_ns()) == []
    assert len(after.sets["banned"].members(now)) == 20_000


@pytest.mark.parametrize(("most", "is_read"), [(65536, False), (1_000_000, True)])
def test_what_full_sets_make_of_the_file_is_read_again_and_no_more(tmp_path: Path, most: int, is_read: bool) -> None:
    text = RULES.replace("banned: {", f"more: {{dynamic: on, max: {most}}}, banned: {{max: {most}, ", 1)
    ruleset = config.load("rules.yaml", text).ruleset
    blank = " " * (66 << 20)
    (tmp_path / NAME).write_text(f'{{"version": 1, "time": 0, "sets": {{"banned": [["192.0.2.1", -1]]}}{blank}}}')
    complaints = read_members(str(tmp_path), ruleset, 0, 0)
    assert [len(ruleset.sets["banned"]), len(complaints)] == ([1, 0] if is_read else [0, 2])


def test_no_member_takes_more_of_the_file_than_is_reckoned() -> None:
    ruleset = _ruleset().ruleset
    for number in range(0x8000, 0x8100, 2):
        assert ruleset.sets["banned"].add(bytes([0xFF] * 14) + number.to_bytes(2, "big"), 127, MOST_TTL, 0)
    assert len("".join(texts(ruleset, 0, time.time_ns()))) < 128 * MEMBER_BYTES


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"time": 1, "sets": 3}', b"\xff\xfe", b"[" * 100_000])
def test_a_broken_file_is_said_and_stops_nothing(tmp_path: Path, text: bytes) -> None:
    (tmp_path / NAME).write_bytes(text)
    complaint, kept = read_members(str(tmp_path), _ruleset().ruleset, 0, 0)
    assert complaint.startswith(str(tmp_path / NAME))
    assert kept == f"{tmp_path / NAME}.unread: kept there"
    assert (tmp_path / f"{NAME}.unread").read_bytes() == text


def test_a_missing_file_is_no_sets_and_one_of_other_sets_is_said(tmp_path: Path) -> None:
    assert read_members(str(tmp_path), _ruleset().ruleset, 0, 0) == []
    write_members(str(tmp_path), _ruleset("others").ruleset, 0, 0)
    complaint, _ = read_members(str(tmp_path), _ruleset().ruleset, 0, 0)
    assert "set others: is not a dynamic set now" in complaint
