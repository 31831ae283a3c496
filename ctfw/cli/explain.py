"""`ctfw explain`: what a packet would get, and every step of the way there.

The packet is said in words, or it is a frame of a capture, whose other frames are judged first. The firewall is one of
its own (rules from a file, an empty table, `--after` fills it), or with `--live` the running one: it is asked over the
control socket, and nothing in it changes.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable
from itertools import islice
from typing import Any

from ctfw import config
from ctfw.cli.problems import print_problems
from ctfw.cli.rules import DEFAULT_PATH
from ctfw.cli.socket_option import add_socket
from ctfw.config.packet_words import PacketError, Wording, parse
from ctfw.config.problems import Problem
from ctfw.config.values import Wrong, duration
from ctfw.conntrack.tracker import ConnTrack
from ctfw.engine import Engine
from ctfw.nfqueue import UNVERIFIED, VERIFIED
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.service.client import Client, socket_path
from ctfw.service.record import Annotation
from ctfw.tools import explain
from ctfw.tools.build_packet import Talk
from ctfw.tools.capture import CaptureError, open_capture, read
from ctfw.tools.explain import Situation
from ctfw.tools.replay import Replay
from ctfw.tools.rule_tests import SECOND, START, situation

CHAINS = (HOOK_NAMES[INPUT], HOOK_NAMES[FORWARD], HOOK_NAMES[OUTPUT])
MAX_WAIT = 366 * 86400


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "explain",
        help="say what a packet would get, and why",
        description="Says what a packet would get: the connection that it meets, its state, every rule that is asked "
        "and the first thing in which it differs, the verdict, the connection afterwards; of an INVALID packet the "
        "reason in numbers. As in: ctfw explain 'tcp 192.168.1.7:40000 > 203.0.113.9:443 syn' --in lan0",
    )
    parser.add_argument("packet", metavar="PACKET", nargs="?", help="the packet in words (see the page packets.md)")
    parser.add_argument("--rules", metavar="FILE", help=f"the rule file (default: {DEFAULT_PATH})")
    parser.add_argument("--chain", choices=CHAINS, default=HOOK_NAMES[FORWARD], help="its chain (default: %(default)s)")
    parser.add_argument("--in", dest="indev", metavar="NAME", default="", help="the interface that it comes by")
    parser.add_argument("--out", dest="outdev", metavar="NAME", default="", help="the interface that it leaves by")
    parser.add_argument("--mac", default="", help="the MAC address that it comes from")
    parser.add_argument(
        "--after",
        metavar="PACKET",
        action="append",
        default=[],
        help="a packet that was there before, or 'wait 5s'; may be repeated. One that goes to the source of PACKET "
        "takes its way backwards",
    )
    parser.add_argument("--live", action="store_true", help="ask the running daemon, which changes nothing in it")
    add_socket(parser)
    parser.add_argument("--pcap", metavar="CAPTURE", help="a frame of this capture, instead of PACKET")
    parser.add_argument("--frame", metavar="N", type=int, help="its number, from 1; those before it are judged first")
    parser.add_argument("-o", "--output", choices=("text", "json"), default="text", help="form of the output")
    parser.set_defaults(handler=run)


def run(arguments: argparse.Namespace) -> int:
    """The command; returns the exit code."""
    wrong = _usage(arguments)
    if wrong:
        print(f"ctfw: explain: {wrong}", file=sys.stderr)
        return 2
    try:
        if arguments.pcap is not None:
            told = _of_capture(arguments)
        else:
            told = _live(arguments) if arguments.live else _alone(arguments)
        _print(told, arguments.output)
        return 0
    except config.ConfigError as error:
        print_problems(error.problems)
    except OSError as error:
        print(f"ctfw: explain: {error.filename}: {error.strerror or error}", file=sys.stderr)
    except (CaptureError, LookupError) as error:
        print(f"ctfw: explain: {arguments.pcap}: {error}", file=sys.stderr)
    return 1


def _usage(arguments: argparse.Namespace) -> str:
    if (arguments.packet is None) == (arguments.pcap is None):
        return "a packet in words, or --pcap and --frame"
    if (arguments.pcap is None) != (arguments.frame is None):
        return "--pcap and --frame go together"
    if arguments.frame is not None and arguments.frame < 1:
        return "frames count from 1"
    if arguments.live and (arguments.pcap or arguments.rules or arguments.after):
        return "--live asks the daemon as it is: without --rules, --after and --pcap"
    if arguments.pcap and arguments.after:
        return "--after goes with a packet in words"
    if arguments.mac and re.fullmatch("([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}", arguments.mac) is None:
        return f"{arguments.mac!r} is not a MAC address"
    return ""


def _alone(arguments: argparse.Namespace) -> Iterable[dict[str, Any]]:
    packet = _parse(arguments.packet, "PACKET")
    before = [_before(text, f"--after {number}") for number, text in enumerate(arguments.after, 1)]
    loaded = config.load(arguments.rules or DEFAULT_PATH)
    print_problems(loaded.warnings)
    engine, talk, now = Engine(ConnTrack(loaded.settings), loaded.ruleset), Talk(), START
    hook, mac = HOOK_NAMES.index(arguments.chain), bytes.fromhex(arguments.mac.replace(":", ""))
    for one in before:
        if isinstance(one, int):
            now += one * SECOND
            continue
        data = talk.build(one)
        way = situation(one, packet, hook, arguments.indev, arguments.outdev)
        judgement = engine.handle(data, len(data), *way, one.mark, True, now, mac)
        if judgement.verdict:
            talk.arrived()
    data = talk.build(packet)
    way = situation(packet, packet, hook, arguments.indev, arguments.outdev)
    return explain.explain(engine, Situation(data, len(data), *way, packet.mark, True, mac), now)


def _live(arguments: argparse.Namespace) -> Iterable[dict[str, Any]]:
    packet = _parse(arguments.packet, "PACKET")
    hook, indev, outdev = situation(
        packet, packet, HOOK_NAMES.index(arguments.chain), arguments.indev, arguments.outdev
    )
    data = Talk().build(packet)
    params = {"packet": data.hex(), "chain": HOOK_NAMES[hook], "in": indev, "out": outdev, "mark": packet.mark}
    with Client(socket_path(arguments.socket)) as client:
        return list(client.pages("explain", **params, mac=arguments.mac.replace(":", "")))


def _of_capture(arguments: argparse.Namespace) -> Iterable[dict[str, Any]]:
    loaded = config.load(arguments.rules or DEFAULT_PATH)
    print_problems(loaded.warnings)
    given = Annotation(HOOK_NAMES.index(arguments.chain), arguments.indev, arguments.outdev, 0, VERIFIED)
    replay = Replay(loaded, given)
    with open_capture(arguments.pcap) as stream:
        frames = read(stream)
        for _ in replay.judge(islice(frames, arguments.frame - 1)):
            pass
        frame = next(frames, None)
    if frame is None:
        raise LookupError(f"has no frame {arguments.frame}")
    asked = replay.ask(frame)
    if asked is None:
        raise LookupError(f"frame {arguments.frame} is no IP packet")
    data, length, about, now = asked
    check = about.checksum == UNVERIFIED
    return explain.explain(
        replay.engine, Situation(data, length, about.hook, about.indev, about.outdev, about.mark, check), now
    )


def _before(text: str, what: str) -> Wording | int:
    """A packet, or seconds of waiting."""
    word, _, rest = text.strip().partition(" ")
    if word != "wait":
        return _parse(text, what)
    try:
        return duration(rest.strip(), 1, MAX_WAIT)
    except Wrong as wrong:
        raise config.ConfigError([Problem(what, 1, 6, "error", wrong.message, wrong.hint, text)]) from None


def _parse(text: str, what: str) -> Wording:
    try:
        return parse(text)
    except PacketError as wrong:
        raise config.ConfigError([Problem(what, 1, wrong.column, "error", wrong.message, wrong.hint, text)]) from None


def _print(told: Iterable[dict[str, Any]], output: str) -> None:
    if output == "json":
        print(json.dumps(explain.document(told), indent=2))
        return
    for line in explain.lines(told):
        print(line)
