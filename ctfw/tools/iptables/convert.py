"""The steps in their order, and what is reported about them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ctfw.conntrack.settings import HELPERS, helper_protocols
from ctfw.ruleset.marks import REJECT_BIT, reject_field
from ctfw.tools.iptables import document, targets
from ctfw.tools.iptables.chains import Entry, Filter, Finding, Item, Remark
from ctfw.tools.iptables.merge import ANYWHERE, Merged, merge
from ctfw.tools.iptables.options import read
from ctfw.tools.iptables.raw import Raw, kept
from ctfw.tools.iptables.save import BUILTIN, Save, parse
from ctfw.tools.iptables.sets import Sets
from ctfw.tools.iptables.values import values, whole

TABLES: Final = ("filter", "raw")

# What is repeated at the top of the file: reasons, and lines of each.
_MOST_REASONS: Final = 50
_MOST_LINES: Final = 5


@dataclass
class Imported:
    """`text`: the rule file. `warnings`: what may let packets pass that were stopped. `notes`: the rest."""

    text: str = ""
    rules: int = 0
    warnings: list[Finding] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    families: frozenset[int] = frozenset()  # of those filter tables that were found


def convert(texts: Sequence[tuple[str, str, int]]) -> Imported:
    """(name, text, family) of each file; the family holds where the text does not say it. Never raises."""
    saves: dict[int, Save] = {}
    for name, text, family in texts:
        parse(name, text, family, saves)
    found = {family: save for family, save in sorted(saves.items()) if save.tables or save.strange}
    sets = Sets()
    filters = {family: Filter(family, save.tables.get("filter", {}), sets) for family, save in found.items()}
    raws = {family: Raw(family, save.tables.get("raw", {}), sets) for family, save in found.items()}
    if not filters:
        filters = {4: Filter(4, {}, sets)}
    merged = merge(filters)
    raw_items = _raw_items(raws)
    imported = Imported(families=frozenset(f for f, save in found.items() if "filter" in save.tables))
    findings = [*_everything_else(found), *(finding for raw in raws.values() for finding in raw.findings)]
    _Writer(
        imported, merged, raw_items, _helpers(raws), sets, findings, filters, [name for name, _, _ in texts]
    ).write()
    return imported


def _raw_items(raws: Mapping[int, Raw]) -> list[Item]:
    """NOTRACK of both families; with two of them each says its own."""
    items: list[Item] = []
    for family, raw in raws.items():
        for item in raw.items:
            item.families = frozenset({family})
            if isinstance(item, Entry) and len(raws) > 1:
                src, dst = item.conditions.get("src"), item.conditions.get("dst")
                if src is None and dst is None:
                    item.conditions["src"] = values([whole(family)])
            items.append(item)
    return items


def _helpers(raws: Mapping[int, Raw]) -> dict[str, list[int]]:
    """Helper -> ports, of both families; a port has one helper."""
    found: dict[str, list[int]] = {}
    taken: set[tuple[int, int]] = set()
    for raw in raws.values():
        for name, ports in raw.helpers.items():
            for port in ports:
                places = {(proto, port) for proto in helper_protocols(name)}
                if port in found.get(name, []):
                    continue
                if taken & places:
                    continue
                taken |= places
                found.setdefault(name, []).append(port)
    return {name: sorted(found[name]) for name in HELPERS if name in found}


def _everything_else(saves: Mapping[int, Save]) -> Iterator[Finding]:
    """Lines that are no rules, other tables, and chains that nobody jumps to."""
    for save in saves.values():
        for line, why in save.strange:
            yield Finding(line, why, opens=True)
        for name, chains in save.tables.items():
            if name in TABLES:
                continue
            every = frozenset(chains)
            for chain in chains.values():
                for line in chain.lines:
                    kind = targets.kind(read(line.words), every)
                    stops = kind == targets.STOPS and name != "nat"
                    why = kept(name) if stops else f"table {name} is not the filter's: it can stay with iptables"
                    yield Finding(line, why, stops)


class _Writer:
    def __init__(
        self,
        imported: Imported,
        merged: Merged,
        raw: list[Item],
        helpers: dict[str, list[int]],
        sets: Sets,
        findings: list[Finding],
        filters: dict[int, Filter],
        files: list[str],
    ) -> None:
        self.imported = imported
        self.merged = merged
        self.raw = raw
        self.helpers = helpers
        self.sets = sets
        self.findings = findings
        self.filters = filters
        self.files = files
        self.used: set[str] = set()
        self.marks: list[int] = []
        every = [*raw, *merged.main, *(item for items in merged.chains.values() for item in items)]
        self.names = document.Names([("", item) for item in every])

    def write(self) -> None:
        main = list(self._items([*self.raw, *self.merged.main], None))
        chains = {name: list(self._items(items, name)) for name, items in self.merged.chains.items()}
        foot = [line for finding in self.findings for line in self._noted(finding, "")]
        body = [*self._conntrack(), *self._reject(), *self._sets(), *self._policy()]
        if chains:
            body += ["", "chains:"]
        for name, lines in chains.items():
            empty = not any(line.lstrip().startswith("-") for line in lines)
            body += lines + [f"  {name}: []"] if empty else [f"  {name}:", *(f"  {line}" for line in lines)]
        ruled = [*self._other_family(), *main]
        body += ["", "rules:" if any(line.startswith("  -") for line in ruled) else "rules: []", *ruled]
        if foot:
            body += ["", "# --- what stands beside the filter " + "-" * 60, *foot]
        for family, one in self.filters.items():
            for name in one.table:
                if name not in one.hooks and name not in BUILTIN and one.table[name].lines:
                    body.append(f"# chain {document.visible(name)} (IPv{family}): no rule jumps to it; left out")
        self.imported.text = "\n".join([*self._head(), *body]) + "\n"

    def _items(self, items: list[Item], chain: str | None) -> Iterator[str]:
        for item in items:
            if isinstance(item, Remark):
                yield from self._noted(item.finding, "  ")
                continue
            for finding in item.findings:
                yield from self._noted(finding, "  ")
            self.imported.rules += 1
            self.used |= document.sets_of(item)
            self.marks += document.marks_of(item)
            hooks = item.conditions.get("chain")
            where = chain or (" ".join(sorted(hooks)).upper() if isinstance(hooks, frozenset) else "rule")
            yield from document.rule(item, self.names.name("raw" if "track" in item.keys else where, item))

    def _noted(self, finding: Finding, indent: str) -> Iterator[str]:
        (self.imported.warnings if finding.opens else self.imported.notes).append(finding)
        return document.remark(finding, indent)

    def _head(self) -> Iterator[str]:
        names = " and ".join(document.visible(name) for name in self.files)
        yield f"# Imported by 'ctfw import iptables-save' from {names}."
        warnings = self.imported.warnings
        if warnings:
            yield "#"
            yield f"# WARNING: {len(warnings)} lines that stop packets, or steer them to what does, are not,"
            yield "# or not fully, carried over. Until you have looked at them more may pass than before:"
            reasons: dict[str, list[Finding]] = {}
            for finding in warnings:
                reasons.setdefault(finding.why, []).append(finding)
            for why, those in list(reasons.items())[:_MOST_REASONS]:
                yield f"# - {document.visible(why)}"
                for finding in those[:_MOST_LINES]:
                    where = f"{document.visible(finding.line.file)}:{finding.line.number}"
                    yield f"#     {where}: {document.visible(finding.line.text)}"
                if len(those) > _MOST_LINES:
                    yield f"#     and {len(those) - _MOST_LINES} lines more"
            if len(reasons) > _MOST_REASONS:
                yield f"# - and {len(reasons) - _MOST_REASONS} reasons more"
        yield "---"
        yield "version: 1"

    def _conntrack(self) -> Iterator[str]:
        if self.helpers:
            yield ""
            yield "conntrack:"
            yield "  helpers:"
            for name, ports in self.helpers.items():
                yield f"    {name}: {document.value([str(port) for port in ports])}"

    def _reject(self) -> Iterator[str]:
        """Another bit for rejected packets when the rules use ours."""
        used = 0
        for mark in self.marks:
            used |= mark
        if used & reject_field(REJECT_BIT) == 0:
            return
        for place in range(31, 2, -1):
            if used & reject_field(1 << place) == 0:
                yield ""
                yield "# The usual bits of the mark are used by the rules below."
                yield "reject:"
                yield f"  mark: {1 << place:#x}"
                return

    def _sets(self) -> Iterator[str]:
        lines = list(document.sets(self.sets.found.values(), self.used))
        if lines:
            yield ""
            yield "sets:"
            yield from lines

    def _policy(self) -> Iterator[str]:
        yield ""
        yield "policy:"
        for hook, verdict in self.merged.policy.items():
            yield f"  {hook}: {verdict}"

    def _other_family(self) -> Iterator[str]:
        """With rules of one family only, the other is decided first, and once."""
        if len(self.filters) == 1:
            (family,) = self.filters
            other = 10 - family
            yield f"  # There were no rules for IPv{other}: what becomes of it is for you to say."
            yield f'  - {{name: no rules for IPv{other}, src: "{ANYWHERE[other]}", verdict: drop}}'
