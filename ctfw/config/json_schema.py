"""The JSON Schema (draft-07) of rule files, made from the table that the loader reads them by (``schema``).

For editors, which complete keys and words by it, show each key's meaning and underline mistakes while one types. It
knows what a file looks like, key by key and value by value; whatever the loader accepts is valid, with one exception:
text that YAML calls null (`name: null`) has to stand in quotes. What it does not know, and the loader does:

* what a `$name`, a chain, a rule's name or a file stands for, and that no name is used twice;
* limits within a text: 10.0.0.300, a range that is reversed, host bits behind a network;
* what the values of different keys have to do with each other, but for what RELATIONS says.

Words count whatever their case, as in the loader; those that editors shall offer stand beside in an `enum`. Numbers may
be quoted. In a plain scalar an editor sees what YAML 1.2 makes of it, where ctfw sees text: `-100` is a number there,
`true` is neither text nor number. So most kinds allow several types.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

from ctfw.config.named import NAME
from ctfw.config.names import DSCP, ICMP, ICMPV6, PROTOCOLS, SERVICES, TCP_FLAGS
from ctfw.config.readers import HELPERS, STATUS
from ctfw.config.rule_checks import CHAINS
from ctfw.config.schema import ACTIONS, FILE, INCLUDED, SET, Key, Kind, Section
from ctfw.config.values import MAX_NAME
from ctfw.conntrack.state import STATE_NAMES

Schema = dict[str, Any]

DRAFT: Final = "http://json-schema.org/draft-07/schema#"
_NUMBER: Final = "[0-9]{1,10}"
_MARK: Final = "(0[xX][0-9a-fA-F]{1,8}|[0-9]{1,10})"
_SET: Final = r"\$" + NAME.pattern
_NOT: Final = r"!?\s*"
_SCALAR: Final[Schema] = {"type": ["string", "number", "boolean"]}

# Of sections, by title: which keys need or exclude each other.
RELATIONS: Final[dict[str, Schema]] = {
    "rule": {
        "oneOf": [{"required": [key]} for key in ("verdict", "jump", "track")],
        "dependencies": {
            key: {"anyOf": [{"required": ["proto"]}, {"required": ["tcp_flags"]}]} for key in ("sport", "dport")
        },
    },
    "set": {"dependencies": {"ttl": ["dynamic"], "max": ["dynamic"]}},
    "time": {"minProperties": 1},
    "connlimit": {"oneOf": [{"required": ["upto"]}, {"required": ["above"]}]},
    "limit": {"dependencies": {"prefix4": ["per"], "prefix6": ["per"]}},
    "test": {
        "anyOf": [{"required": ["steps"]}, {"required": ["send", "expect"]}],
        "dependencies": {"steps": {"properties": {"send": False, "expect": False}}},
    },
    "step": {
        "oneOf": [{"required": ["send"]}, {"required": ["wait"]}],
        "dependencies": {"wait": {"maxProperties": 1}},
    },
}


def rule_file() -> Schema:
    """Of a rule file."""
    return _document(FILE, "A rule file of ctfw")


def included_file() -> Schema:
    """Of a file that another one includes."""
    return _document(INCLUDED, "A rule file of ctfw that another one includes")


def _document(section: Section, title: str) -> Schema:
    definitions: dict[str, Schema] = {}
    body = _section(section, definitions)
    return {"$schema": DRAFT, "title": title, **body, "definitions": definitions}


def _section(section: Section, definitions: dict[str, Schema]) -> Schema:
    required = [key.name for key in section.keys.values() if key.required]
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {key.name: _key(key, definitions) for key in section.keys.values()},
        **({"required": required} if required else {}),
        **RELATIONS.get(section.title, {}),
    }


def _key(key: Key, definitions: dict[str, Schema]) -> Schema:
    return {"description": key.meaning, **_value(key, definitions)}


def _value(key: Key, definitions: dict[str, Schema]) -> Schema:
    """What a value of this key may look like."""
    simple = _SIMPLE.get(key.kind)
    if simple is not None:
        return simple(key)
    inner = _reference(key.section, definitions) if key.section is not None else {}
    match key.kind:
        case Kind.LIMIT:
            return {"anyOf": [_RATE, inner]}
        case Kind.LOG:
            return {"anyOf": [_SWITCH, inner]}
        case Kind.EXPECT:
            return {"anyOf": [_words(("accept", "drop", "reject")), inner]}
        case Kind.RULES:
            include = {"type": "object", "additionalProperties": False, "required": ["include"]}
            include["properties"] = {"include": _PATHS}
            return {"type": "array", "items": {"anyOf": [inner, include]}}
        case Kind.CHAINS_OF_RULES:
            return _by_name({"type": "array", "items": inner})
        case Kind.SETS:
            return _by_name({"anyOf": [_MEMBERS, _reference(SET, definitions)]})
        case Kind.NEVER:
            return {"anyOf": [inner, {"type": "array", "items": inner}]}
        case Kind.TESTS:
            return {"type": "array", "items": inner}
        case Kind.STEPS:
            return {"type": "array", "items": inner, "minItems": 1}
    assert key.kind in (Kind.SECTION, Kind.CONNLIMIT, Kind.TIME, Kind.ADD), key
    return inner


def _reference(section: Section, definitions: dict[str, Schema]) -> Schema:
    if section.title not in definitions:
        definitions[section.title] = {}
        definitions[section.title] = _section(section, definitions)
    return {"allOf": [{"$ref": f"#/definitions/{section.title}"}]}


def _by_name(value: Schema) -> Schema:
    return {"type": "object", "propertyNames": {"pattern": f"^{NAME.pattern}$"}, "additionalProperties": value}


def _any_case(words: Iterable[str]) -> str:
    """An expression that matches these words whatever their case."""
    letters = ("".join(f"[{c.upper()}{c.lower()}]" if c.isalpha() else c for c in word) for word in words)
    return f"({'|'.join(letters)})"


def _text(*patterns: str) -> Schema:
    return {"type": "string", "pattern": f"^({'|'.join(patterns)})$"}


def _whole(low: int | None, high: int | None) -> Schema:
    limits = {"minimum": low, "maximum": high}
    return {"type": "integer", **{name: value for name, value in limits.items() if value is not None}}


def _words(words: Iterable[str]) -> Schema:
    """One of a few words."""
    words = list(words)
    return {"anyOf": [{"enum": words}, _text(_any_case(words))]}


def _list_of(member: Schema) -> Schema:
    """One value, or a list of them."""
    return {"anyOf": [member, {"type": "array", "items": member, "minItems": 1}]}


def _masks(words: Iterable[str]) -> Schema:
    """Words with `!` and commas."""
    words = list(words)
    one = rf"\s*{_NOT}(any|{_any_case(words)})\s*"
    return _list_of({"anyOf": [{"enum": words}, _text(f"{one}(,{one})*")]})


def _numbers(names: Iterable[str], low: int | None, high: int | None, *patterns: str) -> Schema:
    """Numbers, names for them, sets of them; `patterns` are the other forms of one."""
    names = list(names)
    forms = ["any", _SET, *patterns, *([_any_case(names)] if names else [])]
    enum = [{"enum": names}] if names else []
    return _list_of({"anyOf": [_whole(low, high), *enum, _text(f"{_NOT}({'|'.join(forms)})")]})


_RANGE: Final = rf"{_NUMBER}(\s*-\s*{_NUMBER})?"
_OPEN_RANGE: Final = rf"{_NUMBER}(\s*-\s*({_NUMBER})?)?"
_SPAN: Final = r"[0-9a-zA-Z]*\s*-\s*[0-9a-zA-Z]*"
_DURATION: Final = "(?=.)([0-9]{1,9}d)?([0-9]{1,9}h)?([0-9]{1,9}m)?([0-9]{1,9}s)?"
_RATE: Final = _text("[0-9]{1,7} ?/ ?(second|sec|s|minute|min|hour|day)")
_SWITCH: Final[Schema] = {
    "anyOf": [
        {"type": "boolean"},
        {"enum": [0, 1]},
        _text(_any_case(("on", "off", "yes", "no", "true", "false")), "[01]"),
    ]
}
_PATHS: Final[Schema] = {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}
_MEMBERS: Final[Schema] = {"anyOf": [_SCALAR, {"type": "array", "items": _SCALAR}]}
_DAY: Final = "[A-Za-z]{2,9}"
_CLOCK: Final = "[0-9]{1,2}:[0-9]{2}"
_FLAGS: Final = rf"\s*{_any_case((*TCP_FLAGS, 'all', 'none'))}\s*"
_FLAG_LIST: Final = f"{_FLAGS}(,{_FLAGS})*"

_SIMPLE: Final[dict[Kind, Callable[[Key], Schema]]] = {
    Kind.NUMBER: lambda key: {"anyOf": [_whole(key.low, key.high), _text(_NUMBER)]},
    Kind.CHOICE: lambda key: _words(key.words),
    Kind.ACTION: lambda key: _words(ACTIONS),
    Kind.DURATION: lambda key: {"anyOf": [_whole(key.low, key.high), _text(_NUMBER, _DURATION)]},
    Kind.SWITCH: lambda key: _SWITCH,
    Kind.VERDICT: lambda key: _words(("accept", "drop")),
    Kind.FATE: lambda key: _words(("accept", "drop")),
    Kind.NAME: lambda key: {**_SCALAR, "minLength": 1, "maxLength": MAX_NAME},
    Kind.TEXT: lambda key: _SCALAR,
    Kind.RATE: lambda key: _RATE,
    Kind.PATHS: lambda key: _PATHS,
    Kind.MEMBERS: lambda key: _MEMBERS,
    Kind.STATES: lambda key: _masks(STATE_NAMES.values()),
    Kind.CHAINS: lambda key: _masks(CHAINS),
    Kind.STATUS: lambda key: _masks(STATUS),
    Kind.HELPERS: lambda key: _masks(HELPERS),
    Kind.INTERFACES: lambda key: _list_of(
        {"anyOf": [{"type": ["number", "boolean"]}, _text(rf"{_NOT}({_SET}|[^\s/:!$+*]+\+?|\+)")]}
    ),
    Kind.PROTOS: lambda key: _numbers(PROTOCOLS, 0, 255, _NUMBER),
    Kind.ADDRESSES: lambda key: _list_of(_text(f"{_NOT}(any|{_SET}|[0-9a-fA-F.:/ -]+)")),
    Kind.PORTS: lambda key: _numbers(SERVICES, 0, 65535, _RANGE),
    Kind.ICMP: lambda key: _numbers(ICMP, 0, 255, f"{_NUMBER}(/{_NUMBER})?"),
    Kind.ICMPV6: lambda key: _numbers(ICMPV6, 0, 255, f"{_NUMBER}(/{_NUMBER})?"),
    Kind.TCP_FLAGS: lambda key: _list_of({"anyOf": [{"enum": ["syn"]}, _text(f"{_NOT}{_FLAG_LIST}(/{_FLAG_LIST})?")]}),
    Kind.MARKS: lambda key: _list_of({"anyOf": [_whole(0, 0xFFFFFFFF), _text(f"{_NOT}{_MARK}\\s*(/\\s*{_MARK})?")]}),
    Kind.MARK: lambda key: {"anyOf": [_whole(0, 0xFFFFFFFF), _text(f"{_MARK}\\s*(/\\s*{_MARK})?")]},
    Kind.MARK_BIT: lambda key: {"anyOf": [_whole(8, 0x80000000), _text(_MARK)]},
    Kind.MACS: lambda key: _list_of(_text(f"{_NOT}(any|{_SET}|([0-9a-fA-F]{{2}}[:-]){{5}}[0-9a-fA-F]{{2}})")),
    Kind.HOPS: lambda key: _numbers((), 0, 255, _OPEN_RANGE),
    Kind.LENGTHS: lambda key: _numbers((), 0, None, _OPEN_RANGE),
    Kind.DSCPS: lambda key: _numbers(DSCP, 0, 63, _NUMBER),
    Kind.SECONDS: lambda key: _numbers((), None, 0, _SPAN),
    Kind.PACKETS: lambda key: _numbers((), None, 0, _SPAN),
    Kind.OCTETS: lambda key: _numbers((), None, 0, _SPAN),
    Kind.DAYS: lambda key: _list_of(_text(rf"\s*{_DAY}\s*(-\s*{_DAY}\s*)?")),
    Kind.HOURS: lambda key: _list_of(_text(rf"\s*{_CLOCK}\s*-\s*{_CLOCK}\s*")),
    Kind.ZONE: lambda key: {"type": "string"},
    Kind.WORD: lambda key: _SCALAR,
    Kind.PORT_NUMBERS: lambda key: _list_of(
        {"anyOf": [_whole(1, 65535), {"enum": list(SERVICES)}, _text(_RANGE, _any_case(SERVICES))]}
    ),
    Kind.ZONES: lambda key: {
        "type": "object",
        "additionalProperties": {"anyOf": [_whole(1, 65535), _text(_NUMBER)]},
    },
    Kind.PACKET: lambda key: {"type": "string"},
    Kind.DEVICE: lambda key: _SCALAR,
    Kind.MOMENT: lambda key: {"type": "string"},
    Kind.SIZE: lambda key: {"type": ["string", "integer"]},
}
