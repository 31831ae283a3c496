"""A mapping of the document against its section of the schema -> Fields.

The walker looks at every key once: unknown ones get a suggestion, missing ones are named, each known one is handed to
the reader of its kind. A reader returns the value, or raises Wrong (placed at the value by the walker), or has reported
what it found at better places itself and raises Skip. A field that could not be read is absent from the Fields, and the
walk goes on: one run shows every mistake of the file.
"""

from collections.abc import Callable, Mapping
from typing import Any

from ctfw.config import foreign, values
from ctfw.config.document import Mapping as MappingNode
from ctfw.config.document import Node, Scalar, Sequence, is_empty
from ctfw.config.problems import Report, did_you_mean, listing, quote
from ctfw.config.schema import ACTIONS, FILE, INCLUDED, Key, Kind, Section
from ctfw.config.values import Wrong
from ctfw.ruleset.verdict import ACCEPT, DROP
from ctfw.ruleset.verdict import NAMES as VERDICT_NAMES

VERDICTS = {"accept": ACCEPT, "drop": DROP}


class Skip(Exception):
    """The value cannot be used, and the report says why already."""


Reader = Callable[[Node, Key], Any]


class Fields:
    """What could be read of one mapping: values by key name, and the places of keys and values."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.values: dict[str, Any] = {}
        self.keys: dict[str, Scalar] = {}

    def get(self, name: str, default: Any = None) -> Any:
        return self.values.get(name, default)

    def place(self, name: str) -> Node:
        """Where the key stands; the mapping itself when it is not given."""
        return self.keys.get(name, self.node)

    def complete(self) -> bool:
        """True when every key that is there could be read."""
        return len(self.values) == len(self.keys)


class Walker:
    def __init__(self, report: Report) -> None:
        self.report = report
        self.readers: dict[Kind, Reader] = {
            Kind.NUMBER: lambda node, key: values.number(text_of(node, key), key.low, key.high),
            Kind.DURATION: lambda node, key: values.duration(text_of(node, key), key.low, key.high),
            Kind.SIZE: lambda node, key: values.size(text_of(node, key), key.low, key.high),
            Kind.SWITCH: lambda node, key: values.switch(text_of(node, key)),
            Kind.VERDICT: lambda node, key: values.choice(text_of(node, key), VERDICTS),
            Kind.ACTION: lambda node, key: _action(text_of(node, key)),
            Kind.CHOICE: lambda node, key: values.choice(
                text_of(node, key), {word: place for place, word in enumerate(key.words)}
            ),
            Kind.FATE: lambda node, key: _fate(text_of(node, key)),
            Kind.NAME: lambda node, key: values.name(text_of(node, key), key.name),
            Kind.TEXT: text_of,
            Kind.RATE: lambda node, key: values.rate(text_of(node, key)),
            Kind.PORT_NUMBERS: self._port_numbers,
            Kind.ZONES: self._zones,
            Kind.SECTION: self._section,
        }

    def section(self, node: Node, section: Section) -> Fields:
        """Raises Wrong when the node is no mapping."""
        if not isinstance(node, MappingNode):
            raise Wrong(f"{section.title} is a mapping of keys to values", _example(section))
        fields = Fields(node)
        for name, value in node.pairs:
            key = section.keys.get(name.text)
            if key is None:
                self._unknown(name, section)
                continue
            fields.keys[key.name] = name
            if is_empty(value):
                self.report.error(name, f"{quote(key.name)} has no value", "give it one, or delete the key")
                continue
            try:
                fields.values[key.name] = self.readers[key.kind](value, key)
            except Wrong as wrong:
                self.report.error(value, wrong.message, wrong.hint)
            except Skip:
                pass
        for key in section.keys.values():
            if key.required and key.name not in fields.keys:
                self.report.error(
                    node, f"{section.title} has no {quote(key.name)}", f"add '{key.name}: …': {key.meaning}"
                )
        return fields

    def members(self, node: Node, what: str) -> list[Scalar]:
        """The scalars of a value or of a list of values, at least one. Raises Wrong or Skip."""
        if isinstance(node, Scalar):
            return [node]
        if not isinstance(node, Sequence):
            raise Wrong(f"{quote(what)} is one value or a list of values", "a list is written [a, b]")
        if not node.items:
            raise Wrong(
                f"the list of {quote(what)} is empty and would match nothing", "name a member, or delete the key"
            )
        return self.scalars(node)

    def scalars(self, node: Sequence) -> list[Scalar]:
        """The list's members when each of them is a text. Raises Skip."""
        found: list[Scalar] = []
        for item in node.items:
            if not isinstance(item, Scalar):
                self.report.error(item, "a list holds single values", "join lists by naming sets: [$lan, $guests]")
            elif is_empty(item):
                self.report.error(item, "this member of the list is empty")
            else:
                found.append(item)
        if len(found) < len(node.items):
            raise Skip
        return found

    def _section(self, node: Node, key: Key) -> Fields:
        assert key.section is not None
        return self.section(node, key.section)

    def _port_numbers(self, node: Node, key: Key) -> list[int]:
        ports: list[int] = []
        bad = False
        for member in self.members(node, key.name):
            try:
                first, last = values.port(member.text)
                if first != last or first == 0:
                    raise Wrong(f"{quote(member.text)} is not one port", "a helper's ports are named one by one")
                ports.append(first)
            except Wrong as wrong:
                bad = True
                self.report.error(member, wrong.message, wrong.hint)
        if bad:
            raise Skip
        return ports

    def _zones(self, node: Node, key: Key) -> dict[str, int]:
        if not isinstance(node, MappingNode):
            raise Wrong(f"{quote(key.name)} is a mapping of interfaces to zones", f"{key.name}: {{lan0: 1}}")
        zones: dict[str, int] = {}
        bad = False
        for device, value in node.pairs:
            try:
                name = values.interface(device.text)
                if name.endswith("+"):
                    raise Wrong("a zone's interface is one interface, without a wildcard")
                zones[name] = values.number(text_of(value, key), 1, 65535)
            except Wrong as wrong:
                bad = True
                self.report.error(device, wrong.message, wrong.hint)
        if bad:
            raise Skip
        return zones

    def _unknown(self, name: Scalar, section: Section) -> None:
        if name.text in section.refused:
            self.report.error(name, f"{section.title}: {name.text} is not supported: {section.refused[name.text]}")
            return
        known = section.keys
        hint = foreign.key_hint(name.text, known) or did_you_mean(name.text, known)
        if section is INCLUDED and name.text in FILE.keys:
            hint = "it concerns the whole: say it in the file that includes this one"
        elif not hint and len(known) <= 20:
            hint = f"known here: {listing(known)}"
        self.report.error(name, f"unknown key {quote(name.text)} in {section.title}", hint)


