"""Writes the manual pages from the program itself: python manual.py DIRECTORY leaves ctfw.8 and ctfw-rules.5 there.

ctfw(8) is the command's own parser, command by command; ctfw-rules(5) the one table of the rule file
(ctfw/config/schema.py). So neither can say what is no longer so. What the program has no words for stands here: the
paragraphs around, and what a value of each kind looks like. A kind without words is an error, so that none can be added
and stay out of the page.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import ctfw
from ctfw import cli
from ctfw.config.schema import FILE, Key, Kind, Section

ROOT: Final = Path(__file__).parents[1]

DESCRIPTION: Final = """\
ctfw is a stateful firewall for a Linux gateway that lives in user space. The kernel hands it packets through NFQUEUE;
it follows every connection with tracking of its own, which calls a packet NEW, ESTABLISHED, RELATED or INVALID as the
kernel's would; the first rule of a YAML file that matches decides; accept or drop goes back to the kernel.

As a service: edit /etc/ctfw/rules.yaml, then `ctfw check` and `systemctl enable --now ctfw`. The kernel rules that hand
packets to it, the hook, stand from then on, also while ctfw does not run; packets are then dropped, or pass, as
`failure: {no_listener: ...}` of the rule file says. `ctfw hook remove` takes the hook away."""

EXIT: Final = (
    ("0", "All is well."),
    ("1", "It failed, the rules have errors, or something differs."),
    ("2", "The command was wrong."),
    ("3", "ctfw is not running."),
    ("4", "Not permitted."),
)

FILES: Final = (
    ("/etc/ctfw/rules.yaml", "The rule file, see ctfw-rules(5). Readable by root and the group ctfw."),
    ("/etc/ctfw/rules.d/*.yaml", "More rules, where the rule file includes them."),
    ("/run/ctfw/control.sock", "The control socket; root and members of the group ctfw may use it."),
    ("/var/lib/ctfw", "What outlives a restart."),
    ("/var/lib/ctfw-hook", "The kernel rules that were applied last; root's own."),
    ("/var/log/ctfw/eve.json", "The EVE log, where the rule file has a section `eve`."),
    ("/usr/share/ctfw/rules.schema.json", "The JSON Schema of the rule file, for editors."),
    ("/usr/share/doc/ctfw", "The documentation, and a rule file of a home gateway in examples."),
)

ENVIRONMENT: Final = (
    ("CTFW_SOCKET", "The control socket, where --socket is not given."),
    ("NO_COLOR", "When set, nothing is printed in colour."),
)

RULES: Final = """\
The rule file is YAML. The first rule that matches decides; where none does, the policy of the chain. A list means any
of its members, a '!' (in quotes) negates, and one rule covers IPv4 and IPv6. A rule without chain holds in all three:
input (to the gateway), forward (through it), output (from it). $name stands for a set. `ctfw check` says what is wrong
with a file, by line and column; nothing that has an error comes into force."""

# What a value of each kind looks like. Where the key's own words say it, there are none here.
VALUES: Final[dict[Kind, str]] = {
    Kind.NUMBER: "number",
    Kind.CHOICE: "word",
    Kind.ACTION: "word",
    Kind.DURATION: "duration: 90 (seconds), 90s, 2h30m, 5d",
    Kind.SWITCH: "on or off",
    Kind.VERDICT: "accept or drop",
    Kind.FATE: "accept or drop",
    Kind.NAME: "text",
    Kind.TEXT: "text",
    Kind.RATE: "rate: 5/minute",
    Kind.PATHS: "file, or a list; * and ? are wildcards",
    Kind.MEMBERS: "value, or a list",
    Kind.STATES: "word, or a list",
    Kind.CHAINS: "word, or a list",
    Kind.INTERFACES: "interface, or a list",
    Kind.PROTOS: "protocol, or a list",
    Kind.ADDRESSES: "address, network, range, or a list",
    Kind.PORTS: "port, range, service, or a list",
    Kind.ICMP: "type, or a list",
    Kind.ICMPV6: "type, or a list",
    Kind.STATUS: "word, or a list",
    Kind.HELPERS: "helper, or a list",
    Kind.TCP_FLAGS: "flags, or a list",
    Kind.MARKS: "mark, or a list",
    Kind.MACS: "address, or a list",
    Kind.HOPS: "number, range, or a list",
    Kind.LENGTHS: "number, range, or a list",
    Kind.DSCPS: "code point, or a list",
    Kind.SECONDS: "range of durations",
    Kind.PACKETS: "range of numbers",
    Kind.OCTETS: "range of sizes",
    Kind.MARK: "mark",
    Kind.MARK_BIT: "power of two",
    Kind.DAYS: "day, range, or a list",
    Kind.HOURS: "range of times, or a list",
    Kind.ZONE: "time zone",
    Kind.WORD: "name",
    Kind.LIMIT: "rate, or a mapping",
    Kind.CONNLIMIT: "mapping",
    Kind.TIME: "mapping",
    Kind.ADD: "mapping",
    Kind.CHAINS_OF_RULES: "mapping of names to lists of rules",
    Kind.ZONES: "mapping of interfaces to numbers",
    Kind.PORT_NUMBERS: "port, or a list",
    Kind.LOG: "true, or a mapping",
    Kind.SECTION: "mapping",
    Kind.SETS: "mapping of names to members, or to a mapping",
    Kind.RULES: "list of rules",
    Kind.NEVER: "list of mappings",
    Kind.TESTS: "list of tests",
    Kind.STEPS: "list of steps",
    Kind.PACKET: "packet in words",
    Kind.EXPECT: "word, or a mapping",
    Kind.DEVICE: "interface",
    Kind.MOMENT: "date and time",
    Kind.SIZE: "size: 128 bytes, 64 KiB, 16 MiB",
}


def main(directory: Path) -> None:
    (directory / "ctfw.8").write_text(command_page(cli.parser()), encoding="utf-8")
    example = (ROOT / "packaging" / "rules.yaml").read_text(encoding="utf-8")
    (directory / "ctfw-rules.5").write_text(rules_page(FILE, example), encoding="utf-8")


def command_page(parser: argparse.ArgumentParser) -> str:
    """ctfw(8)."""
    lines = head("CTFW", 8, "ctfw", "stateful firewall in user space, on NFQUEUE")
    lines += [".SH SYNOPSIS", ".B ctfw", r"[\-\-help] [\-\-version]", ".I command", "[...]"]
    lines += [".SH DESCRIPTION", *paragraphs(DESCRIPTION), ".SH COMMANDS"]
    for name, help_text, command in commands(parser, "ctfw"):
        lines += [f'.SS "{escape(usage(name, command))}"', *paragraphs(command.description or f"{help_text}.")]
        for action in command._actions:
            lines += option(action)
    lines += [".SH EXIT STATUS", *terms(EXIT), ".SH ENVIRONMENT", *terms(ENVIRONMENT), ".SH FILES", *terms(FILES)]
    lines += [".SH SEE ALSO", r".BR ctfw\-rules (5),", ".BR nft (8),", ".BR iptables (8),", ".BR systemctl (1)"]
    return "\n".join(lines) + "\n"


def commands(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """(name, what it does, parser) of each command that does something."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            continue
        texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
        for word, command in action.choices.items():
            inner = list(commands(command, f"{name} {word}"))
            yield from inner or [(f"{name} {word}", texts.get(word, ""), command)]


