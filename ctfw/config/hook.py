"""The section `hook`: what `ctfw hook` makes kernel rules of, beside what the queue and the failure policy say.

Everything here ends up in the text of a root's program, one rule a member. So names are limited to what every such
program takes literally, and lists to what an admin writes by hand.
"""

import ipaddress
import re
from dataclasses import dataclass

from ctfw.config.problems import Report, quote
from ctfw.config.walk import Fields
from ctfw.packet import FORWARD, INPUT, OUTPUT

MAX_NETWORKS = 64  # whose SSH is kept, in CIDR form
MAX_PORTS = 15  # what one iptables rule takes
SSH = 22

_LITERAL = re.compile(r"[A-Za-z0-9._@-]+\+?")


@dataclass(frozen=True)
class Hook:
    """``chains`` are numbers of ctfw.packet; ``ssh_from`` networks in CIDR form, none of them: SSH is queued too."""

    chains: tuple[int, ...] = (INPUT, FORWARD, OUTPUT)
    leave_alone: tuple[str, ...] = ()
    ssh_from: tuple[str, ...] = ()
    ssh_ports: tuple[int, ...] = (SSH,)
    reject: bool = True


def read_hook(fields: Fields, report: Report) -> Hook:
    """The section's fields -> Hook; what is wrong with it is reported."""
    mask = fields.get("chains")
    chains = tuple(hook for hook in (INPUT, FORWARD, OUTPUT) if mask is None or mask >> hook & 1)
    if (INPUT in chains) != (OUTPUT in chains):
        half, other = ("input", "output") if INPUT in chains else ("output", "input")
        message = f"chain {half} without {other}: ctfw sees one half of the gateway's own connections"
        report.warning(fields.place("chains"), message, f"add {other}, or leave out {half}")
    ssh: Fields | None = fields.get("keep_ssh")
    return Hook(
        chains,
        _leave_alone(fields, report) if "leave_alone" in fields.values else (),
        _networks(ssh, report) if ssh is not None and "from" in ssh.values else (),
        _ports(ssh, report) if ssh is not None else (SSH,),
        bool(fields.get("reject", True)),
    )


def _leave_alone(fields: Fields, report: Report) -> tuple[str, ...]:
    place, names = fields.place("leave_alone"), fields.get("leave_alone")
    if names is None or "+" in names.names or names.negated:
        report.error(place, "interfaces to leave alone are named one by one", "as in 'leave_alone: [docker0, veth+]'")
        return ()
    for name in names.names:
        if _LITERAL.fullmatch(name) is None:
            report.error(place, f"{quote(name)} cannot stand in kernel rules", "letters, digits, '.', '_', '-' and '@'")
    return tuple(names.names)


def _networks(ssh: Fields, report: Report) -> tuple[str, ...]:
    place, match = ssh.place("from"), ssh.get("from")
    if match.compiled is None:
        report.error(place, "any network's SSH past the rules", "name the networks that you administer from")
        return ()
    if getattr(match, "tree", None) is not None:
        report.error(place, "a set that changes at run time cannot stand in kernel rules", "name networks")
        return ()
    found: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for first, last in match.compiled.intervals():
        found += ipaddress.summarize_address_range(ipaddress.ip_address(first), ipaddress.ip_address(last))
        if len(found) > MAX_NETWORKS:
            report.error(place, f"more than {MAX_NETWORKS} networks", "each becomes a kernel rule: name larger ones")
            return ()
    return tuple(str(network) for network in found)


def _ports(ssh: Fields, report: Report) -> tuple[int, ...]:
    ports = tuple(ssh.get("port", [SSH]))
    if len(ports) > MAX_PORTS:
        report.error(ssh.place("port"), f"more than {MAX_PORTS} ports")
    return ports
