"""Every helper's expectations are the kernel's, packet by packet, whatever is said: see helper_conversations."""

from collections.abc import Iterator

import pytest
from kernel import packets
from kernel.compare import Counts, hold, pair
from kernel.conversations.step import CLIENT, SERVER, Step
from kernel.helper_conversations import KINDS
from kernel.helper_lab import Engine, Gateway, differing

pytestmark = pytest.mark.kernel

NUMBER = 160  # of each kind and family; helper_lab holds as many as wanted


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with Gateway() as found:
        yield found


@pytest.mark.parametrize(
    ("kind", "family"), [(kind, family) for kind in KINDS for family in "46" if (kind, family) != ("irc", "6")]
)
def test_random_conversations(gateway: Gateway, kind: str, family: str) -> None:
    counts = Counts()
    found = [str(talk) for talk in differing(gateway, Engine(), kind, family, "suite", NUMBER, counts)]
    assert not found, "\n".join(found)
    assert counts.states["ESTABLISHED"] + counts.states["NEW"] > NUMBER, "hardly anything was said"


@pytest.mark.parametrize("ipv6", [False, True], ids=["ipv4", "ipv6"])
def test_an_icmp_error_about_a_sip_connection_is_no_sip(gateway: Gateway, ipv6: bool) -> None:
    """It travels in the original direction, RELATED; the time that SIP gives the connection is not given again."""
    ends = pair(1, ipv6)
    client, server = ends.address
    question = packets.udp(client, 5070, server, 5060, b"OPTIONS sip:x SIP/2.0\r\nCSeq: 1 OPTIONS\r\n\r\n")
    answer = packets.udp(server, 5060, client, 5070, b"SIP/2.0 200 OK\r\nCSeq: 1 OPTIONS\r\n\r\n")
    empty = packets.udp(client, 5070, server, 5060, b"")
    kind, code = (1, 4) if ipv6 else (3, 3)
    talk = [
        Step(CLIENT, question, "question"),
        Step(SERVER, answer, "answer"),
        Step(CLIENT, empty, "empty"),
        Step(SERVER, packets.icmp(server, client, kind, code, data=question), "error about the question"),
        Step(CLIENT, packets.icmp(client, server, kind, code, data=answer), "error about the answer"),
    ]
    (held,) = hold(gateway, Engine(), [talk])
    assert not held.difference, str(held)
