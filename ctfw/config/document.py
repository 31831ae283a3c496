r"""Text of a rule file -> a tree of nodes that know their places.

YAML is read as events, and the tree is built here. Nothing resolves scalars: every plain scalar stays the text that
stands in the file, because YAML 1.1 would read 22:22 as 1342, `no` as False, 010 as 8 and some MAC addresses as
integers. What a text means is decided later by the key it stands under.

The parser is libyaml's when PyYAML was built with it, else PyYAML's own: twenty times slower, same events but for two
oddities, each an error in one of them (`{a:}` in libyaml, a tab between key and value in PyYAML) and never another
meaning. Their messages differ, so both are translated by one table (SYNTAX) into words about rule files.

A rule file is trusted, its author's editor is not: size, number of values and depth have limits. An alias stands for
a whole subtree; its values are counted each time it is used, which stops a "YAML bomb" before anybody walks it. Events
instead of PyYAML's composer make this possible while the tree grows, and need no recursion.

Refused, because each reads differently from what it does: tags (an unquoted `!wan0` is one), keys that are not text,
the same key twice in one mapping (the last would silently win), a second document.

This is the one file that imports yaml.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

import yaml

from ctfw.config.problems import Place, Report, Source, clean, quote

MAX_BYTES = 16 << 20
MAX_NODES = 1_000_000  # values reached, aliases followed
MAX_DEPTH = 20

# The first text found in the parser's message gives ours: (libyaml's or PyYAML's words, message, hint).
SYNTAX: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("tab character",), "a tab stands where spaces must", "YAML indents with spaces only"),
    (("that cannot start any token",), "a value cannot start with {char}", "put the value in quotes"),
    (
        ("mapping values are not allowed",),
        "a second ': ' on one line, or a key that is indented too far",
        "check the indentation, and put text that holds ': ' in quotes",
    ),
    (("',' or ']'",), "the list that starts at line {context} is not closed", "a ']' or a ',' is missing"),
    (("',' or '}'",), "the mapping that starts at line {context} is not closed", "a '}' or a ',' is missing"),
    (("unexpected end of stream",), "the quoted text that starts at line {context} is not closed", ""),
    (("unknown escape",), "unknown escape in double quotes", "in single quotes a backslash is a backslash"),
    (("Unicode character escape", "character code"), "unknown escape in double quotes", ""),
    (
        ("expected node content", "expected the node content"),
        "a value is missing here",
        "put text that starts with ':', ',', ']' or '}' in quotes, as in \"::1\"",
    ),
    (
        ("expected key", "expected <block end>", "expected '-' indicator"),
        "this line does not fit the ones above",
        "check the indentation: the keys of one mapping stand in one column, and so do the dashes of one list",
    ),
    (("unexpected ':'",), "a ':' without a space after it", "write 'key: value', or put the text in quotes"),
    (("could not find expected ':'",), "a ':' is missing after this key", ""),
    (("document start",), "there is text after the end of the document", ""),
    (("tag",), "a '!' without quotes starts a YAML tag", 'put it in quotes, as in "!192.168.1.1"'),
)

_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # YAML 1.1's; str.splitlines knows more
_ODD_LINE_ENDS = "\r\x85\u2028\u2029"
_CONTROL = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Node:
    """A value at its place. `size` counts the values in it, itself included; `height` the levels below it."""

    __slots__ = ("column", "height", "line", "size", "source")

    def __init__(self, source: Source, line: int, column: int) -> None:
        self.source = source
        self.line = line
        self.column = column
        self.size = 1
        self.height = 0


class Scalar(Node):
    """Text as it stands in the file. `plain`: it was not quoted."""

    __slots__ = ("plain", "text")

    def __init__(self, source: Source, line: int, column: int, text: str, plain: bool) -> None:
        super().__init__(source, line, column)
        self.text = text
        self.plain = plain


class Sequence(Node):
    __slots__ = ("items",)

    def __init__(self, source: Source, line: int, column: int) -> None:
        super().__init__(source, line, column)
        self.items: list[Node] = []


class Mapping(Node):
    """Keys with their values in the order of the file; no key twice."""

    __slots__ = ("_places", "pairs")

    def __init__(self, source: Source, line: int, column: int) -> None:
        super().__init__(source, line, column)
        self.pairs: list[tuple[Scalar, Node]] = []
        self._places: dict[str, Scalar] = {}

    def add(self, key: Scalar, value: Node, report: Report) -> None:
        if key is _NO_KEY:
            return
        first = self._places.setdefault(key.text, key)
        if first is not key:
            report.error(
                key,
                f"{quote(key.text)} is given twice",
                f"it stands at line {first.line}, column {first.column} already",
            )
            return
        self.pairs.append((key, value))


_NO_KEY: Final = Scalar(Source(""), 0, 0, "", False)  # stands for a key that was refused


class _Stop(Exception):
    """The rest of the document cannot be read; the reason is in the report."""


class _At:
    def __init__(self, report: Report, line: int, column: int) -> None:
        self.source = report.source
        self.line = line
        self.column = column


def decode(data: bytes, report: Report) -> str | None:
    """The text of the file, or None with the reason reported."""
    if len(data) > MAX_BYTES:
        report.error(None, f"the file has more than {MAX_BYTES >> 20} MiB", "put long lists of addresses elsewhere")
        return None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as wrong:
        report.source.lines = split_lines(data.decode("utf-8-sig", "replace"))
        before = split_lines(data[: wrong.start].decode("utf-8-sig", "replace"))
        at = _At(report, len(before), len(before[-1]) + 1)
        report.error(at, f"not UTF-8: byte {data[wrong.start]:#04x}", "save the file as UTF-8")
        return None


def parse(text: str, report: Report, pure: bool = False) -> Node | None:
    """The document's tree, or None when there is none; every reason is reported. `pure`: not by libyaml."""
    text = text.removeprefix("\ufeff")
    report.source.lines = split_lines(text)
    if len(text) > MAX_BYTES:
        report.error(None, f"the file has more than {MAX_BYTES >> 20} MiB", "put long lists of addresses elsewhere")
        return None
    bad = _CONTROL.search(text)
    if bad is not None:
        before = split_lines(text[: bad.start()])
        hint = "is this a binary file?" if bad[0] == "\0" else "delete it, or write it as an escape in double quotes"
        at = _At(report, len(before), len(before[-1]) + 1)
        report.error(at, f"control character U+{ord(bad[0]):04X}", hint)
        return None
    loader: Any = yaml.SafeLoader if pure or not yaml.__with_libyaml__ else yaml.CSafeLoader
    try:
        return _compose(yaml.parse(text, Loader=loader), report)
    except _Stop:
        return None
    except yaml.MarkedYAMLError as wrong:
        _report_syntax(wrong, report)
    except (yaml.YAMLError, ValueError, OverflowError) as wrong:
        report.error(None, f"not YAML: {quote(str(wrong))}")
    return None