def text_of(node: Node, key: Key) -> str:
    if not isinstance(node, Scalar):
        raise Wrong(f"{quote(key.name)} takes one value", "not a list or a mapping")
    return node.text


def mask(members: list[Scalar], known: Mapping[str, int], everything: int, report: Report) -> int:
    """Words -> bits: any of the positive ones (all when there is none), without those behind a `!`. Raises Skip."""
    wanted, unwanted, positive, bad = 0, 0, False, False
    for member in members:
        for part in member.text.split(","):
            negated, word = negation(part.strip())
            try:
                bits = everything if word == "any" else values.choice(word, known)
            except Wrong as wrong:
                report.error(member, wrong.message, wrong.hint)
                bad = True
                continue
            if negated:
                unwanted |= bits
            else:
                wanted |= bits
                positive = True
    result = (wanted if positive else everything) & ~unwanted
    if bad:
        raise Skip
    if not result:
        raise Wrong("nothing is left: this can never match")
    return result


def negation(text: str) -> tuple[bool, str]:
    """`!word` or `! word` -> (True, word)."""
    if text.startswith("!"):
        return True, text[1:].lstrip()
    return False, text


def _action(text: str) -> int:
    hint = foreign.verdict_hint(text)
    if hint:
        raise Wrong(f"{quote(text)} is not a verdict", hint)
    return values.choice(text, {name: VERDICT_NAMES.index(name) for name in ACTIONS})


def _fate(text: str) -> str:
    return "accept" if values.choice(text, VERDICTS) == ACCEPT else "drop"


def _example(section: Section) -> str:
    first = next((key for key in section.keys.values() if key.required), next(iter(section.keys.values())))
    return f"as in '{first.name}: …'"