def usage(name: str, command: argparse.ArgumentParser) -> str:
    """The command, whether it takes options, and its arguments."""
    words = [name]
    if any(action.option_strings and action.dest != "help" for action in command._actions):
        words.append("[options]")
    for action in command._get_positional_actions():
        shown = value(action)
        words.append({"?": f"[{shown}]", "*": f"[{shown} ...]", "+": f"{shown} ..."}.get(str(action.nargs), shown))
    return " ".join(words)


def option(action: argparse.Action) -> list[str]:
    """The entry of an option or argument; none for --help and for what is not to be shown."""
    if action.dest == "help" or action.help == argparse.SUPPRESS:
        return []
    names = ", ".join(action.option_strings)
    shown = value(action) if action.nargs != 0 else ""
    text = (action.help or "") % {**vars(action), "prog": "ctfw"}
    title = rf"\fB{escape(names)}\fR" + (rf" \fI{escape(shown)}\fR" if shown else "") if names else ""
    return [".TP", title or rf"\fI{escape(shown)}\fR", escape(text)]


def value(action: argparse.Action) -> str:
    """What an option or argument takes, as the usage line names it."""
    if isinstance(action.metavar, str):
        return action.metavar
    return "|".join(str(choice) for choice in action.choices) if action.choices else action.dest.upper()


def rules_page(section: Section, example: str) -> str:
    """ctfw-rules(5)."""
    lines = head("CTFW-RULES", 5, "ctfw-rules", "the rule file of ctfw")
    lines += [".SH SYNOPSIS", ".I /etc/ctfw/rules.yaml", ".SH DESCRIPTION", *paragraphs(RULES)]
    for part in sections(section):
        lines.append(f'.SH "{escape(heading(part, section))}"')
        for key in part.keys.values():
            lines += [".TP", rf"\fB{escape(key.name)}\fR ({escape(shape(key))})", escape(f"{key.meaning}.")]
    lines += [".SH EXAMPLE", ".nf", *(escape(line) for line in example.splitlines()), ".fi"]
    lines += [".SH SEE ALSO", ".BR ctfw (8)", ".PP", "The same key by key, with an example of each:"]
    lines += [".IR /usr/share/doc/ctfw/rules.md"]
    return "\n".join(lines) + "\n"


def sections(section: Section) -> list[Section]:
    """The section and all that are within it, each once, in the order of their keys."""
    found = [section]
    for part in found:
        for key in part.keys.values():
            if key.section is not None and key.section not in found:
                found.append(key.section)
    return found


def heading(section: Section, top: Section) -> str:
    return "THE FILE" if section is top else section.title.upper()


def shape(key: Key) -> str:
    """What its value looks like, and whether it must be there."""
    text = "|".join(key.words) if key.words and len(key.words) <= 4 else VALUES[key.kind]
    if key.high:
        text += f", {key.low} to {key.high}" if key.kind is Kind.NUMBER else ""
    return text + (", required" if key.required else "")


def head(title: str, section: int, name: str, words: str) -> list[str]:
    return [
        f'.TH "{escape(title)}" {section} "" "ctfw {ctfw.__version__}" "ctfw"',
        ".SH NAME",
        rf"{escape(name)} \- {escape(words)}",
    ]


def terms(entries: tuple[tuple[str, str], ...]) -> Iterator[str]:
    for term, text in entries:
        yield from (".TP", rf"\fB{escape(term)}\fR", escape(text))


def paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(text.split("\n\n")):
        if number:
            yield ".PP"
        yield from (escape(line) for line in paragraph.splitlines())


def escape(text: str) -> str:
    """The text as roff reads it literally."""
    text = (
        text.replace("\\", r"\e").replace("-", r"\-").replace("`", r"\(ga").replace("'", r"\(aq").replace('"', r"\(dq")
    )
    text = (
        text.replace("…", "...").replace("–", r"\(en").replace("→", r"\(->").replace("^", r"\(ha").replace("~", r"\(ti")
    )
    return r"\&" + text if text.startswith(".") else text


if __name__ == "__main__":
    main(Path(sys.argv[1]))
