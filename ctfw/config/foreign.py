"""Words that people bring from other firewalls, and ours for them.

iptables' words mostly mean the same here (`state: ESTABLISHED,RELATED` and `verdict: ACCEPT` are taken as they are).
Where the name differs, the hint is the name; where the thing is said otherwise or not done here at all, a sentence.
"""

from collections.abc import Collection
from typing import Final

from ctfw.config.problems import clean, quote

# Keys with another name: iptables' options and matches, nft's expressions, and what other tools' files call them.
KEYS: Final = {
    "action": "verdict", "j": "verdict", "target": "verdict",
    "ctdir": "direction", "ctstate": "state", "ctstatus": "status", "conntrack": "state",
    "d": "dst", "daddr": "dst", "destination": "dst", "dest": "dst", "dst-range": "dst", "ip daddr": "dst",
    "ip6 daddr": "dst", "s": "src", "saddr": "src", "source": "src", "src-range": "src", "ip saddr": "src",
    "ip6 saddr": "src", "iprange": "src", "match-set": "src",
    "destination-port": "dport", "destination-ports": "dport", "dports": "dport", "multiport": "dport", "port": "dport",
    "ports": "dport", "service": "dport", "tcp dport": "dport", "udp dport": "dport",
    "source-port": "sport", "source-ports": "sport", "sports": "sport", "tcp sport": "sport", "udp sport": "sport",
    "i": "in", "iif": "in", "iifname": "in", "in-interface": "in", "indev": "in", "interface": "in",
    "o": "out", "oif": "out", "oifname": "out", "out-interface": "out", "outdev": "out",
    "p": "proto", "protocol": "proto", "l4proto": "proto", "meta l4proto": "proto",
    "icmp-type": "icmp", "icmpv6-type": "icmpv6", "flags": "tcp_flags", "tcp-flags": "tcp_flags",
    "tcp flags": "tcp_flags",
    "f": "fragment", "hl": "ttl", "hoplimit": "ttl", "tos": "dscp", "mac-source": "mac", "ether saddr": "mac",
    "goto": "jump", "notrack": "track", "reject-with": "reject_with", "set-mark": "set_mark", "set-xmark": "set_mark",
    "connbytes-bytes": "connbytes", "schedule": "time", "when": "time", "ct state": "state", "ct status": "status",
    "ct mark": "mark", "connmark": "mark", "hashlimit": "limit", "log-prefix": "log", "chains": "chain",
    "hook": "chain",
    "timeouts": "tcp_timeout_established", "description": "comment", "desc": "comment", "id": "name",
    "default": "policy", "policies": "policy", "objects": "sets", "aliases": "sets", "groups": "sets", "ipsets": "sets",
    "filter": "rules", "include_dir": "include", "src": "from", "dst": "to", "from": "src", "to": "dst",
}  # fmt: skip

# Keys that are no single key here: what to write instead. In a rule only, but for the last ones.
PHRASES: Final = {
    "a": "iptables' -A is 'chain: input', 'forward' or 'output'; a chain of one's own stands under 'chains:'",
    "m": "matches need no module here: write the match itself, as 'state: NEW'",
    "match": "write each match as a key of the rule, as 'proto: tcp'",
    "syn": "write 'state: NEW', or 'tcp_flags: syn'",
    "limit-burst": "write 'limit: {rate: 10/second, burst: 20}'",
    "limit_burst": "write 'limit: {rate: 10/second, burst: 20}'",
    "burst": "write 'limit: {rate: 10/second, burst: 20}'",
    "connlimit-above": "write 'connlimit: {above: 10}'",
    "connlimit-upto": "write 'connlimit: {upto: 10}'",
    "hashlimit-above": "write 'limit: {rate: 10/second, per: src, over: on}'",
    "hashlimit-upto": "write 'limit: {rate: 10/second, per: src}'",
    "recent": "write 'add: {set: seen, ttl: 1m}' in one rule, and 'src: $seen' in another",
    "log-level": "a log line has the level of the journal; 'log: {prefix: …}' marks it",
    "counter": "every rule counts",
    "timestart": "write 'time: {hours: 08:00-18:00}'",
    "weekdays": "write 'time: {days: mon-fri}'",
    "family": "a rule holds for IPv4 and IPv6; an address, 'icmp' or 'icmpv6' names one of them",
    "table": "there is one table; NAT and mangling stay with the kernel's",
    "to-destination": "ctfw does not translate addresses: keep that rule in iptables or nft, in front of ctfw",
    "to-source": "ctfw does not translate addresses: keep that rule in iptables or nft, behind ctfw",
    "uid-owner": "the owner of a connection is not known here; match its address or port",
    "string": "ctfw does not look into what packets carry",
    "app": "ctfw sees packets, not programs; match the port",
}

_REJECT: Final = "write 'verdict: reject'"
_NAT: Final = "ctfw does not translate addresses: keep that rule in iptables or nft"

# What stands after -j, and is no verdict here.
VERDICTS: Final = {
    "allow": "write 'verdict: accept'",
    "pass": "write 'verdict: accept'",
    "permit": "write 'verdict: accept'",
    "ok": "write 'verdict: accept'",
    "deny": "write 'verdict: drop', or 'reject' to answer",
    "block": "write 'verdict: drop', or 'reject' to answer",
    "discard": "write 'verdict: drop'",
    "refuse": _REJECT,
    "log": "write 'verdict: continue' with 'log: true', or 'log' beside the rule's own verdict",
    "nflog": "write 'verdict: continue' with 'log: true', or 'log' beside the rule's own verdict",
    "ulog": "write 'verdict: continue' with 'log: true', or 'log' beside the rule's own verdict",
    "mark": "write 'verdict: continue' with 'set_mark: 0x10'",
    "connmark": "write 'verdict: continue' with 'set_mark: 0x10'; marks of connections are the kernel's",
    "set": "write 'verdict: continue' with 'add: {set: …}'",
    "notrack": "write 'track: none' instead of 'verdict'",
    "ct": "write 'track: none' instead of 'verdict'",
    "queue": "packets come from the queue already; they go on with accept or drop",
    "nfqueue": "packets come from the queue already; they go on with accept or drop",
    "masquerade": _NAT,
    "snat": _NAT,
    "dnat": _NAT,
    "redirect": _NAT,
    "netmap": _NAT,
    "tcpmss": "ctfw does not change packets: keep that rule in iptables or nft",
    "jump": "write 'jump: …' with the chain's name instead of 'verdict'",
    "goto": "write 'jump: …' with the chain's name instead of 'verdict'",
}

_SYSCTL: Final = "nf_conntrack_"


def key_hint(word: str, known: Collection[str]) -> str:
    """What to write for a key that is not one of these; "" when it is none of others' words either."""
    if word == "<<":
        return "merge keys are not read; write the keys out"
    bare = word.lower().lstrip("-! ")
    ours = KEYS.get(bare, word.removeprefix(_SYSCTL))
    if ours != word and ours in known:
        return f"did you mean {quote(ours)}?"
    if bare != word and bare in known:
        return f"did you mean {quote(bare)}?"
    return PHRASES.get(bare, "") if "verdict" in known else ""


def verdict_hint(text: str) -> str:
    """What to write for a verdict of others; "" when it is none of theirs."""
    word, _, rest = text.partition(" ")
    word = word.lower()
    if word in ("jump", "goto") and rest:
        return f"write 'jump: {clean(rest.strip())}' instead of 'verdict'"
    if word == "reject" and rest:
        return "write 'verdict: reject' and 'reject_with: …'"
    return VERDICTS.get(word, "")
