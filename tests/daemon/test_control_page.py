"""docs/control.md says what the daemon does: its methods with their rights, its codes and limits, its examples."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import COMMAND, RULES, Running

from ctfw.service import control, peers, session
from ctfw.service.client import Client, ClientError
from ctfw.service.methods import READING
from lab.net import Network

pytestmark = pytest.mark.kernel

PAGE = (Path(__file__).parents[2] / "docs" / "control.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def fenced(kind: str) -> str:
    (text,) = re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.M | re.S)
    return str(text)


def test_the_page_has_every_method_with_its_right_and_no_other(net: Network, tmp_path: Path) -> None:
    told = dict(re.findall(r"^\| `(\w+)` \| (read|write) \| ", PAGE, re.M))
    with Running(net, tmp_path) as daemon, Client(daemon.control) as client, pytest.raises(ClientError) as error:
        client.call("no such thing")
    there_are = set(str(error.value).partition("there are ")[2].split(", "))
    assert set(told) == there_are
    assert {name for name, right in told.items() if right == peers.READ} == READING


def test_the_page_has_every_code() -> None:
    codes = {value for name, value in vars(session).items() if name.isupper() and isinstance(value, int) and value < 0}
    assert {int(code) for code in re.findall(r"^\| (-\d+) \|", PAGE, re.M)} == codes
    for limit in (f"{control.MAX_LINE} bytes", f"for {control.MAX_CLIENTS} clients and {control.RESERVED} more"):
        assert limit in PAGE
    assert f"a user has {control.SHARE} of" in PAGE


def test_the_conversation_is_held_as_it_stands_there(net: Network, tmp_path: Path) -> None:
    with Running(net, tmp_path) as daemon, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(daemon.control)
        answers = sock.makefile("rb")
        for line in fenced("conversation").splitlines():
            way, _, text = line.partition(" ")
            if way == "->":
                sock.sendall(text.encode() + b"\n")
                continue
            answer = json.dumps(json.loads(answers.readline()))
            wanted = ".*".join(re.escape(part) for part in text.split("..."))
            assert re.fullmatch(wanted, answer), answer


def test_the_program_in_python_runs(net: Network, tmp_path: Path) -> None:
    rules = RULES + "sets: {banned: {dynamic: true}}\n"
    rules = rules.replace("rules:\n", "rules:\n  - {name: banned, src: $banned, verdict: drop}\n")
    with Running(net, tmp_path, rules=rules) as daemon:
        environment = {**os.environ, "CTFW_SOCKET": daemon.control}
        program = [sys.executable, "-P", "-c", fenced("python")]
        done = subprocess.run(program, capture_output=True, text=True, timeout=30, env=environment)
        assert done.returncode == 0, done.stderr
        assert "['read', 'write']" in done.stdout and "connections" in done.stdout
        assert "192.0.2.7" in daemon.ctfw("set", "list", "banned").stdout


def test_groups_are_given_by_name_or_number(net: Network, tmp_path: Path) -> None:
    usual = peers.access_of([], [])
    assert usual == peers.Access() and usual.is_usual()
    given = peers.access_of(["root", "60001"], ["60002"])
    assert (given.readers, given.writers, given.is_usual()) == (frozenset({0, 60001}), frozenset({60002}), False)
    with Running(net, tmp_path, "--readers", "60001") as daemon:
        assert stat.S_IMODE(os.stat(daemon.control).st_mode) == 0o666
    done = subprocess.run([*COMMAND, "run", "--readers", "nosuchgroup"], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (2, "ctfw: run: no such group: nosuchgroup\n")
