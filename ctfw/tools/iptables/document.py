"""Rules and remarks -> the text of a rule file.

YAML is written here and not by a library, because comments stand between the rules. A value is quoted unless it is a
plain word; a line that repeats what somebody else wrote holds nothing that could end it, or steer a terminal.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from ctfw.config.values import MAX_NAME
from ctfw.tools.iptables.chains import Entry, Finding, Item
from ctfw.tools.iptables.matches import HOOKS, STATES
from ctfw.tools.iptables.names import MORE_PROTOCOLS
from ctfw.tools.iptables.sets import NamedSet, unique
from ctfw.tools.iptables.values import Values, words

WIDTH: Final = 118

_ORDER: Final = (
    "name", "comment", "chain", "state", "in", "out", "proto", "src", "dst", "sport", "dport", "icmp", "icmpv6",
    "tcp_flags", "ttl", "length", "dscp", "mark", "mac", "direction", "status", "helper", "connpackets", "connbytes",
    "time", "connlimit", "limit", "verdict", "jump", "reject_with", "track", "log", "set_mark", "add",
)  # fmt: skip
_PLAIN: Final = re.compile(r"[A-Za-z0-9_$/.](?:[A-Za-z0-9_$/.+ -]*[A-Za-z0-9_$/.+-])?")
_PROTOCOLS: Final = {number: name for name, number in reversed(list(MORE_PROTOCOLS.items()))}
_KNOWN_PROTOCOLS: Final = (
    "tcp",
    "udp",
    "icmp",
    "icmpv6",
    "igmp",
    "gre",
    "esp",
    "ah",
    "sctp",
    "udplite",
    "ospf",
    "vrrp",
)
_COMMON: Final = re.compile("[\t\n\r]")


class Names:
    """The names of rules: what their comment says where that is one rule's alone, else chain and place."""

    def __init__(self, items: Iterable[tuple[str, Item]]) -> None:
        self._taken: set[str] = {f"policy {hook}" for hook in HOOKS}
        self._comments = Counter(visible(item.comment).strip() for _, item in items if isinstance(item, Entry))

    def name(self, chain: str, entry: Entry) -> str:
        comment = visible(entry.comment).strip()
        family = " ipv6" if entry.families == {6} else ""
        generated = f"{chain} {entry.line.place}{family}{entry.suffix}"
        if comment and self._comments[comment] == 1 and len(comment) <= MAX_NAME - 8:
            found = comment
        else:
            found = generated if entry.line.place else comment
        return unique(found[: MAX_NAME - 8], self._taken)


def visible(text: str) -> str:
    """`text` on one line, without what steers terminals or what YAML does not take."""
    return "".join(
        " " if _COMMON.match(c) else "�" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp") else c
        for c in text
    )


def scalar(text: str) -> str:
    if _PLAIN.fullmatch(text) is not None:
        return text
    escaped = visible(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def value(thing: object) -> str:
    """A value in flow style."""
    if isinstance(thing, dict):
        return "{" + ", ".join(f"{key}: {value(inner)}" for key, inner in thing.items()) + "}"
    if isinstance(thing, list | tuple):
        return value(thing[0]) if len(thing) == 1 else "[" + ", ".join(value(inner) for inner in thing) + "]"
    return scalar(str(thing))


def rule(entry: Entry, name: str) -> list[str]:
    """The lines of one rule."""
    keys: dict[str, object] = {"name": name}
    comment = visible(entry.comment).strip()
    if comment and comment != name:
        keys["comment"] = comment
    for key, found in entry.conditions.items():
        shown = _shown(key, found)
        if shown is not None:
            keys[key] = shown
    if {"icmp", "icmpv6"} & keys.keys():
        keys.pop("proto", None)  # the type says it
    if entry.jump:
        keys["jump"] = entry.jump
    keys.update(entry.keys)
    ordered = sorted(keys, key=_ORDER.index)
    one = "  - {" + ", ".join(f"{key}: {value(keys[key])}" for key in ordered) + "}"
    if len(one) <= WIDTH:
        return [one]
    return [f"  {'- ' if number == 0 else '  '}{key}: {value(keys[key])}" for number, key in enumerate(ordered)]


def remark(finding: Finding, indent: str = "  ") -> Iterator[str]:
    """The comment lines for something that is not, or not exactly, carried over."""
    if finding.left_out:
        yield f"{indent}# {'WARNING, not' if finding.opens else 'not'} carried over: {visible(finding.line.text)}"
        yield f"{indent}#   {visible(finding.why)}"
    else:
        yield f"{indent}# {'WARNING: ' if finding.opens else ''}{visible(finding.line.text)}"
        yield f"{indent}#   {visible(finding.why)}"


def sets(found: Iterable[NamedSet], used: set[str]) -> Iterator[str]:
    """The definitions of the sets in use, and of their opposites."""
    for one in found:
        if one.name not in used and f"not_{one.name}" not in used:
            continue
        yield f"  # {visible(one.comment)}"
        members = value(list(one.members)) if one.members else "[]"
        yield f"  {one.name}: " + (f"{{members: {members}, dynamic: on}}" if one.dynamic else members)
        if f"not_{one.name}" in used:
            yield f'  not_{one.name}: "!${one.name}"'


def sets_of(entry: Entry) -> set[str]:
    """The names of the sets that a rule uses."""
    found = set()
    for one in entry.conditions.values():
        if isinstance(one, Values):
            members = (*(one.wanted or ()), *one.unwanted)
            found |= {member[1:] for member in members if isinstance(member, str) and member.startswith("$")}
    add = entry.keys.get("add")
    if isinstance(add, dict):
        found.add(str(add["set"]))
    return found


def marks_of(entry: Entry) -> list[int]:
    """The bits of the mark that a rule asks for or sets."""
    texts = [entry.keys["set_mark"]] if "set_mark" in entry.keys else []
    asked = entry.conditions.get("mark")
    if isinstance(asked, Values):
        texts += [*(asked.wanted or ()), *asked.unwanted]
    return [int(str(text).partition("/")[0], 16) for text in texts]


def _shown(key: str, found: object) -> object:
    if isinstance(found, frozenset):
        order = HOOKS if key == "chain" else STATES
        return None if len(found) == len(order) else [word for word in order if word in found]
    if isinstance(found, Values):
        if key == "proto":
            return [_protocol(word) for word in words(key, found)]
        return words(key, found)
    if key == "limit" and isinstance(found, dict) and found.get("burst") == "5":
        shown = {inner: of for inner, of in found.items() if inner != "burst"}
        return shown["rate"] if len(shown) == 1 else shown
    return found


def _protocol(word: str) -> str:
    away, number = ("!", word[1:]) if word.startswith("!") else ("", word)
    name = _PROTOCOLS.get(int(number), "") if number.isdigit() else ""
    return away + (name if name in _KNOWN_PROTOCOLS else number)
