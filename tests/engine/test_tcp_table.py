"""Every cell of the TCP transition table, walked by a conversation that gets there and then says one thing more.

The table is the one that was measured on the kernel (docs/state-machine.md, "The whole table"), written down here a
second time: the engine's own is not asked. What the packet's way adds to the table ("Segments that pass without effect"
and what follows it) is in EXPLAINED, with the reason.
"""

import pytest
from engine import packets
from engine.conversation import Said, Tcp

COLUMNS = ("NO", "SS", "SR", "ES", "FW", "CW", "LA", "TW", "CL", "S2")
STATES = {
    "SS": "SYN_SENT", "SR": "SYN_RECV", "ES": "ESTABLISHED", "FW": "FIN_WAIT", "CW": "CLOSE_WAIT", "LA": "LAST_ACK",
    "TW": "TIME_WAIT", "CL": "CLOSE", "S2": "SYN_SENT2",
}  # fmt: skip
FLAGS = {"syn": "syn", "synack": "syn ack", "fin": "fin ack", "ack": "ack", "rst": "rst", "none": ""}

MEASURED = {
    # orig      NO SS SR ES FW CW LA TW CL S2
    "orig syn": "SS SS IG IG IG IG IG SS SS S2",
    "orig synack": "IV IV SR IV IV IV IV IV IV SR",
    "orig fin": "IV IV FW FW LA LA LA TW CL IV",
    "orig ack": "ES IV ES ES CW CW TW TW CL IV",
    "orig rst": "IV CL CL CL CL CL CL CL CL CL",
    "orig none": "IV IV IV IV IV IV IV IV IV IV",
    "reply syn": "-- S2 IV IV IV IV IV SS IV S2",
    "reply synack": "-- SR IG IG IG IG IG IG IG SR",
    "reply fin": "-- IV FW FW LA LA LA TW CL IV",
    "reply ack": "-- IG SR ES CW CW TW TW CL IG",
    "reply rst": "-- CL CL CL CL CL CL CL CL CL",
    "reply none": "-- IV IV IV IV IV IV IV IV IV",
}

DELETED = ""
EXPLAINED = {
    ("orig rst", "SS"): DELETED,  # nobody has answered yet: there is nothing to close
    ("reply rst", "SS"): DELETED,
    ("reply ack", "S2"): "S2",
}

CELLS = [
    pytest.param(row, state, cell, id=f"{row}-{state}")
    for row, cells in MEASURED.items()
    for state, cell in zip(COLUMNS, cells.split(), strict=True)
    if cell != "--"
]


def arrive(state: str) -> Tcp:
    """A conversation that has come to ``state``."""
    talk = Tcp(client_options=packets.SACK_PERMITTED, server_options=packets.SACK_PERMITTED)
    way = {
        "NO": "",
        "SS": "c:syn",
        "S2": "c:syn s:syn",
        "SR": "c:syn s:syn+ack",
        "ES": "c:syn s:syn+ack c:ack",
        "CL": "c:syn s:syn+ack c:ack c:rst",
        "FW": "c:syn s:syn+ack c:ack c:fin+ack",
        "CW": "c:syn s:syn+ack c:ack c:fin+ack s:ack",
        "LA": "c:syn s:syn+ack c:ack c:fin+ack s:ack s:fin+ack",
        "TW": "c:syn s:syn+ack c:ack c:fin+ack s:ack s:fin+ack c:ack",
    }[state]
    for step in way.split():
        who, flags = step.split(":")
        (talk.client if who == "c" else talk.server)(flags.replace("+", " "))
    assert state_of(talk) == STATES.get(state, "")
    return talk


def state_of(talk: Tcp) -> str:
    return talk.entry.split()[1] if talk.entry else ""


def say(talk: Tcp, row: str, state: str) -> Said:
    """The segment of that row, where its receiver may expect it."""
    side, kind = row.split()
    send = talk.client if side == "orig" else talk.server
    if "syn" in kind and state in ("SS", "SR", "S2") and talk.sides[side == "reply"].sent:
        return send(FLAGS[kind], seq=0)  # sent once more
    return send(FLAGS[kind])


@pytest.mark.parametrize(("row", "state", "cell"), CELLS)
def test_cell(row: str, state: str, cell: str) -> None:
    talk = arrive(state)
    before = talk.entry
    talk.wait(1)
    left = talk.entry
    said = say(talk, row, state)
    if cell == "IV":
        reason = "tcp-flags" if row.endswith("none") else "tcp-new" if state == "NO" else "tcp-state"
        said.is_invalid(reason)
        assert talk.entry == left
    elif (row, state) in EXPLAINED:
        assert state_of(talk) == STATES.get(EXPLAINED[row, state], ""), said
    elif cell == "IG":
        said.is_established()
        assert talk.entry.split()[:2] == left.split()[:2] and before
    elif cell == "SS" and state != "SS":
        said.is_new()
        assert state_of(talk) == "SYN_SENT"
    else:
        assert said.state == ("NEW" if state in ("NO", "SS") and row.startswith("orig") else "ESTABLISHED"), said
        assert state_of(talk) == STATES[cell], said
