"""`ctfw hook`: the kernel's rules that hand packets to ctfw, made from the rule file.

Owns the words; what is done is in service/hook/. `show` changes nothing and prints what `apply` would load. `status`
exits 1 when the hook is not complete. `heal` is for a timer: it puts back what was applied last, reads no rule file
(one may be half edited just now), and says nothing when there is nothing to do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import asdict
from typing import Final

from ctfw import config
from ctfw.cli.daemon import DEFAULT_RULES
from ctfw.cli.problems import print_problems
from ctfw.cli.socket_option import add_socket
from ctfw.service.client import Client, ClientError, socket_path
from ctfw.service.hook import install, memory
from ctfw.service.hook.handed import queues
from ctfw.service.hook.iptables import Iptables
from ctfw.service.hook.memory import Memory
from ctfw.service.hook.plan import Plan, make_plan
from ctfw.service.hook.programs import HookError
from ctfw.service.journal import WARNING, Journal
from ctfw.service.kinds import HOOK_HEALED
from ctfw.service.listeners import listeners, named, unheard, why_not

COMPLETE: Final = "complete"
MAX_DIFFERENCES: Final = 20  # lines of them in one report


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the commands to the parser."""
    hook = subparsers.add_parser(
        "hook",
        help="make, show, check or remove the kernel rules that send packets to ctfw",
        description="The kernel's rules that hand packets to ctfw, made from the rule file: tables and chains of its "
        "own, for IPv4 and IPv6. Rules of others are never touched.",
    )
    commands = hook.add_subparsers(metavar="WHAT", required=True)
    parser = commands.add_parser("show", help="print what apply would load; changes nothing")
    _add_options(parser)
    parser.set_defaults(handler=show)
    parser = commands.add_parser(
        "apply",
        help="put the rules into force",
        description="Puts the rules into force, or back into it. When nothing differs nothing is touched; when "
        "anything fails, everything stays as it was. From then on packets wait for ctfw: while it does not run they "
        "are dropped, or pass, as failure.no_listener says.",
    )
    _add_options(parser)
    parser.add_argument(
        "--last-good",
        action="store_true",
        help="when the rule file has errors: put up what was applied last, with a warning",
    )
    _add_memory(parser)
    parser.set_defaults(handler=apply)
    parser = commands.add_parser(
        "heal",
        help="put back what something else took away",
        description="Puts the rules that were applied last back into force where something else changed or removed "
        "them, and says what differed. Where nothing differs, or where `ctfw hook remove` took them away, it does "
        "nothing and says nothing.",
    )
    _add_memory(parser)
    parser.set_defaults(handler=heal)
    parser = commands.add_parser(
        "remove",
        help="take them away",
        description="Takes away everything that ctfw put into the kernel's rules, whatever made it and in whatever "
        "state it is. Packets then pass unfiltered by ctfw, until the next apply, start or reload.",
    )
    _add_memory(parser)
    parser.set_defaults(handler=remove)
    parser = commands.add_parser(
        "status",
        help="are the rules in force as the file wants them?",
        description="Holds the kernel's rules against those that the rule file asks for. Exits 0 when they are the "
        "same, 1 with the differences when they are not.",
    )
    _add_options(parser)
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="form of the output")
    add_socket(parser)
    parser.set_defaults(handler=status)


def show(arguments: argparse.Namespace) -> int:
    """`ctfw hook show`; returns the exit code."""
    try:
        plan = _plan(arguments)
        name = arguments.backend
        backend = install.choose("auto", plan) if name == "auto" else install.backend_named(name)
        print(backend.script(plan), end="")
        _print_notes(backend)
    except HookError as error:
        return _fail("show", error)
    except config.ConfigError as error:
        return _bad_rules(error)
    return 0


def apply(arguments: argparse.Namespace) -> int:
    """`ctfw hook apply`; returns the exit code."""
    directory = memory.place(arguments.memory)
    try:
        with memory.held(directory):
            plan = _plan_or_last_good(arguments, directory)
            if not arguments.last_good:
                _refuse_to_part(plan)
            backend = install.choose(arguments.backend, plan)
            changed = install.apply(backend, plan)
            complaint = memory.remember(directory, Memory(True, arguments.backend, plan))
    except HookError as error:
        return _fail("apply", error)
    except config.ConfigError as error:
        return _bad_rules(error)
    _print_complaint(complaint)
    if changed:
        _print_notes(backend)
        print(f"hook in force: {_facts(backend, plan)}")
    deaf = unheard(plan)
    if deaf:
        fate = "pass unfiltered" if plan.bypass else "are dropped"
        print(f"ctfw: hook: nobody listens on {named(deaf)}: packets {fate} until ctfw runs", file=sys.stderr)
    return 0


def _refuse_to_part(plan: Plan) -> None:
    """A running ctfw keeps its packets: other queues, or more or fewer, come with its restart."""
    with contextlib.suppress(OSError):  # it cannot be told who has what
        why = why_not(plan, queues(), listeners() or ())
        if why:
            raise HookError(f"{why}; restart it. The hook is as it was")


