"""What a rule file was read by, and rules that are over, are freed in small steps.

Freeing an object frees whatever it alone has held, and so on: the tree of a file with ten thousand rules is half a
million objects and thirty milliseconds of C, in which nothing else runs. So they are gathered first in one list, each
behind all that it holds, and let go from its end: then each frees itself alone, for the list still holds the rest. Both
are loops of Python that a signal may interrupt. Nothing is changed by them, so what somebody else still holds stays as
it was; it only costs the time to look at it.

Only what rule files are made of is gone into. The rest (texts, numbers, connections) is freed with its owner, unless he
has very many.
"""

import gc
from collections.abc import Iterable, Iterator
from types import CellType, FunctionType, MethodType
from typing import Final

_OURS: Final = ("ctfw.config", "ctfw.ruleset")
_PLAIN: Final = frozenset({dict, list, tuple, set, frozenset, CellType, MethodType, FunctionType})
_MANY: Final = 100  # of a list, that are freed in microseconds
_PARTS: Final = 256  # of what has been seen: it is freed as well, a part at a time


def gather(roots: Iterable[object], found: list[object] | None = None) -> list[object]:
    """All that the roots hold, themselves included, each behind what it holds; in the list that is given, if one is.

    A copy of the list would be a step of its own: it touches every object in it.
    """
    found = [] if found is None else found
    seen: list[set[int]] = [set() for _ in range(_PARTS)]
    known: dict[type, bool] = {}  # is one of this type gone into?
    ways: list[tuple[object, Iterator[object], bool]] = [(None, iter(list(roots)), True)]
    while ways:
        owner, held, is_large = ways[-1]
        for one in held:
            kind = type(one)
            into = known.get(kind)
            if into is None:
                into = known[kind] = kind in _PLAIN or str(kind.__module__).startswith(_OURS)
            if not into:
                if is_large:
                    found.append(one)
                continue
            part = seen[(id(one) >> 4) % _PARTS]
            if id(one) not in part:
                part.add(id(one))
                inside = _held(one)
                ways.append((one, iter(inside), len(inside) > _MANY))
                break
        else:
            ways.pop()
            found.append(owner)
    while seen:
        seen.pop()
    return found


def let_go(gathered: list[object]) -> None:
    """Frees what nobody else holds of what was gathered; the list is empty then."""
    while gathered:
        gathered.pop()


def _held(one: object) -> list[object]:
    """What it refers to, but for what is the module's of a function."""
    if isinstance(one, FunctionType):
        return [one.__closure__, one.__defaults__]
    return gc.get_referents(one)
