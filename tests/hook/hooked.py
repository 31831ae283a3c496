"""The hook on the gateway of a Network: its back ends, what they can be told, and what the kernel then has."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from daemon.running import RULES, Running

from ctfw import config
from ctfw.service.hook import install
from ctfw.service.hook.iptables import Iptables
from ctfw.service.hook.nft import Nft
from ctfw.service.hook.plan import Plan, make_plan
from ctfw.service.hook.programs import find
from lab.net import ENVIRONMENT, Namespace, Network

COMMAND: Final = (sys.executable, "-P", "-m", "ctfw", "hook")
IPTABLES: Final = ("iptables-nft", "iptables-legacy")
BACKENDS: Final = ("nft", *IPTABLES)

# What nft and iptables-save print of a table without any rule.
NOTHING: Final = re.compile(r"^table ip6? (security|mangle|raw) \{\n\}\n", re.MULTILINE)
EMPTY: Final = re.compile(r"^[*]\w+\n(?::\w+ ACCEPT \[0:0\]\n)*COMMIT\n", re.MULTILINE)

needs_nft = pytest.mark.skipif(not find("nft"), reason="nft is not installed")
needs_both_iptables = pytest.mark.skipif(
    not all(find(program) for program in IPTABLES), reason="only one kind of iptables is installed"
)


def backend(name: str) -> install.Backend:
    """A back end that this kernel can load: where nft has no queue, what it would queue is dropped instead."""
    if name == "nft":
        return Nft() if not Nft().why_not(Plan()) else Nft(lambda plan: "accept" if plan.bypass else "drop")
    return Iptables(name.removeprefix("iptables"))


def plan(text: str = RULES) -> Plan:
    return make_plan(config.load("rules.yaml", text))


def everything(gateway: Namespace) -> str:
    """All rules of all kinds that the kernel has; not the tables of iptables-nft in which there is nothing at all."""
    kinds = ("iptables-legacy-save", "ip6tables-legacy-save", "iptables-nft-save", "ip6tables-nft-save")
    texts = [gateway.run(program) for program in kinds]
    lines = [line for text in texts for line in text.splitlines() if not line.startswith("#")]
    ruleset = re.sub(NOTHING, "", gateway.run("nft", "-s", "list", "ruleset"))
    return re.sub(EMPTY, "", "\n".join([*lines, ruleset]))


def command(gateway: Namespace, *arguments: str, code: int = 0, **variables: str) -> "subprocess.CompletedProcess[str]":
    """`ctfw hook …` inside."""
    done = subprocess.run(
        ["nsenter", f"--net={gateway.path}", *COMMAND, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | ENVIRONMENT | variables,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done


@contextmanager
def hooked(net: Network, name: str, text: str = RULES) -> Iterator[Plan]:
    """The hook of this back end in force on the gateway, for as long as the `with` lasts."""
    with net.gateway:
        wanted = plan(text)
        install.apply(backend(name), wanted)
    try:
        yield wanted
    finally:
        with net.gateway:
            install.remove()


@contextmanager
def judged(net: Network, directory: Path, name: str, text: str = RULES) -> Iterator[Running]:
    """The hook, and ctfw behind it."""
    with hooked(net, name, text), Running(net, directory, rules=text) as daemon:
        yield daemon
