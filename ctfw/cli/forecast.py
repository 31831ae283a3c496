"""`ctfw reload --dry-run`: what the new rules would change, told before they are in force.

Owns the words, and the way of the daemon's data into tools/forecast.py. The rules are loaded and asked here, in the
client: the daemon only hands out what it holds, in slices, and packets do not wait.
"""

from __future__ import annotations

import argparse
import json
import sys
from base64 import b64decode
from collections.abc import Iterable
from typing import Any

from ctfw import config
from ctfw.cli.changes import beyond_line, counted, json_lines, side_object, side_text, table_lines
from ctfw.cli.problems import print_problems
from ctfw.config import Config
from ctfw.ruleset.ruleset import EXISTING_NAMES
from ctfw.service.client import Client, socket_path
from ctfw.service.flight import unpack
from ctfw.tools import rule_tests
from ctfw.tools.difference import MOST
from ctfw.tools.forecast import Fate, Forecast


class Living:
    """The living connections that the new rules refuse, MOST of them, and how many there are."""

    def __init__(self) -> None:
        self.fates: list[Fate] = []
        self.cut = 0
        self.staying = 0

    def add(self, fate: Fate) -> None:
        if fate.is_cut:
            self.cut += 1
        else:
            self.staying += 1
        if len(self.fates) < MOST:
            self.fates.append(fate)


def dry_run(arguments: argparse.Namespace) -> int:
    """`ctfw reload --dry-run`; returns the exit code: 0 nothing changes, 1 something does."""
    with Client(socket_path(arguments.socket)) as client:
        path = arguments.rules or client.call("status")["rules"]["path"]
        try:
            loaded = rule_tests.load(path)
        except config.ConfigError as error:
            print_problems(error.problems)
            return 1
        print_problems(loaded.warnings)
        clock = client.call("clock")
        forecast = Forecast(loaded, clock["unix"] - clock["now"], clock["generation"])
        for name, network, length, left in client.pages("members"):
            forecast.add_member(name, bytes.fromhex(network), length, left, clock["now"])
        missed = 0
        for chunk in client.pages("flight") if clock["recorder"] is not None else ():
            if chunk is None:
                missed += 1
                continue
            for record in unpack(b64decode(chunk)):
                forecast.see(record)
        living = Living()
        for entry in client.pages("live"):
            fate = forecast.fate(entry, clock["now"])
            if fate is not None:
                living.add(fate)
    as_json = arguments.output == "jsonl"
    for line in _json_lines(forecast, living) if as_json else _lines(forecast, living):
        print(line)
    sys.stdout.flush()
    sums = _sums(forecast, living, loaded, clock["recorder"], missed)
    print("\n".join(sums), file=sys.stderr if as_json else sys.stdout)
    return 1 if forecast.changes.packets or living.cut else 0


def _lines(forecast: Forecast, living: Living) -> Iterable[str]:
    yield from table_lines(forecast.changes)
    for is_cut, title in ((True, "living connections that would be cut:"), (False, "living connections that stay:")):
        fates = [fate for fate in living.fates if fate.is_cut == is_cut]
        if fates:
            yield title
            yield from (_fate_line(fate) for fate in fates)
            yield ""


def _fate_line(fate: Fate) -> str:
    what = fate.side.verdict if fate.is_cut else f"opened anew: {fate.side.verdict}"
    guessed = "" if fate.seen else "  (interfaces by the routing table)"
    return f"  {fate.packet}  {fate.state or '-'}  {what}  {side_text(fate.side)}{guessed}"


def _json_lines(forecast: Forecast, living: Living) -> Iterable[str]:
    yield from json_lines(forecast.changes, kind="recorded")
    for fate in living.fates:
        yield json.dumps(
            {
                "kind": "living",
                "packet": fate.packet,
                "state": fate.state or None,
                "cut": fate.is_cut,
                "new": side_object(fate.side),
                "interfaces": "recorded" if fate.seen else "routed",
            }
        )


def _sums(
    forecast: Forecast, living: Living, loaded: Config, recorder: dict[str, Any] | None, missed: int
) -> list[str]:
    found = forecast.changes
    if recorder is None:
        lines = ["recorder     off: nothing is known of the last minutes"]
    else:
        concerned = f"{found.packets} with another verdict, {counted(found.bytes, 'byte')}"
        seconds = counted(recorder["seconds"], "second")
        lines = [f"recorder     {counted(forecast.packets, 'packet')} of the last {seconds}, {concerned}"]
        notes = (
            ("judged by rules of an earlier generation", forecast.older),
            ("left out in floods", recorder["skipped"]),
            ("parts that went away meanwhile", missed),
        )
        lines += [f"             {what}: {count}" for what, count in notes if count]
        if loaded.ruleset.asks_mac:
            lines.append("             rules that ask for a MAC address match nothing here: none is recorded")
        lines += [f"connections  {len(found)} with another verdict", *beyond_line(found)]
    stay = f", {living.staying} could not begin again" if living.staying else ""
    existing = EXISTING_NAMES[loaded.ruleset.existing]
    lines.append(f"living       {forecast.living}, {living.cut} would be cut{stay} (existing: {existing})")
    return lines
