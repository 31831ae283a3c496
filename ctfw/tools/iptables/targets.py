"""Where a line goes -> what a rule does.

A target either decides (ACCEPT, DROP, REJECT), leaves the chain (RETURN, a jump, a goto), or does something and lets
the packet go on; those become `verdict: continue`. What a packet would get that is handed to another program (QUEUE,
NFQUEUE) or to a target nobody here knows is taken for a drop.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from ctfw.config.values import Wrong, name
from ctfw.tools.iptables import counting
from ctfw.tools.iptables.matches import Caveat, Conditions, Place, mark, show_mark
from ctfw.tools.iptables.names import PASSING, REJECTS
from ctfw.tools.iptables.options import TARGETS, Match, Spec
from ctfw.tools.iptables.values import Cannot, Values

ACCEPTS: Final = "accepts"
STOPS: Final = "stops"  # drops, rejects, or may do so
RETURNS: Final = "returns"
JUMPS: Final = "jumps"
MARKS: Final = "marks"
PASSES: Final = "passes"

_TTL: Final = 366 * 86400


@dataclass
class Effect:
    """What the rule does, as keys of the rule file; `jump` names a chain as iptables calls it."""

    keys: dict[str, object] = field(default_factory=dict)
    jump: str = ""


def kind(spec: Spec, chains: frozenset[str]) -> str:
    """What the target would do to a packet; of lines that cannot be carried over, too."""
    target = spec.target
    if target in chains:
        return JUMPS
    if target in ("ACCEPT", "RETURN", "MARK"):
        return {"ACCEPT": ACCEPTS, "RETURN": RETURNS, "MARK": MARKS}[target]
    return PASSES if target in PASSING else STOPS


def only_logs(spec: Spec) -> bool:
    return spec.target in ("LOG", "NFLOG", "ULOG")


def effect(spec: Spec, place: Place, chains: frozenset[str]) -> Effect:
    """Raises Cannot."""
    target, options = spec.target, spec.options
    if target in chains:
        return Effect(jump=target)
    if options.strange and target in TARGETS:
        raise Cannot(f"-j {target}: there is no counterpart for '--{options.strange[0]}'")
    if target in ("ACCEPT", "DROP", "RETURN"):
        return Effect({"verdict": target.lower()})
    if target == "":
        return Effect({"verdict": "continue"})
    if target == "REJECT":
        return Effect(_reject(options, spec, place))
    if only_logs(spec):
        return Effect(_log(options, place))
    if target == "MARK":
        return Effect({"verdict": "continue", "set_mark": _mark(options)})
    if target == "SET":
        return Effect({"verdict": "continue", "add": _add(options, place)})
    if target in ("QUEUE", "NFQUEUE"):
        raise Cannot("the packet goes to another program; ctfw's own queue comes from 'ctfw hook'")
    if target in PASSING:
        raise Cannot(f"-j {target} is not the filter's business: keep it in iptables, in the mangle table")
    raise Cannot(f"-j {target} is neither a chain nor a target that rules have")


def settle(conditions: Conditions, effect: Effect) -> Conditions:
    """The conditions beside that effect: a log has its own limit, and only tcp can be reset."""
    log = effect.keys.get("log")
    limit = conditions.get("limit")
    if isinstance(log, dict) and isinstance(limit, dict) and not {"per", "over"} & limit.keys():
        log.update({"limit": limit["rate"], "burst": limit["burst"]})
        return {key: value for key, value in conditions.items() if key != "limit"}
    if effect.keys.get("reject_with") == "tcp-reset":
        proto = conditions.get("proto")
        if proto != Values(((6, 6),)) and "tcp_flags" not in conditions:
            raise Cannot("only tcp can be reset")
    return conditions


def _reject(options: Match, spec: Spec, place: Place) -> dict[str, object]:
    option = options.find("reject-with")
    word = option.value.lower() if option is not None else "icmp-port-unreachable"
    if word not in REJECTS:
        raise Cannot(f"there is no answer '{word}'")
    ours, same = REJECTS[word]
    if not same:
        place.caveats.append(Caveat(f"answered with {ours} instead of {word}"))
    return {"verdict": "reject", "reject_with": ours}


def _log(options: Match, place: Place) -> dict[str, object]:
    option = options.find("log-prefix", "nflog-prefix", "ulog-prefix")
    log: dict[str, object] = {}
    if option is not None and option.value.strip():
        prefix = option.value.strip()
        try:
            log["prefix"] = name(prefix, "prefix")
        except Wrong:
            place.caveats.append(Caveat("its prefix holds what a prefix must not"))
    return {"verdict": "continue", "log": log or "on"}


def _mark(options: Match) -> str:
    """MARK takes away the bits of a mask and turns those of a value; a rule can only set them."""
    found: tuple[int, int] | None = None
    for option in options.options:
        if option.name == "xor-mark":
            raise Cannot("rules set bits of the mark, and turn none")
        value, mask = mark(option.value)
        if option.name == "and-mark":
            value, mask = 0, ~value & 0xFFFFFFFF
        elif option.name == "or-mark":
            mask = value
        elif option.name == "set-mark":
            mask |= value
        found = value, mask
    if found is None:
        raise Cannot("MARK without a mark")
    value, mask = found
    if value & ~mask:
        raise Cannot("rules set bits of the mark, and turn none")
    return show_mark(value, mask)


def _add(options: Match, place: Place) -> dict[str, object]:
    option = options.find("add-set")
    if option is None or len(options.options) - options.has("exist") - options.has("timeout") != 1:
        raise Cannot("rules add to a set, and take nothing away")
    set_name, end = [*option.values, "", ""][:2]
    if end not in ("src", "dst"):
        raise Cannot(f"sets of more than addresses ('{end}') have no counterpart")
    found: dict[str, object] = {"set": place.sets.ipset(set_name)[1:], "address": end}
    if place.family == 6:
        found["prefix6"] = "128"
    timeout = options.find("timeout")
    if timeout is not None:
        if re.fullmatch("[0-9]{1,8}", timeout.value) is None or not 1 <= int(timeout.value) <= _TTL:
            raise Cannot(f"a timeout of '{timeout.value}' seconds")
        found["ttl"] = str(int(timeout.value))
    return found


def counted_tables(spec: Spec) -> list[str]:
    """The tables of hashlimit that the line asks, but for one that only logs."""
    return [] if only_logs(spec) else [found for found in map(counting.tables, spec.matches) if found]
