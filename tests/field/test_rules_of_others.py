"""FIELD: "other software changes the rules". Docker starts anew and ufw reloads, as their iptables-restore does it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon.running import RULES
from hook.hooked import command, everything

from lab.net import Namespace

pytestmark = pytest.mark.kernel

# Loaded without --noflush, a table loses what stood there before, whoever made it.
OTHERS = """\
*filter
:DOCKER - [0:0]
-A FORWARD -o docker0 -j DOCKER
-A DOCKER -d 172.17.0.2/32 ! -i docker0 -o docker0 -p tcp -m tcp --dport 80 -j ACCEPT
COMMIT
*security
-A INPUT -s 198.51.100.66/32 -j DROP
COMMIT
*mangle
COMMIT
"""


@pytest.fixture
def gateway() -> Iterator[Namespace]:
    namespace = Namespace()
    yield namespace
    namespace.close()


def test_other_software_changes_the_rules(gateway: Namespace, tmp_path: Path) -> None:
    rules, kept = tmp_path / "rules.yaml", f"--memory={tmp_path / 'kept'}"
    rules.write_text(RULES)
    options = ("--backend=iptables", f"--rules={rules}")
    command(gateway, "apply", kept, *options)
    gateway.run("iptables-restore", input=OTHERS)
    assert "differs" in command(gateway, "status", *options, code=1).stdout

    assert "put back" in command(gateway, "heal", kept).stderr
    assert "complete" in command(gateway, "status", *options).stdout
    command(gateway, "remove", kept)
    left = everything(gateway)
    assert "ctfw" not in left.lower()
    for line in OTHERS.splitlines():
        assert not line.startswith("-A") or line in left
