"""What `ctfw hook` does: choose a back end, put a plan into force, take it away, say how it stands.

auto is nft where its `queue` works, found by having nft load the very text in a scratch namespace, else iptables as it
is on the machine.
There is one hook on a machine: an apply takes away what another back end left, after the new one stands; a removal
asks every back end, whatever the rule file says and whether or not there is one.

Nobody heals by himself. The daemon has no right to, on purpose: the program that reads strangers' packets does not also
write the kernel's rules. `ctfw hook status` says what differs, with exit code 1; `ctfw hook apply` puts it right and
touches nothing when nothing differs. So whatever calls the two at intervals, a timer of systemd as a rule, is the
healer, and it leaves a line in the journal when it had something to do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ctfw.service.hook.iptables import Iptables
from ctfw.service.hook.nft import Nft
from ctfw.service.hook.plan import Plan
from ctfw.service.hook.programs import HookError, find

BACKENDS: Final = ("auto", "nft", "iptables", "iptables-nft", "iptables-legacy")

Backend = Nft | Iptables


@dataclass(frozen=True)
class Standing:
    """How the hook stands: ``state`` is complete, incomplete or absent; ``differences`` say why it is not complete."""

    backend: str
    state: str
    differences: list[str]
    passed: dict[str, int]  # packets handed over, by chain, since the rules were made
    notes: list[str]


def choose(name: str, plan: Plan) -> Backend:
    """The back end of that name; for auto the first that can. Raises HookError when it cannot."""
    if name == "auto":
        nft = Nft()
        why = nft.why_not(plan)
        if not why:
            return nft
        iptables = Iptables()
        lacking = iptables.why_not(plan)
        if lacking:
            raise HookError(f"no back end for the hook: {why}; {lacking}")
        return iptables
    backend = backend_named(name)
    why = backend.why_not(plan)
    if why:
        raise HookError(f"back end {name}: {why}")
    return backend


def backend_named(name: str) -> Backend:
    """The back end, whether or not it can work here."""
    return Nft() if name == "nft" else Iptables(name.removeprefix("iptables"))


def in_force(name: str, plan: Plan) -> Backend:
    """The back end whose rules stand now, when ``name`` leaves it open; where there are none, the one to choose."""
    if name == "auto":
        for backend in _installed():
            if backend.is_there():
                return backend
    return choose(name, plan)


def apply(backend: Backend, plan: Plan) -> bool:
    """Put the plan into force; whether anything had to change. Raises HookError, and then nothing has."""
    others = _others(backend)
    strays = [other for other in others if other.is_there()]
    if not strays and backend.is_there() and not backend.differences(plan):
        return False
    backend.apply(plan)
    for other in strays:
        other.remove()
    return True


def remove() -> bool:
    """Take away all that is ours, in every back end; whether there was anything."""
    return any([backend.remove() for backend in _installed()])


def standing(backend: Backend, plan: Plan) -> Standing:
    """Hold what the kernel has against the plan."""
    strays = [f"{other.name}: has rules of ours too" for other in _others(backend) if other.is_there()]
    if not backend.is_there():
        return Standing(backend.name, "absent", [*strays, "nothing is queued"], {}, _notes(backend))
    found = [*strays, *backend.differences(plan)]
    return Standing(backend.name, "incomplete" if found else "complete", found, backend.passed(), _notes(backend))


def _installed() -> list[Backend]:
    """Every back end whose programs are here, each once."""
    found: list[Backend] = [Nft()] if find("nft") else []
    seen: list[tuple[str, ...]] = []
    for suffix in ("-nft", "-legacy", ""):
        iptables = Iptables(suffix)
        if all(find(program) for program in iptables.programs) and iptables.variants() not in seen:
            seen.append(iptables.variants())
            found.append(iptables)
    return found


def _others(backend: Backend) -> list[Backend]:
    if isinstance(backend, Nft):
        return [other for other in _installed() if not isinstance(other, Nft)]
    own = backend.variants()
    return [other for other in _installed() if isinstance(other, Nft) or other.variants() != own]


def _notes(backend: Backend) -> list[str]:
    return backend.notes if isinstance(backend, Iptables) else []
