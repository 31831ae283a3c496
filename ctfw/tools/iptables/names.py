"""iptables' words for numbers, where they are not those of rule files, or mean something else there.

iptables-save prints numbers for most; what people write by hand has names.
"""

from typing import Final

from ctfw.config.names import ICMP, ICMPV6, PROTOCOLS, SERVICES

# As in /etc/protocols, for what iptables-save prints by name.
MORE_PROTOCOLS: Final = {
    **PROTOCOLS,
    "hopopt": 0, "ggp": 3, "st": 5, "igp": 9, "pup": 12, "hmp": 20, "xns-idp": 22, "rdp": 27, "iso-tp4": 29, "xtp": 36,
    "ddp": 37, "idpr-cmtp": 38, "ipv6-route": 43, "ipv6-frag": 44, "idrp": 45, "skip": 57, "ipv6-nonxt": 59,
    "ipv6-opts": 60, "rspf": 73, "vmtp": 81, "ospfigp": 89, "ax.25": 93, "encap": 98, "carp": 112, "isis": 124,
    "fc": 133, "mobility-header": 135, "ipv6-mh": 135, "mh": 135, "manet": 138, "hip": 139, "shim6": 140, "wesp": 141,
    "rohc": 142, "icmp6": 58, "ip": 0,
}  # fmt: skip

MORE_ICMP: Final[dict[str, tuple[int, int | None]]] = {
    **ICMP,
    "tos-network-unreachable": (3, 11),
    "tos-host-unreachable": (3, 12),
    "host-precedence-violation": (3, 14),
    "precedence-cutoff": (3, 15),
    "network-redirect": (5, 0),
    "host-redirect": (5, 1),
    "tos-network-redirect": (5, 2),
    "tos-host-redirect": (5, 3),
    "ip-header-bad": (12, 0),
    "required-option-missing": (12, 1),
}
MORE_ICMPV6: Final[dict[str, tuple[int, int | None]]] = {**ICMPV6, "unknown-header": (4, 1)}

PORTS: Final = SERVICES

# -j REJECT --reject-with: its words -> ours, and whether ours is the same.
REJECTS: Final[dict[str, tuple[str, bool]]] = {
    "icmp-port-unreachable": ("port-unreachable", True),
    "port-unreach": ("port-unreachable", True),
    "icmp-host-unreachable": ("host-unreachable", True),
    "host-unreach": ("host-unreachable", True),
    "icmp-net-unreachable": ("no-route", True),
    "net-unreach": ("no-route", True),
    "icmp-proto-unreachable": ("port-unreachable", False),
    "proto-unreach": ("port-unreachable", False),
    "icmp-admin-prohibited": ("admin-prohibited", True),
    "admin-prohib": ("admin-prohibited", True),
    "icmp-host-prohibited": ("admin-prohibited", False),
    "host-prohib": ("admin-prohibited", False),
    "icmp-net-prohibited": ("admin-prohibited", False),
    "net-prohib": ("admin-prohibited", False),
    "icmp6-no-route": ("no-route", True),
    "no-route": ("no-route", True),
    "icmp6-adm-prohibited": ("admin-prohibited", True),
    "adm-prohibited": ("admin-prohibited", True),
    "icmp6-addr-unreachable": ("host-unreachable", True),
    "addr-unreach": ("host-unreachable", True),
    "icmp6-port-unreachable": ("port-unreachable", True),
    "icmp6-policy-fail": ("admin-prohibited", False),
    "policy-fail": ("admin-prohibited", False),
    "icmp6-reject-route": ("admin-prohibited", False),
    "reject-route": ("admin-prohibited", False),
    "tcp-reset": ("tcp-reset", True),
    "tcp-rst": ("tcp-reset", True),
}

# Matches that have no counterpart: why, or what to use instead.
NO_MATCH: Final = {
    "recent": "its lists of addresses have no counterpart; a dynamic set with 'add', or 'limit' with 'per: src', does "
    "what they are used for",
    "owner": "packets in the queue do not say whose socket they come from",
    "cgroup": "packets in the queue do not say whose socket they come from",
    "socket": "ctfw knows nothing of the gateway's sockets",
    "physdev": "ctfw sees the bridge as one interface, not its ports",
    "pkttype": "how the frame was addressed is not known; 'dst: 224.0.0.0/4' is multicast",
    "connmark": "connections have no mark in ctfw",
    "connlabel": "connections have no labels in ctfw",
    "policy": "whether a packet came by IPsec is not known",
    "string": "rules do not look into what packets carry",
    "u32": "rules do not look into what packets carry",
    "bpf": "rules run no programs",
    "statistic": "rules know no chance",
    "quota": "rules have no quota",
    "rpfilter": "reverse path filtering is the kernel's: net.ipv4.conf.*.rp_filter",
    "realm": "routing realms are not known",
    "devgroup": "groups of interfaces are not known; name them with 'in' and 'out'",
    "tos": "of the TOS byte a rule asks the DSCP, with 'dscp'",
    "ecn": "rules do not ask about ECN",
    "esp": "rules do not ask for an SPI",
    "ah": "rules do not ask for an SPI",
    "tcpmss": "rules do not ask for TCP's options",
    "rt": "rules do not ask about extension headers",
    "frag": "rules do not ask about extension headers; 'fragment: on' is any fragment",
    "hbh": "rules do not ask about extension headers",
    "dst": "rules do not ask about extension headers",
    "ipv6header": "rules do not ask about extension headers",
    "mh": "rules do not ask about extension headers",
    "srh": "rules do not ask about extension headers",
    "eui64": "rules do not compare an address with the MAC",
    "osf": "rules do not guess operating systems",
    "geoip": "rules know no countries; a set from a file of networks does",
    "nfacct": "it counts for itself; each rule of ctfw has counters",
}

# Targets that let the packet go on: what they do is not the filter's.
PASSING: Final = {
    "TCPMSS", "TRACE", "AUDIT", "CONNMARK", "CLASSIFY", "SECMARK", "CONNSECMARK", "CHECKSUM", "IDLETIMER", "LED",
    "RATEEST", "TEE", "TOS", "DSCP", "TTL", "HL", "ECN", "TCPOPTSTRIP", "HMARK", "NOTRACK", "CT", "SET", "MARK", "LOG",
    "NFLOG", "ULOG", "",
}  # fmt: skip
