"""The section `offload`: the bit of the mark by which the kernel knows the connections that rules hand to it.

It is ctfw's own from the moment that a rule offloads; without one the file may use it as it likes. Zones are refused
beside it: the kernel tells connections of two zones apart only when it was given zones too.
"""

from collections.abc import Collection

from ctfw.config.problems import Report
from ctfw.config.walk import Fields
from ctfw.ruleset.marks import OFFLOAD_BIT, reject_field


def read_offload(fields: Fields, rules: Collection[Fields], reject_bit: int, report: Report) -> int:
    """The bit, of the whole file's fields; what stands against offloading is reported."""
    given = fields.get("offload")
    section = given if isinstance(given, Fields) else Fields(fields.node)
    bit: int = section.get("mark", OFFLOAD_BIT)
    offloading = next((rule for rule in rules if rule.get("offload")), None)
    if offloading is None:
        return bit
    if bit & reject_field(reject_bit):
        place = section.place("mark") if "mark" in section.keys else offloading.place("offload")
        message = f"the bit {bit:#x} of the mark says already how a packet is rejected"
        report.error(place, message, "choose another, as in 'offload: {mark: 0x100}'")
    conntrack = fields.get("conntrack")
    if isinstance(conntrack, Fields) and conntrack.get("zones"):
        message = "'offload' in a file with zones: the kernel does not know ctfw's zones"
        report.error(offloading.place("offload"), message, "leave one of them out")
    return bit
