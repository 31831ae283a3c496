"""The `sets:` of a file: names with their members, as they are written.

A set is one value, a list of values, or a mapping that also takes members from files and says whether addresses come
and go while ctfw runs (`dynamic`). Members stay text here: what they mean depends on the key that uses the set, see
`sets`. Names, references among sets and cycles are checked here, once.
"""

import re

from ctfw.config.document import Mapping, Node, Scalar, Sequence, decode, is_empty, split_lines
from ctfw.config.files import Files
from ctfw.config.problems import Report, Source, did_you_mean, quote
from ctfw.config.schema import SET, Kind
from ctfw.config.values import SECOND_NS, Wrong
from ctfw.config.walk import Skip, Walker, negation
from ctfw.ruleset.dynamic import MOST, DynamicSet

MAX_NESTING = 16

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
NAME_HINT = "letters, digits, '_', '-' and '.', a letter first"


class Definition:
    """One named set. `broken`: a member is no text, names an unknown set or leads back here; nobody gets its value."""

    def __init__(self, place: Scalar) -> None:
        self.place = place
        self.members: list[Scalar] = []
        self.used = False
        self.broken = False
        self.height = 0  # levels of sets below; 0 until it is known
        self.open = False  # on the way from a set down to its members
        self.dynamic: DynamicSet | None = None
        self.changes = False  # it is dynamic, or a set in it is


class NamedSets:
    """Every named set of the file and of those it includes."""

    def __init__(self, walker: Walker, files: Files) -> None:
        self.walker = walker
        self.report: Report = walker.report
        self.files = files
        self.definitions: dict[str, Definition] = {}
        walker.readers[Kind.MEMBERS] = lambda node, key: self._scalars(node)
        walker.readers[Kind.PATHS] = lambda node, key: node

    def define(self, node: Node) -> None:
        """Take in a `sets` mapping. Raises Wrong when it is none. `check` follows when all are in."""
        if not isinstance(node, Mapping):
            raise Wrong("'sets' is a mapping of names to members", "as in 'lan: [192.168.0.0/16, fd00::/8]'")
        for name, value in node.pairs:
            first = self.definitions.get(name.text)
            if first is not None:
                where = self.report.where(first.place, name)
                self.report.error(name, f"set {quote(name.text)} is defined twice", f"it stands at {where} already")
                continue
            definition = self.definitions[name.text] = Definition(name)
            if NAME.fullmatch(name.text) is None:
                hint = NAME_HINT
                if name.text.startswith("$"):
                    hint = "the '$' is written where the set is used, not where it is defined"
                self.report.error(name, f"{quote(name.text)} cannot name a set", hint)
                definition.broken = True
            try:
                definition.members = self._members(definition, value)
            except Skip:
                definition.broken = True

    def check(self) -> None:
        """Follow the references among all sets."""
        for text in self.definitions:
            self._check(text, [])

    def warn_unused(self) -> None:
        for text, definition in self.definitions.items():
            if not definition.used:
                self.report.warning(definition.place, f"set {quote(text)} is not used")

    def find(self, member: Scalar, word: str) -> Definition | None:
        """The set that `$name` names; None with the reason reported."""
        definition = self.definitions.get(word[1:])
        if definition is None:
            hint = did_you_mean(word[1:], self.definitions, "$") or "define it under 'sets:'"
            self.report.error(member, f"no set is named {quote(word)}", hint)
            return None
        definition.used = True
        return definition

    def dynamic(self, member: Scalar, text: str) -> DynamicSet:
        """The dynamic set of this name, with or without its `$`. Raises Wrong or Skip."""
        word = text if text.startswith("$") else "$" + text
        definition = self.find(member, word)
        if definition is None or definition.broken:
            raise Skip
        if definition.dynamic is None:
            where = self.report.where(definition.place, member)
            raise Wrong(f"set {quote(word)} is not dynamic", f"at {where}, write {{members: […], dynamic: on}}")
        return definition.dynamic

    def every_dynamic(self) -> list[DynamicSet]:
        return [found.dynamic for found in self.definitions.values() if found.dynamic is not None]

    def _members(self, definition: Definition, value: Node) -> list[Scalar]:
        name = definition.place
        if is_empty(value):
            self.report.error(name, f"set {quote(name.text)} has no value", "an empty set is written []")
            raise Skip
        if not isinstance(value, Mapping):
            return self._scalars(value)
        fields = self.walker.section(value, SET)
        if not fields.complete():
            raise Skip
        members: list[Scalar] = list(fields.get("members", []))
        if "file" in fields.values:
            members += self._from_files(fields.get("file"))
        if fields.get("dynamic"):
            ttl, most = fields.get("ttl", 0) * SECOND_NS, fields.get("max", MOST)
            definition.dynamic = DynamicSet(name.text, ttl, most)
            definition.changes = True
        else:
            for key in ("ttl", "max"):
                if key in fields.values:
                    self.report.error(fields.place(key), f"{quote(key)} is for dynamic sets", "add 'dynamic: on'")
        return members

    def _scalars(self, node: Node) -> list[Scalar]:
        if isinstance(node, Scalar):
            return [node]
        if isinstance(node, Sequence):
            return self.walker.scalars(node)
        self.report.error(node, "a set is one value or a list of values", "a list is written [a, b]")
        raise Skip

    def _from_files(self, node: Node) -> list[Scalar]:
        """One member a line, without comments."""
        members: list[Scalar] = []
        try:
            paths = self.files.expand(node)
        except Wrong as wrong:
            self.report.error(node, wrong.message, wrong.hint)
            raise Skip from None
        bad = False
        for path, place in paths:
            data = self.files.read(path, place)
            before = self.report.source
            source = Source(path)
            self.report.begin(source)
            text = decode(data, self.report) if data is not None else None
            self.report.begin(before)
            if text is None:
                bad = True
                continue
            source.lines = split_lines(text)
            for number, line in enumerate(source.lines, 1):
                member = line.partition("#")[0].strip()
                if member:
                    members.append(Scalar(source, number, line.index(member) + 1, member, True))
        if bad:
            raise Skip
        return members

    def _check(self, text: str, path: list[str]) -> int:
        """Follow the references of a set: its height, with unknown names, cycles and too deep nesting reported."""
        definition = self.definitions[text]
        if definition.height:
            return definition.height
        definition.open = True
        path.append(text)
        height = 1
        for member in definition.members:
            if "$" not in member.text:
                continue
            word = negation(member.text)[1]
            if not word.startswith("$"):
                continue
            inner = self.find(member, word)
            if inner is None:
                definition.broken = True
            elif inner.open:
                way = " -> ".join("$" + step for step in path[path.index(word[1:]) :] + [word[1:]])
                self.report.error(member, f"set {quote(text)} contains itself", way)
                definition.broken = True
            elif len(path) >= MAX_NESTING:
                self.report.error(member, f"sets are nested more than {MAX_NESTING} deep")
                definition.broken = True
            else:
                height = max(height, self._check(word[1:], path) + 1)
                definition.broken = definition.broken or inner.broken
                definition.changes = definition.changes or inner.changes
        if height > MAX_NESTING and not definition.broken:
            self.report.error(definition.place, f"sets are nested more than {MAX_NESTING} deep")
            definition.broken = True
        definition.open = False
        definition.height = height
        path.pop()
        return height