def split_lines(text: str) -> list[str]:
    """The lines as YAML counts them, without their ends; at least one."""
    # The usual file is split in a tenth of the time; packets wait when a reload reads it.
    odd = any(end in text for end in _ODD_LINE_ENDS)
    return _LINE_END.split(text) if odd else text.split("\n")


def is_empty(node: Node) -> bool:
    """True for the value of a key with nothing behind it."""
    return isinstance(node, Scalar) and node.plain and not node.text


def _compose(events: Iterator[Any], report: Report) -> Node | None:
    root: Node | None = None
    documents = 0
    stack: list[Sequence | Mapping] = []  # collections that are open, outermost first
    keys: list[Scalar | None] = []  # beside each: the key that waits for its value
    anchors: dict[str, Node] = {}
    for event in events:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            at = event.start_mark
            node: Node = Scalar(report.source, at.line + 1, at.column + 1, event.value, not event.style)
            if event.tag is not None:
                node = _tagged(node, event.tag, event.value, report)
        elif kind is yaml.SequenceStartEvent or kind is yaml.MappingStartEvent:
            at = event.start_mark
            new = (Sequence if kind is yaml.SequenceStartEvent else Mapping)(report.source, at.line + 1, at.column + 1)
            if event.tag is not None:
                _tagged(new, event.tag, "", report)
            if event.anchor:
                anchors[event.anchor] = new
            stack.append(new)
            keys.append(None)
            if len(stack) > MAX_DEPTH:
                _stop(new, f"nested more than {MAX_DEPTH} deep", report)
            continue
        elif kind is yaml.SequenceEndEvent or kind is yaml.MappingEndEvent:
            node = stack.pop()
            keys.pop()
        elif kind is yaml.AliasEvent:
            node = _alias(event, anchors, stack, report)
        elif kind is yaml.DocumentStartEvent:
            documents += 1
            if documents > 1:
                at = event.start_mark
                _stop(_At(report, at.line + 1, at.column + 1), "a second document starts here", report)
            continue
        else:
            continue
        if kind is yaml.ScalarEvent and event.anchor:
            anchors[event.anchor] = node
        if not stack:
            root = node
            continue
        parent = stack[-1]
        _count(parent, node, len(stack), report)
        if isinstance(parent, Sequence):
            parent.items.append(node)
        elif keys[-1] is not None:
            parent.add(keys[-1], node, report)
            keys[-1] = None
        elif isinstance(node, Scalar):
            keys[-1] = node
        else:
            report.error(node, "a list or a mapping cannot be a key", "keys are plain words")
            keys[-1] = _NO_KEY
    return None if root is None or is_empty(root) else root


