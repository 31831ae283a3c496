"""A rule file -> Config, or ConfigError with everything that is wrong with it.

The steps: read, decode, parse, walk. Each reports into one Report; when there is an error at the end, nothing is
returned. What is returned is complete and independent of the file, ready to be swapped in by one assignment.

The cyclic garbage collector is off meanwhile: the tree of a large file is hundreds of thousands of objects without a
cycle among them, and collections over it would take several times as long as the parsing.
"""

import gc
import os
import stat

from ctfw.config.document import MAX_BYTES, Mapping, decode, is_empty, parse
from ctfw.config.problems import ConfigError, GiveUp, Problem, Report
from ctfw.config.rules import Rules
from ctfw.config.schema import FAILURE, FILE, POLICY, Kind
from ctfw.config.sets import Sets
from ctfw.config.values import Wrong
from ctfw.config.walk import Fields, Walker
from ctfw.conntrack.settings import HELPERS, Settings
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.ruleset.ruleset import Ruleset
from ctfw.ruleset.verdict import DROP

_FORMAT = "a rule file starts with 'version: 1'; see rules.example.yaml"


class Config:
    """All that a rule file says, compiled."""

    def __init__(self, path: str, queue: int, settings: Settings, failure: dict[str, str], ruleset: Ruleset) -> None:
        self.path = path
        self.queue = queue
        self.settings = settings
        self.failure = failure
        self.ruleset = ruleset
        self.warnings: list[Problem] = []


def load(path: str, text: str | None = None, pure: bool = False) -> Config:
    """Load the rule file at `path`; with `text`, that text, and `path` is only its name in messages.

    `pure` parses without libyaml, for comparison. Raises ConfigError and nothing else for any file and any text.
    """
    report = Report(path)
    collecting = gc.isenabled()
    gc.disable()
    try:
        config = _load(path, text, pure, report)
    except GiveUp:
        config = None
    finally:
        if collecting:
            gc.enable()
    if config is None or report.failed:
        raise ConfigError(report.problems())
    config.warnings = report.problems()
    return config


def _load(path: str, text: str | None, pure: bool, report: Report) -> Config | None:
    if text is None:
        data = _read(path, report)
        text = decode(data, report) if data is not None else None
    if text is None:
        return None
    root = parse(text, report, pure)
    if root is None:
        if not report.failed:
            report.error(None, "the file is empty", _FORMAT)
        return None
    if not isinstance(root, Mapping):
        report.error(root, "a rule file is a mapping of keys to values", _FORMAT)
        return None
    return _build(root, path, report)


def _read(path: str, report: Report) -> bytes | None:
    """The file's bytes. Opened without blocking, so that a named pipe cannot hold the daemon."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                report.error(None, "not a regular file", "name the rule file itself")
                return None
            return file.read(MAX_BYTES + 1)
    except IsADirectoryError:
        report.error(None, "is a directory", "name the rule file itself")
    except (OSError, ValueError) as wrong:
        reason = (wrong.strerror if isinstance(wrong, OSError) else None) or str(wrong)
        hint = "rule files are for root and the group ctfw" if isinstance(wrong, PermissionError) else ""
        report.error(None, f"cannot be read: {reason.lower()}", hint)
    return None


def _build(root: Mapping, path: str, report: Report) -> Config | None:
    walker = Walker(report)
    sets = Sets(walker)
    Rules(walker, path)
    _define_sets(root, sets, report)
    fields = walker.section(root, FILE)
    settings = _settings(fields, report)
    failure = {name: _section(fields, "failure").get(name, "drop") for name in FAILURE.keys}
    queue = _section(fields, "queue").get("number", 0)
    _warn_policy(fields, report)
    if report.failed or settings is None:
        return None
    sets.warn_unused()
    policy = {hook: _section(fields, "policy").get(HOOK_NAMES[hook], DROP) for hook in (INPUT, FORWARD, OUTPUT)}
    return Config(path, queue, settings, failure, Ruleset(fields.get("rules", []), policy))


def _define_sets(root: Mapping, sets: Sets, report: Report) -> None:
    """Sets come first, wherever they stand in the file."""
    sets.walker.readers[Kind.SETS] = lambda node, key: None
    for key, value in root.pairs:
        if key.text == "sets" and not is_empty(value):
            try:
                sets.define(value)
            except Wrong as wrong:
                report.error(value, wrong.message, wrong.hint)


def _settings(fields: Fields, report: Report) -> Settings | None:
    given = _section(fields, "conntrack")
    ports: Fields = given.get("helpers") or Fields(given.node)
    owners: dict[tuple[str, int], str] = {}
    for name, numbers in ports.values.items():
        for number in numbers:
            proto = HELPERS[name][0]
            owner = owners.setdefault((proto, number), name)
            if owner != name:
                report.error(ports.place(name), f"helpers {owner} and {name} both take {proto} port {number}")
    if report.failed:
        return None
    knobs = {name: value for name, value in given.values.items() if name != "helpers"}
    return Settings(knobs, ports.values)


def _warn_policy(fields: Fields, report: Report) -> None:
    if "policy" not in fields.keys:
        report.warning(None, "no chain has a policy: what no rule matches is dropped", "add 'policy: {input: drop, …}'")
        return
    policy = _section(fields, "policy")
    for chain in POLICY.keys:
        if chain not in policy.keys:
            message = f"chain {chain} has no policy: what no rule matches is dropped"
            report.warning(fields.place("policy"), message, f"add '{chain}: drop' or '{chain}: accept'")


def _section(fields: Fields, name: str) -> Fields:
    """The fields of a section, empty when it is not in the file."""
    found = fields.get(name)
    return found if isinstance(found, Fields) else Fields(fields.node)
