"""The chains of IPv4 and IPv6 -> one list of rules for each chain, in which a rule for both stands once.

The lists are aligned: equal rules in the same order become one, the others stand between them and get the addresses of
their family as a source, unless their own addresses or ICMP types say it already. A chain that packets of one family
reach only needs none of this. When the jumps of both families together would lead in a circle, each keeps its own
chains. The policies of a chain may differ; then it is drop, and the other family's is a last rule.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from typing import Final

from ctfw.config.rule_checks import CHAINS
from ctfw.ruleset.ruleset import MOST_DEPTH
from ctfw.tools.iptables.chains import HOOK_OF, Entry, Filter, Item, Remark
from ctfw.tools.iptables.matches import Conditions, combine
from ctfw.tools.iptables.save import BUILTIN, Line
from ctfw.tools.iptables.sets import BROADCAST, unique, valid
from ctfw.tools.iptables.values import Never, Values, values, whole

ANYWHERE: Final = {4: "0.0.0.0/0", 6: "::/0"}
_MOST_COMPARED: Final = 20_000_000  # pairs; beyond it only equal beginnings and ends are joined


@dataclass
class Merged:
    main: list[Item] = field(default_factory=list)
    chains: dict[str, list[Item]] = field(default_factory=dict)  # by their names in the rule file
    policy: dict[str, str] = field(default_factory=dict)


def merge(filters: dict[int, Filter]) -> Merged:
    """`filters` by family, one or two of them."""
    merged = Merged()
    together = _fits(filters)
    names = _names(filters, together)
    for builtin in BUILTIN:
        policies = {family: one.policy(builtin) for family, one in filters.items()}
        differ = len(set(policies.values())) > 1
        merged.policy[HOOK_OF[builtin]] = "drop" if differ else next(iter(policies.values()))
        lists = {family: _renamed(one.items.get(builtin, []), family, names) for family, one in filters.items()}
        if differ:
            for family, items in lists.items():
                lists[family] = [_without_return(item, policies[family]) for item in items]
        merged.main += _join(lists, len(filters) > 1)
        for family, policy in policies.items():
            if differ and policy == "accept":
                line = Line("", 0, "", (), 0)
                last = Entry(line, {"chain": frozenset({HOOK_OF[builtin]}), "src": values([whole(family)])}, {})
                last.keys["verdict"] = "accept"
                last.comment = f"policy of {builtin} for IPv{family}"
                merged.main.append(last)
    for family, one in filters.items():
        for name in one.items:
            if name in BUILTIN or names[family, name] in merged.chains:
                continue
            users = {
                other: _renamed(two.items[name], other, names)
                for other, two in filters.items()
                if (together or other == family) and name in two.items
            }
            merged.chains[names[family, name]] = _join(users, len(users) > 1)
    return merged


def _names(filters: dict[int, Filter], together: bool) -> dict[tuple[int, str], str]:
    """The name in the rule file of every chain of every family."""
    taken: set[str] = set(CHAINS)
    found: dict[tuple[int, str], str] = {}
    for family, one in filters.items():
        for name in one.items:
            if name in BUILTIN:
                continue
            before = found.get((4, name)) if together else None
            found[family, name] = before if before is not None else unique(valid(name, "chain"), taken)
    return found


def _fits(filters: dict[int, Filter]) -> bool:
    """Can chains of the same name be one? Not when their jumps together lead in a circle or too deep."""
    jumps: dict[str, set[str]] = {}
    for one in filters.values():
        for name, items in one.items.items():
            jumps.setdefault(name, set()).update(i.jump for i in items if isinstance(i, Entry) and i.jump)
    heights: dict[str, int] = {}
    waiting = [name for name in jumps if name not in BUILTIN]
    while waiting:
        left = []
        for name in waiting:
            below = [heights.get(target, -1) for target in jumps[name]]
            if -1 in below:
                left.append(name)
            else:
                heights[name] = max(below, default=-1) + 1
        if len(left) == len(waiting):
            return False
        waiting = left
    return all(height < MOST_DEPTH for height in heights.values())


def _renamed(items: list[Item], family: int, names: dict[tuple[int, str], str]) -> list[Item]:
    families = frozenset({family})
    found: list[Item] = []
    for item in items:
        if isinstance(item, Entry):
            jump = names[family, item.jump] if item.jump else ""
            found.append(replace(item, jump=jump, families=families))
        else:
            found.append(Remark(item.finding, families))
    return found


def _without_return(item: Item, policy: str) -> Item:
    """RETURN in a chain of the kernel's is its policy, which is not that of the file."""
    if isinstance(item, Entry) and item.keys.get("verdict") == "return":
        return replace(item, keys={**item.keys, "verdict": policy})
    return item


def _join(lists: dict[int, list[Item]], shared: bool) -> list[Item]:
    """One list from those of the families. `shared`: packets of both get here."""
    if not shared:
        return [item for items in lists.values() for item in items]
    first, second = lists[4], lists[6]
    found: list[Item] = []
    for what, a, b, c, d in _aligned([item.same() for item in first], [item.same() for item in second]):
        if what == "equal":
            found += [_of_both(one, other) for one, other in zip(first[a:b], second[c:d], strict=True)]
        else:
            found += _restricted(first[a:b], 4)
            found += _restricted(second[c:d], 6)
    return found


def _aligned(first: Sequence[str | int], second: Sequence[str | int]) -> list[tuple[str, int, int, int, int]]:
    if len(first) * len(second) <= _MOST_COMPARED:
        return SequenceMatcher(None, first, second, autojunk=False).get_opcodes()  # type: ignore[return-value]
    begin, most = 0, min(len(first), len(second))
    while begin < most and first[begin] == second[begin]:
        begin += 1
    end = 0
    while end < most - begin and first[-1 - end] == second[-1 - end]:
        end += 1
    a, b = len(first) - end, len(second) - end
    middle = ("replace", begin, a, begin, b)
    return [("equal", 0, begin, 0, begin), middle, ("equal", a, len(first), b, len(second))]


def _of_both(one: Item, other: Item) -> Item:
    if isinstance(one, Entry) and isinstance(other, Entry):
        findings = [*one.findings, *other.findings]
        return replace(one, families=one.families | other.families, findings=findings)
    return replace(one, families=one.families | other.families)


def _restricted(items: list[Item], family: int) -> list[Item]:
    found: list[Item] = []
    for item in items:
        if isinstance(item, Entry) and not _says_family(item, family):
            try:
                found.append(replace(item, conditions=_with_family(item, family)))
            except Never:  # it can match nothing
                continue
        else:
            found.append(item)
    return found


def _says_family(entry: Entry, family: int) -> bool:
    if ("icmp" if family == 4 else "icmpv6") in entry.conditions:
        return True
    return any(_of_family(entry.conditions.get(key)) for key in ("src", "dst"))


def _of_family(value: object) -> bool:
    """Does this ask for addresses of one family, whatever they are? (There is no broadcast in IPv6.)"""
    if not isinstance(value, Values) or value.wanted is None:
        return False
    return all(isinstance(member, tuple) or member == f"${BROADCAST}" for member in value.wanted)


def _with_family(entry: Entry, family: int) -> Conditions:
    key = "src" if "src" in entry.conditions or "dst" not in entry.conditions else "dst"
    return combine(entry.conditions, {key: values([whole(family)])})
