"""Rule files in rule files: which there are, in which order their rules come, and what they may say.

`include:` at the top of a file puts the rules of those files ahead of its own; an entry `- include: …` in its list of
rules puts them there. Sets and chains of all files share one namespace, and a chain that several files define has the
rules of all, in the order of the files. What concerns the daemon as a whole (queue, conntrack, policy …) is said in the
file that ctfw was given, so that no drop-in can open the firewall behind its back.
"""

import os

from ctfw.config.document import Mapping, Node, Scalar, Sequence, decode, is_empty, parse
from ctfw.config.files import Files
from ctfw.config.problems import Report, Source, quote
from ctfw.config.values import Wrong

MAX_DEPTH = 8


class Includes:
    """Gathers, from a file and those that it includes, the roots, `sets`, `chains` and rules."""

    def __init__(self, report: Report, files: Files, pure: bool) -> None:
        self.report = report
        self.files = files
        self.pure = pure
        self.roots: list[Mapping] = []  # of the included files
        self.sets: list[Node] = []
        self.chains: list[Node] = []
        self._open: list[str] = [os.path.realpath(report.main.path)]

    def gather(self, root: Mapping) -> list[Node]:
        """The rules of this file and of what it includes, in their order."""
        rules: list[Node] = []
        pairs = {key.text: value for key, value in root.pairs if not is_empty(value)}
        if "include" in pairs:
            rules += self._include(pairs["include"])
        if "sets" in pairs:
            self.sets.append(pairs["sets"])
        if "chains" in pairs:
            self.chains.append(pairs["chains"])
        own = pairs.get("rules")
        if own is not None and not isinstance(own, Sequence):
            self.report.error(own, "'rules' is a list", "each rule starts with a dash: '- name: …'")
        for item in own.items if isinstance(own, Sequence) else []:
            paths = _include_entry(item)
            if paths is None:
                rules.append(item)
            elif is_empty(paths):
                self.report.error(item, "'include' has no value", "as in '- include: rules.d/*.yaml'")
            else:
                rules += self._include(paths)
        return rules

    def _include(self, node: Node) -> list[Node]:
        try:
            paths = self.files.expand(node)
        except Wrong as wrong:
            self.report.error(node, wrong.message, wrong.hint)
            return []
        rules: list[Node] = []
        for path, place in paths:
            rules += self._include_file(path, place)
        return rules

    def _include_file(self, path: str, place: Scalar) -> list[Node]:
        real = os.path.realpath(path)
        if real in self._open:
            self.report.error(place, f"{quote(path)} includes itself")
            return []
        if len(self._open) > MAX_DEPTH:
            self.report.error(place, f"files include each other more than {MAX_DEPTH} deep")
            return []
        data = self.files.read(path, place)
        if data is None:
            return []
        before = self.report.source
        self.report.begin(Source(path))
        text = decode(data, self.report)
        root = parse(text, self.report, self.pure) if text is not None else None
        self.report.begin(before)
        if root is None:
            return []  # an empty drop-in is no mistake, and others are reported
        if not isinstance(root, Mapping):
            self.report.error(root, "a rule file is a mapping of keys to values", "as in 'rules: [...]'")
            return []
        self.roots.append(root)
        self._open.append(real)
        rules = self.gather(root)
        self._open.pop()
        return rules


def _include_entry(item: Node) -> Node | None:
    """The paths, when an entry of the list of rules is an include."""
    if isinstance(item, Mapping) and len(item.pairs) == 1 and item.pairs[0][0].text == "include":
        return item.pairs[0][1]
    return None