def _alias(event: Any, anchors: dict[str, Node], stack: list[Sequence | Mapping], report: Report) -> Node:
    at = _At(report, event.start_mark.line + 1, event.start_mark.column + 1)
    node = anchors.get(event.anchor)
    if node is None:
        report.error(at, f"no anchor '&{event.anchor}' stands above", "a text that starts with '*' needs quotes")
        return Scalar(report.source, at.line, at.column, "*" + event.anchor, False)
    if node in stack:
        _stop(at, f"'*{event.anchor}' stands inside the value that it names", report)
    return node


def _count(parent: Node, node: Node, depth: int, report: Report) -> None:
    parent.size += node.size
    if node.height >= parent.height:
        parent.height = node.height + 1
    if parent.size > MAX_NODES:
        _stop(node, f"more than {MAX_NODES} values, aliases followed", report)
    if depth + node.height > MAX_DEPTH:
        _stop(node, f"nested more than {MAX_DEPTH} deep", report)


def _stop(place: Place, message: str, report: Report) -> None:
    report.error(place, message)
    raise _Stop


def _tagged(place: Node, tag: str, text: str, report: Report) -> Scalar:
    """Reports a tag; the text that was meant goes on, so that one mistake is one problem."""
    if tag.startswith("tag:"):
        report.error(place, "YAML tags have no meaning here", "delete the tag that starts with '!'")
        return Scalar(report.source, place.line, place.column, text, False)
    # In [!lan0, wan0] PyYAML's own parser takes the comma into the tag and wan0 for its value.
    meant = tag[:-1] if tag.endswith(",") else tag + text
    written = clean(meant)
    report.error(place, f"without quotes YAML takes '{written}' for a tag", f'put it in quotes: "{written}"')
    return Scalar(report.source, place.line, place.column, meant, False)


def _report_syntax(wrong: yaml.MarkedYAMLError, report: Report) -> None:
    found = wrong.problem or wrong.context or "cannot be parsed"
    mark = wrong.problem_mark or wrong.context_mark
    if mark is None:
        report.error(None, f"not YAML: {quote(found)}")
        return
    at = _At(report, mark.line + 1, mark.column + 1)
    # At the end of the file the two parsers disagree by an empty line; show the last line that says something.
    last = next((n for n in range(len(report.source.lines), 0, -1) if report.source.lines[n - 1].strip()), 1)
    if at.line > last:
        at = _At(report, last, len(report.source.lines[last - 1].rstrip()) + 1)
    if "node content" in found and at.line == last and not report.source.lines[last - 1][at.column - 1 :].strip():
        report.error(at, "the file ends within a list or a mapping", "a ']' or a '}' is missing")
        return
    char = report.source.lines[at.line - 1][at.column - 1 : at.column]
    if char == "\t":
        found = "tab character"  # libyaml names it in one message of two
    context = wrong.context_mark.line + 1 if wrong.context_mark is not None else at.line
    for needles, message, hint in SYNTAX:
        if any(needle in found for needle in needles):
            report.error(at, message.format(char=quote(char), context=context), hint)
            return
    report.error(at, f"not YAML: {quote(found)}")
