"""The daemon's log: lines for people on standard error, or the same with fields in the systemd journal.

Owns where a line goes, and that nobody waits for it: the loop hands lines to a thread, and the thread waits for a pipe
nobody reads or a journal that is stuck. Between the two stands a queue of MAX_WAITING lines; what finds it full is
counted, not kept. How often something is logged is the caller's decision (a rule's limit, a Limit of the daemon's).

``packet_text`` is the line of a packet, in the words of iptables' LOG so that people and programs read it as such.
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import Final

from ctfw.conntrack.state import state_name
from ctfw.engine import Judgement
from ctfw.packet import ICMP, ICMPV6, SCTP, TCP, UDP, UDPLITE, Packet, has_ports
from ctfw.reason import NAMES
from ctfw.ruleset.rule import Rule

MAX_WAITING: Final = 4096
SINKS: Final = ("auto", "stderr", "journal")
TABLE_FULL_TEXT: Final = (
    "nf_conntrack: table full, dropping packet"  # the kernel's own words: people's alarms look for them
)

ERROR: Final = 3
WARNING: Final = 4
NOTICE: Final = 5
INFO: Final = 6

# The names of iptables' LOG.
_PROTOCOLS: Final = {
    ICMP: "ICMP",
    TCP: "TCP",
    UDP: "UDP",
    ICMPV6: "ICMPv6",
    SCTP: "SCTP",
    UDPLITE: "UDPLITE",
    47: "GRE",
}

Write = Callable[[str, int, Mapping[str, str]], None]


class Journal:
    """The log. ``sink`` is one of SINKS; auto: the journal, when standard error leads there anyway."""

    def __init__(self, sink: str = "auto", environment: Mapping[str, str] | None = None) -> None:
        self.lost = 0
        write = None
        if sink == "journal" or (
            sink == "auto" and _is_under_journal(os.environ if environment is None else environment)
        ):
            write = _journal_writer()
        self.sink = "stderr" if write is None else "journal"
        self._lines: queue.Queue[tuple[str, int, Mapping[str, str]] | None] = queue.Queue(MAX_WAITING)
        self._write: Write = write or _to_stderr
        self._thread = threading.Thread(target=self._run, name="ctfw-log", daemon=True)
        self._thread.start()
        if sink == "journal" and write is None:
            self.log(
                "log: the journal was asked for, but systemd-python is not installed; using standard error", WARNING
            )

    def log(self, text: str, priority: int = INFO, fields: Mapping[str, str] | None = None) -> None:
        """One line, without the name of the program, which is added. Never waits."""
        try:
            self._lines.put_nowait((f"ctfw: {text}", priority, fields or {}))
        except queue.Full:
            self.lost += 1

    def close(self, patience: float = 1.0) -> None:
        """Write what waits, as far as that takes ``patience`` seconds at most."""
        try:
            self._lines.put(None, timeout=patience)
        except queue.Full:
            return
        self._thread.join(patience)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            if line is None:
                return
            try:
                self._write(*line)
            except (OSError, ValueError):  # the reader is gone, standard error is closed
                self.lost += 1


def packet_text(judgement: Judgement, indev: str, outdev: str, mark: int, rule: Rule | None = None) -> str:
    """The line of a judged packet: what was decided and why, then the packet as iptables' LOG writes it.

    ``rule`` is the one that wants the line, when that is not the one that decided.
    """
    packet = judgement.packet
    words = []
    rule = rule or judgement.rule
    if rule is not None:
        if rule.log is not None and rule.log.prefix:
            words.append(_printable(rule.log.prefix))
        words.append(f"rule={json.dumps(rule.name, ensure_ascii=False)}")
    words.append(f"state={state_name(judgement.state) if judgement.state else '-'}")
    if judgement.reason:
        words.append(f"reason={NAMES[judgement.reason]}")
    words.append(f"verdict={judgement.word()}")
    words.append(f"IN={indev} OUT={outdev}")
    if packet.src:
        words.append(f"SRC={ip_address(packet.src)} DST={ip_address(packet.dst)}")
        words.append(f"PROTO={_PROTOCOLS.get(packet.proto, str(packet.proto))}")
    if has_ports(packet):
        words.append(f"SPT={packet.sport} DPT={packet.dport}")
    elif packet.proto in (ICMP, ICMPV6) and packet.l4 and len(packet.data) >= packet.l4 + 2:
        words.append(f"TYPE={packet.data[packet.l4]} CODE={packet.data[packet.l4 + 1]}")
    words.append(f"LEN={packet.length}")
    if mark:
        words.append(f"MARK={mark:#x}")
    return " ".join(words)


def packet_fields(judgement: Judgement, rule: Rule | None = None) -> dict[str, str]:
    """The same for programs: fields of the journal's entry."""
    packet: Packet = judgement.packet
    fields = {"CTFW_VERDICT": judgement.word()}
    rule = rule or judgement.rule
    if rule is not None:
        fields["CTFW_RULE"] = rule.name
    if judgement.state:
        fields["CTFW_STATE"] = state_name(judgement.state)
    if judgement.reason:
        fields["CTFW_REASON"] = NAMES[judgement.reason]
    if packet.src:
        fields["CTFW_SRC"] = str(ip_address(packet.src))
        fields["CTFW_DST"] = str(ip_address(packet.dst))
        fields["CTFW_PROTO"] = _PROTOCOLS.get(packet.proto, str(packet.proto))
    if has_ports(packet):
        fields["CTFW_SPT"] = str(packet.sport)
        fields["CTFW_DPT"] = str(packet.dport)
    return fields


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text).strip()


def _is_under_journal(environment: Mapping[str, str]) -> bool:
    """Whether standard error is the journal's stream (systemd.exec(5), JOURNAL_STREAM)."""
    device, _, inode = environment.get("JOURNAL_STREAM", "").partition(":")
    try:
        stream = os.fstat(2)
    except OSError:
        return False
    return device == str(stream.st_dev) and inode == str(stream.st_ino)


def _journal_writer() -> Write | None:
    """A writer to the journal, None when systemd-python is not there."""
    try:
        from systemd import journal
    except ImportError:
        return None

    def write(text: str, priority: int, fields: Mapping[str, str]) -> None:
        journal.send(text, PRIORITY=str(priority), SYSLOG_IDENTIFIER="ctfw", **fields)

    return write


def _to_stderr(text: str, priority: int, fields: Mapping[str, str]) -> None:
    # Not by sys.stderr: whoever stands in its write holds its lock, and the interpreter waits for that at its end.
    line = f"{text}\n".encode("utf-8", "backslashreplace")
    while line:
        line = line[os.write(2, line) :]