def heal(arguments: argparse.Namespace) -> int:
    """`ctfw hook heal`; returns the exit code."""
    directory = memory.place(arguments.memory)
    try:
        with memory.held(directory):
            last = memory.recall(directory)
            if last is None or not last.wanted:
                return 0
            backend = install.in_force(last.backend, last.plan)
            found = install.standing(backend, last.plan)
            if found.state == COMPLETE:
                return 0
            install.apply(backend, last.plan)
    except HookError as error:
        return _fail("heal", error)
    journal = Journal()
    journal.log(
        f"hook: put back, something else had changed it: {_facts(backend, last.plan)}", WARNING, {}, HOOK_HEALED
    )
    for line in found.differences[:MAX_DIFFERENCES]:
        journal.log(f"hook: differed: {line}", WARNING)
    journal.close()
    return 0


def remove(arguments: argparse.Namespace) -> int:
    """`ctfw hook remove`; returns the exit code."""
    directory = memory.place(arguments.memory)
    try:
        with memory.held(directory):
            _print_complaint(memory.forget(directory))
            removed = install.remove()
        if removed:
            print("hook removed: packets pass unfiltered by ctfw")
    except HookError as error:
        return _fail("remove", error)
    return 0


def status(arguments: argparse.Namespace) -> int:
    """`ctfw hook status`; returns the exit code."""
    try:
        plan = _plan(arguments)
        standing = install.standing(install.in_force(arguments.backend, plan), plan)
    except HookError as error:
        return _fail("status", error)
    except config.ConfigError as error:
        return _bad_rules(error)
    judged = _judged(arguments.socket)
    if arguments.output == "json":
        answer = asdict(standing) | {"queue": plan.queue, "bypass": plan.bypass, "judged": judged}
        json.dump(answer, sys.stdout, indent=2)
        print()
    else:
        _print_standing(standing, plan, judged)
    return 0 if standing.state == COMPLETE else 1


def _print_standing(standing: install.Standing, plan: Plan, judged: int | None) -> None:
    lines = [
        ("hook", f"{standing.state} backend={standing.backend} queue={plan.queue} chains={','.join(plan.chain_names)}"),
        ("no_listener", "accept" if plan.bypass else "drop"),
    ]
    if standing.passed:
        lines.append(("handed over", " ".join(f"{name}={count}" for name, count in standing.passed.items())))
        lines.append(("judged", "unavailable" if judged is None else f"{judged} since ctfw started"))
    lines += [("note", note) for note in standing.notes]
    lines += [("differs", line) for line in standing.differences]
    for name, text in lines:
        print(f"{name + ':':<13}{text}")


def _judged(socket: str | None) -> int | None:
    """What the daemon has answered; None when it cannot be asked."""
    try:
        with Client(socket_path(socket)) as client:
            return int(client.call("stats")["queue"]["answered"])
    except ClientError:
        return None


def _plan(arguments: argparse.Namespace) -> Plan:
    loaded = config.load(arguments.rules)
    print_problems(loaded.warnings)
    return make_plan(loaded, arguments.queue)


def _plan_or_last_good(arguments: argparse.Namespace, directory: str) -> Plan:
    try:
        return _plan(arguments)
    except config.ConfigError as error:
        last = memory.recall(directory) if arguments.last_good else None
        if last is None:
            raise
        print_problems(error.problems)
        print("ctfw: hook: the rule file has errors: the hook of the last apply is used", file=sys.stderr)
        return last.plan


def _facts(backend: install.Backend, plan: Plan) -> str:
    without = "accept" if plan.bypass else "drop"
    return f"backend={backend.name} queue={plan.queue} chains={','.join(plan.chain_names)} no_listener={without}"


def _print_complaint(complaint: str) -> None:
    if complaint:
        print(f"ctfw: hook: {complaint}", file=sys.stderr)


def _print_notes(backend: install.Backend) -> None:
    for note in backend.notes if isinstance(backend, Iptables) else []:
        print(f"ctfw: hook: {note}", file=sys.stderr)


def _bad_rules(error: config.ConfigError) -> int:
    print_problems(error.problems)
    return 1


def _fail(what: str, error: HookError) -> int:
    print(f"ctfw: hook {what}: {error}", file=sys.stderr)
    return 4 if error.denied else 1


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rules", metavar="FILE", default=DEFAULT_RULES, help="the rule file (default: %(default)s)")
    parser.add_argument(
        "--backend",
        choices=install.BACKENDS,
        default="auto",
        help="what makes the rules (default: nft where the kernel has its queue, else iptables)",
    )
    parser.add_argument("--queue", metavar="N", type=_queue_number, help="the queue (default: the rule file's, else 0)")


def _add_memory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--memory",
        metavar="DIRECTORY",
        help=f"where it is remembered what was applied (default: {memory.DIRECTORY}; nowhere in a network namespace)",
    )


def _queue_number(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 65535")
    return int(text)
