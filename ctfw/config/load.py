"""A rule file -> Config, or ConfigError with everything that is wrong with it.

The steps: read, decode, parse, gather what other files bring, walk. Each reports into one Report; when there is an
error at the end, nothing is returned. What is returned is complete and independent of the file, ready to be swapped
in by one assignment.

The cyclic garbage collector is off meanwhile: the tree of a large file is hundreds of thousands of objects without a
cycle among them, and collections over it would take several times as long as the parsing.
"""

import gc
import time
from itertools import product

from ctfw.config.document import Mapping, decode, parse
from ctfw.config.eve import EveSettings, read_eve
from ctfw.config.failure import read_failure
from ctfw.config.files import Files, Stored
from ctfw.config.hook import Hook, read_hook
from ctfw.config.include import Includes
from ctfw.config.invariants import Invariants
from ctfw.config.lint import lint
from ctfw.config.metrics import MetricsSettings, read_metrics
from ctfw.config.named import NamedSets
from ctfw.config.offload import read_offload
from ctfw.config.problems import ConfigError, GiveUp, Problem, Report
from ctfw.config.recorder import RecorderSettings, read_recorder
from ctfw.config.remains import gather, let_go
from ctfw.config.rules import Rules
from ctfw.config.schema import FILE, INCLUDED, POLICY, Kind
from ctfw.config.sets import Sets, breathe
from ctfw.config.tests_section import RuleTest, Tests
from ctfw.config.values import Wrong
from ctfw.config.walk import Fields, Walker
from ctfw.conntrack.settings import Settings, helper_protocols
from ctfw.packet import FORWARD, HOOK_NAMES, INPUT, OUTPUT
from ctfw.packet_text import proto_name
from ctfw.ruleset.marks import REJECT_BIT
from ctfw.ruleset.ruleset import KEEP, Ruleset
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
        self.files: list[str] = []  # every file that was read, this one first
        self.hook = Hook()
        self.recorder: RecorderSettings | None = None  # None: off
        self.metrics: MetricsSettings | None = None  # None: no file of them
        self.eve: EveSettings | None = None  # None: off
        self.tests: list[RuleTest] = []  # what it says about itself; tools/rule_tests holds it to it
        self.warnings: list[Problem] = []
        self.stored = Stored()  # what it was made of
        self.workers = 1  # each with a queue of its own, from ``queue`` on


def load(
    path: str,
    text: str | None = None,
    pure: bool = False,
    advise: bool = False,
    stored: Stored | None = None,
    softly: bool = False,
) -> Config:
    """Load the rule file at `path`; with `text`, that text, and `path` is only its name in messages.

    `pure` parses without libyaml, for comparison. `advise` adds warnings about what the rules mean (`lint`), which
    takes several times as long as loading. With `stored` all files are taken from there. `softly` takes a little
    longer, and what was needed on the way is freed in pieces, for whoever is interrupted meanwhile. Raises ConfigError
    and nothing else for any file and any text.
    """
    report = Report(path)
    collecting = gc.isenabled()
    gc.disable()
    remains: list[object] | None = [] if softly else None
    try:
        config = _load(path, text, pure, report, advise, Files(report, stored), remains)
    except GiveUp:
        config = None
    finally:
        if remains is not None:
            let_go(remains)
        if collecting:
            gc.enable()
    if config is None or report.failed:
        raise ConfigError(report.problems())
    config.warnings = report.problems()
    return config


def _load(
    path: str,
    text: str | None,
    pure: bool,
    report: Report,
    advise: bool,
    files: Files,
    remains: list[object] | None,
) -> Config | None:
    """``remains``, when it is a list, holds afterwards what was needed on the way."""
    if text is None:
        data = files.read(path)
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
    walker = Walker(report)
    try:
        return _build(walker, root, path, report, files, pure, advise)
    finally:
        if remains is not None:
            gather([root, walker], remains)
        # The readers know the walker, and it knows them. A daemon that never collects cycles would keep every file it
        # has read.
        walker.readers.clear()


def _build(
    walker: Walker, root: Mapping, path: str, report: Report, files: Files, pure: bool, advise: bool
) -> Config | None:
    for kind in (Kind.SETS, Kind.RULES, Kind.CHAINS_OF_RULES):
        walker.readers[kind] = lambda node, key: None  # gathered from all files, and read below
    named = NamedSets(walker, files)
    Sets(walker, named)
    reader = Rules(walker, named)
    invariants = Invariants(walker, reader)
    tests = Tests(walker)
    includes = Includes(report, files, pure)
    items = includes.gather(root)
    for node in includes.sets:
        try:
            named.define(node)
        except Wrong as wrong:
            report.error(node, wrong.message, wrong.hint)
    named.check()
    for included in includes.roots:
        walker.section(included, INCLUDED)
    fields = walker.section(root, FILE)
    rules = reader.read(items, includes.chains)
    reject_bit = _section(fields, "reject").get("mark", REJECT_BIT)
    offload_bit = read_offload(fields, reader.fields.values(), reject_bit, report)
    reader.check_marks(reject_bit, offload_bit)
    settings = _settings(fields, report)
    failure = read_failure(_section(fields, "failure"), report)
    queue = _section(fields, "queue").get("number", 0)
    workers = _section(fields, "queue").get("workers", 1)
    if queue + workers > 1 << 16:
        report.error(_section(fields, "queue").place("workers"), f"there is no queue {queue + workers - 1}")
    hook = read_hook(_section(fields, "hook"), report)
    metrics = read_metrics(_section(fields, "metrics"), report)
    eve = read_eve(_section(fields, "eve"), report) if "eve" in fields.values else None
    _warn_policy(fields, report)
    if report.failed or settings is None:
        return None
    named.warn_unused()
    policy = {hook: _section(fields, "policy").get(HOOK_NAMES[hook], DROP) for hook in (INPUT, FORWARD, OUTPUT)}
    ruleset = Ruleset(
        rules,
        policy,
        chains=reader.chains,
        sets=named.every_dynamic(),
        existing=fields.get("existing", KEEP),
        reject_bit=reject_bit,
        offload_bit=offload_bit,
        breathe=breathe,
    )
    ruleset.tick(0, time.time_ns())  # so that time windows hold from the first packet on
    invariants.check(ruleset)
    if advise:
        lint(ruleset, reader, report, fields, hook)
    config = Config(path, queue, settings, failure, ruleset)
    config.files = files.paths
    config.stored = files.stored
    config.workers = workers
    config.tests = tests.found
    config.hook = hook
    config.metrics = metrics
    if "recorder" in fields.values:
        config.recorder = read_recorder(_section(fields, "recorder"))
    config.eve = eve
    return config


def _settings(fields: Fields, report: Report) -> Settings | None:
    given = _section(fields, "conntrack")
    ports: Fields = given.get("helpers") or Fields(given.node)
    owners: dict[tuple[int, int], str] = {}
    for name, numbers in ports.values.items():
        for proto, number in product(helper_protocols(name), numbers):
            owner = owners.setdefault((proto, number), name)
            if owner != name:
                where = f"{proto_name(proto)} port {number}"
                report.error(ports.place(name), f"helpers {owner} and {name} both take {where}")
    if report.failed:
        return None
    knobs = {name: value for name, value in given.values.items() if name not in ("helpers", "zones")}
    return Settings(knobs, ports.values, zones=given.get("zones"))


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
