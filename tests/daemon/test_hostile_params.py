"""Whatever the parameters of a request are, the answer is an answer or a refusal, and never an internal error."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from daemon.running import RULES, Running

from ctfw.service.client import Client, ClientError
from lab.net import Network

pytestmark = pytest.mark.kernel

NAMES = (
    "form", "only", "next", "kinds", "seconds", "session", "on", "existing", "confirm", "generation", "set", "member",
    "ttl", "tuple", "dry_run", "reset", "packet", "in", "out", "chain", "mark", "at",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 1 << 70, 1.5, float("inf"), float("nan"), "", "x", "\ud800\0", "1" * 5000, [], [[]], [{}], {},
    {"x": {}}, {"src": []}, {"sport": None}, {"proto": "1e9"}, {"mark": "/"},
    ["192.0.2.1", 1, "192.0.2.2", float("inf")],
)  # fmt: skip
# What a method needs beside the parameter that is not as it should be.
NEEDED: dict[str, dict[str, Any]] = {
    "explain": {"packet": "4500001c0001000040110000c0000201c0000202000100350008ffff"},
    "panic": {"on": True, "seconds": 1},
    "set_add": {"set": "bad", "member": "192.0.2.1"},
    "delete": {"only": {"proto": "udp"}},
}


@pytest.fixture(scope="module")
def net() -> Iterator[Network]:
    with Network() as made:
        made.queue()
        yield made


def test_no_parameter_is_an_internal_error(net: Network, tmp_path: Path) -> None:
    failed = []
    with (
        Running(net, tmp_path, rules=RULES + "sets: {bad: {dynamic: on}}\n") as daemon,
        Client(daemon.control) as client,
    ):
        with pytest.raises(ClientError) as refused:
            client.call("no such")
        methods = re.sub(".*there are ", "", str(refused.value)).split(", ")
        assert len(methods) > 20
        for method in methods:
            for name in NAMES:
                for value in VALUES:
                    try:
                        client.call(method, **{**NEEDED.get(method, {}), name: value})
                    except ClientError as error:
                        if "internal error" in str(error):
                            failed.append((method, name, value, str(error)))
    assert failed == []
