"""Random conversations with the kernel as the judge, as many as wanted.

    PYTHONPATH=tests python -m kernel.oracle fuzz 20000 --seed 7 [--family 6] [--kind tcp]
    PYTHONPATH=tests python -m kernel.oracle expire 2000
    PYTHONPATH=tests python -m kernel.oracle show SEED/FAMILY/GROUP/NUMBER

``fuzz`` holds them in groups, each under knobs of its own; ``expire`` under time-outs of a few seconds, with pauses, so
that connections end between two packets. Differences are printed, made short, under the name that ``show`` takes. Exit
status 1 when there are any.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Final

from kernel import conversations
from kernel.adapter import Engine
from kernel.compare import Counts, Talked, hold, in_time, minimise, pair
from kernel.conversations.step import Conversation
from kernel.gateway import Gateway

GROUP: Final = 16
EXPIRING: Final = 150
PAUSE: Final = 0.6  # no sum of pauses comes near to one of the time-outs below

Knobs = dict[str, int]

_TIMEOUTS: Final = (
    "tcp_timeout_syn_sent", "tcp_timeout_syn_recv", "tcp_timeout_established", "tcp_timeout_fin_wait",
    "tcp_timeout_close_wait", "tcp_timeout_last_ack", "tcp_timeout_time_wait", "tcp_timeout_close",
    "tcp_timeout_max_retrans", "tcp_timeout_unacknowledged", "udp_timeout", "udp_timeout_stream", "icmp_timeout",
    "icmpv6_timeout", "generic_timeout", "gre_timeout", "gre_timeout_stream", "sctp_timeout_closed",
    "sctp_timeout_cookie_wait", "sctp_timeout_cookie_echoed", "sctp_timeout_established", "sctp_timeout_shutdown_sent",
    "sctp_timeout_shutdown_recd", "sctp_timeout_shutdown_ack_sent", "sctp_timeout_heartbeat_sent",
)  # fmt: skip


def knobs_of(rng: Random) -> Knobs:
    """The kernel's defaults, half the time; or some that change what is judged, or every time-out another."""
    if rng.random() < 0.4:
        return {}
    knobs: Knobs = {}
    if rng.random() < 0.3:
        knobs["tcp_be_liberal"] = 1
    if rng.random() < 0.3:
        knobs["tcp_loose"] = 0
    if rng.random() < 0.3:
        knobs["tcp_ignore_invalid_rst"] = 1
    if rng.random() < 0.3:
        knobs["tcp_max_retrans"] = rng.choice((0, 1, 2, 5))
    if rng.random() < 0.15:
        knobs["checksum"] = 0
    if rng.random() < 0.4:
        for number, name in enumerate(rng.sample(_TIMEOUTS, len(_TIMEOUTS))):
            knobs[name] = 100 + 7 * number
    return knobs


def group(name: str, kind: str = "") -> tuple[Knobs, list[Conversation]]:
    """The group of conversations that has this name, SEED/FAMILY/GROUP, and its knobs."""
    ipv6 = name.split("/")[1] == "6"
    knobs = knobs_of(Random(name))
    if kind == "udplite":
        knobs["checksum"] = 0
    checksum = knobs.get("checksum", 1) != 0
    held = [conversations.random(Random(f"{name}/{at}"), pair(at, ipv6), kind, checksum) for at in range(GROUP)]
    return knobs, held


def expiring(name: str, size: int = EXPIRING) -> tuple[Knobs, list[Conversation]]:
    """The like, to be held with pauses, under time-outs that are shorter than a conversation.

    Without two kinds: an expired control connection of PPTP ends its call where the kernel happens to find it
    (docs/deviations.md), and among the odd packets are some that never come to the queue: waiting for them takes time.
    """
    rng = Random(name)
    ipv6 = name.split("/")[1] == "6"
    knobs = {knob: rng.choice((1, 1, 2, 2, 4)) for knob in _TIMEOUTS}
    kinds = [kind for kind in conversations.KINDS if kind not in ("pptp", "odd")]
    weights = [conversations.KINDS[kind][0] for kind in kinds]
    drawn = [(Random(f"{name}/{at}"), pair(at, ipv6), rng.choices(kinds, weights)[0]) for at in range(size)]
    return knobs, [conversations.random(*one)[:12] for one in drawn]


def fuzz(gateway: Gateway, engine: Engine, names: Iterator[str], kind: str, counts: Counts) -> Iterator[Talked]:
    """The conversations of these groups that differ, made short, each with its name in front."""
    for name in names:
        knobs, held = group(name, kind)
        for at, talk in enumerate(hold(gateway, engine, held, knobs, counts=counts)):
            if talk.difference:
                short = minimise(gateway, engine, talk.steps, at, knobs)
                short = short if short.difference else talk
                short.log.insert(0, f"{name}/{at} {kind} knobs {knobs}")
                yield short


def expire(gateway: Gateway, engine: Engine, names: Iterator[str], counts: Counts) -> Iterator[Talked]:
    """The same with pauses, and not made short."""
    for name in names:
        knobs, held = expiring(name)
        for at, talk in enumerate(in_time(partial(hold, gateway, engine, held, counts=counts), knobs, PAUSE)):
            if talk.difference:
                talk.log.insert(0, f"{name}/{at} knobs {knobs}")
                yield talk


def _names(seed: str, families: str, number: int) -> Iterator[str]:
    return (f"{seed}/{family}/{at}" for at in range(number) for family in families)


def main() -> int:
    parser = argparse.ArgumentParser(prog="kernel.oracle", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["fuzz", "expire", "show"])
    parser.add_argument("argument", help="how many conversations of each family; or which one")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--family", choices=["4", "6", "46"], default="46")
    parser.add_argument("--kind", choices=sorted(conversations.KINDS), default="")
    parser.add_argument("--most", type=int, default=5, help="differences to print before it stops")
    options = parser.parse_args()
    engine = Engine(follow_sysctls=False)
    counts = Counts()
    began = time.monotonic()
    differing = 0
    with Gateway() as gateway:
        if options.what == "show":
            name, _, number = options.argument.rpartition("/")
            knobs, held = group(name, options.kind)
            talk = hold(gateway, engine, [[]] * int(number) + [held[int(number)]], knobs)[int(number)]
            print(f"knobs {knobs}\n{talk}")
            return bool(talk.difference)
        wanted = int(options.argument)
        if options.what == "fuzz":
            found = fuzz(
                gateway, engine, _names(options.seed, options.family, -(-wanted // GROUP)), options.kind, counts
            )
        else:
            found = expire(gateway, engine, _names(options.seed, options.family, -(-wanted // EXPIRING)), counts)
        for talk in found:
            differing += 1
            print(talk, flush=True)
            if differing == options.most:
                break
    took = time.monotonic() - began
    states = ", ".join(f"{state or 'unseen'} {number}" for state, number in sorted(counts.states.items()))
    print(
        f"{counts.conversations} conversations, {counts.packets} packets ({states}), {took:.0f} s; {differing} differ"
    )
    return bool(differing)


if __name__ == "__main__":
    sys.exit(main())
