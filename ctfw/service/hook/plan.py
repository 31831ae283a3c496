"""What the kernel's rules shall do, as the rule file says it, before any back end puts it into its own words.

A plan is data: the same file gives the same plan on every machine, and the same plan gives the same rules. It knows
nothing of nft or iptables, and nothing of what stands in the kernel now.

Where the queue may stand is arithmetic on priorities, and it is here because every back end must agree on it. The
addresses of a connection have to be each other's inverse in both directions, also when this kernel translates them.
For what the gateway itself sends and receives, the kernel translates the destination in OUTPUT at -100 and undoes that
for the answer in INPUT at 100. So INPUT and OUTPUT lie on one side: either both see the addresses of the network (INPUT
before 100, OUTPUT after -100), or both see those of the gateway's own programs (INPUT after 100, OUTPUT before -100).
FORWARD lies between all translations and may have any priority.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from ctfw.config import Config
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.ruleset.marks import reject_field

NAT_OUTPUT: Final = -100  # NF_IP_PRI_NAT_DST
NAT_INPUT: Final = 100  # NF_IP_PRI_NAT_SRC
LOOPBACK: Final = "lo"


@dataclass(frozen=True)
class Plan:
    """``chains`` are numbers of ctfw.packet; a ``+`` at the end of a name in ``leave_alone`` is a wildcard."""

    queue: int = 0
    workers: int = 1  # one queue each, from ``queue`` on
    bypass: bool = False  # nobody listens: accept
    chains: tuple[int, ...] = (INPUT, FORWARD, OUTPUT)
    leave_alone: tuple[str, ...] = ()
    ssh_from: tuple[str, ...] = ()  # networks in CIDR form
    ssh_ports: tuple[int, ...] = (22,)
    reject_bit: int = 0  # of the mark; 0: nothing is rejected
    offload_bit: int = 0  # of the mark, the packet's and the connection's; 0: nothing is offloaded

    @property
    def queues(self) -> range:
        """All of them."""
        return range(self.queue, self.queue + self.workers)

    @property
    def field(self) -> int:
        """The bits of the mark that say how a packet is rejected; 0 without rejection."""
        return int(reject_field(self.reject_bit)) if self.reject_bit else 0

    @property
    def own(self) -> int:
        """All bits of a packet's mark that are ours: what nobody else may bring to the queue."""
        return self.field | self.offload_bit

    @property
    def chain_names(self) -> tuple[str, ...]:
        """As the rule file calls them."""
        return tuple(HOOK_NAMES[chain] for chain in self.chains)

    def without_reject(self) -> Plan:
        """The same where nothing can answer for us: ctfw then drops what its rules reject."""
        return replace(self, reject_bit=0)

    def ssh(self, family: int) -> list[str]:
        """The networks of one family, 4 or 6, whose SSH never goes through the queue."""
        return [network for network in self.ssh_from if (":" in network) == (family == 6)]


def make_plan(config: Config, queue: int | None = None) -> Plan:
    """The plan of a rule file; ``queue`` is the command line's word, which goes before the file's."""
    hook = config.hook
    return Plan(
        queue=config.queue if queue is None else queue,
        workers=config.workers,
        bypass=config.failure["no_listener"] == "accept",
        chains=hook.chains,
        leave_alone=hook.leave_alone,
        ssh_from=hook.ssh_from,
        ssh_ports=hook.ssh_ports,
        reject_bit=int(config.ruleset.reject_bit) if hook.reject else 0,
        offload_bit=int(config.ruleset.offload_bit) if FORWARD in hook.chains else 0,
    )


def is_one_sided(input_priority: int, output_priority: int) -> bool:
    """True when INPUT and OUTPUT lie on the same side of address translation."""
    outside = input_priority < NAT_INPUT and output_priority > NAT_OUTPUT
    inside = input_priority > NAT_INPUT and output_priority < NAT_OUTPUT
    return outside or inside
