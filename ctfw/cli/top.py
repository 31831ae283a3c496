"""`ctfw top`: the connections that do most, every few seconds; keys as in iptstate and pftop, batch mode as in top.

The screen belongs to curses for as long as it runs, also when it ends by an error or Ctrl-C. The table comes packed
(service/packed.py), so that a large one costs the daemon little; a refresh takes what it takes, and the next one begins
DELAY after it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import curses
import time
from typing import Any, Final

from ctfw.cli.selecting import add_filters, selected
from ctfw.cli.socket_option import add_socket
from ctfw.cli.top_view import HEADS, ORDERS, Looked, lines, short
from ctfw.service.client import Client, socket_path
from ctfw.service.packed import unpacked
from ctfw.service.selection import Selection

DELAY: Final = 2.0  # seconds
_BATCH_ROWS: Final = 1 << 30
_STEPS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
_ESCAPE: Final = 27
_LONGEST: Final = 200  # characters of a filter
_HELP: Final = (
    "q, Esc     quit                        space     look now",
    "s          the next order              r         the order reversed",
    "1 to 9     order by SOURCE, DESTINATION, PROTO, STATE, TTL, PACKETS, BYTES, RATE, age",
    "d          another delay: 0.5, 1, 2, 5, 10 or 30 seconds",
    "/          only some, as in: proto=tcp dport=22 src=192.168.1.0/24; nothing for all",
    "h          this help, until the next key",
)


def add(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the command to the parser."""
    parser = subparsers.add_parser(
        "top",
        help="watch the connections that do most",
        description="Shows the connections that do most, and how fast. Keys: h tells them.",
    )
    parser.add_argument("-b", "--batch", action="store_true", help="print lines instead of a screen, all connections")
    parser.add_argument("-n", "--count", type=int, default=0, metavar="N", help="end after so many looks")
    between = "between two looks (default: 2)"
    parser.add_argument("-d", "--delay", type=_seconds, default=DELAY, metavar="SECONDS", help=between)
    parser.add_argument("--sort", choices=ORDERS, default="rate", help="order by this (default: rate)")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="so many connections at most")
    add_filters(parser, without=("-d",))
    add_socket(parser)
    parser.set_defaults(handler=top)


def top(arguments: argparse.Namespace) -> int:
    """`ctfw top`; returns the exit code."""
    with Client(socket_path(arguments.socket)) as client:
        watch = _Watch(client, selected(arguments), arguments.sort, arguments.reverse)
        if arguments.batch:
            return _batch(watch, arguments.count, arguments.delay, arguments.rows or _BATCH_ROWS)
        curses.wrapper(lambda screen: _Screen(screen, watch, arguments.delay, arguments.rows).run(arguments.count))
    return 0


class _Watch:
    """The looks at the table, and the order in which they are shown."""

    def __init__(self, client: Client, only: dict[str, str], order: str, backwards: bool) -> None:
        self.order = order
        self.backwards = backwards
        self._client = client
        self._only = only
        self._looked: Looked | None = None

    def pick(self, text: str) -> str:
        """From the next look on only those that the words say; why not, when they cannot be meant."""
        words = {name: value for name, _, value in (word.partition("=") for word in text.split())}
        try:
            Selection(words)
        except ValueError as error:
            return str(error)
        self._only = words
        return ""

    def look(self) -> None:
        """Asks for the table as it is now."""
        pages = self._client.pages("list", form="packed", only=self._only)
        conns = [conn for one in pages for conn, _ in unpacked(one)]
        self._looked = Looked(conns, time.monotonic_ns(), self._looked)

    def text(self, most: int) -> list[str]:
        """One line about all of them, an empty one, the heading, and a line for each of the first ``most``."""
        if self._looked is None:
            return []
        rows = self._looked.rows
        rate = short(sum(row.rate for row in rows))
        order = f"{self.order}{' reversed' if self.backwards else ''}"
        at = time.strftime("%H:%M:%S")
        head = f"ctfw top - {at}  connections {len(rows)}  rate {rate}B/s  sorted by {order}"
        return [head, "", *lines(self._looked.first(most, self.order, self.backwards))]


def _batch(watch: _Watch, count: int, delay: float, most: int) -> int:
    looks = 0
    while True:
        watch.look()
        print("\n".join(watch.text(most)), flush=True)
        looks += 1
        if looks == count:
            return 0
        print()
        time.sleep(delay)


class _Screen:
    def __init__(self, screen: Any, watch: _Watch, delay: float, most: int) -> None:
        self._screen = screen
        self._watch = watch
        self._delay = delay
        self._most = most
        self._helping = False
        self._said = ""
        screen.keypad(True)
        with contextlib.suppress(curses.error):  # a terminal that cannot hide it
            curses.curs_set(0)

    def run(self, count: int) -> None:
        """Looks and draws until a key says quit, or ``count`` times."""
        looks = 0
        while True:
            self._watch.look()
            looks += 1
            self._draw()
            if looks == count:
                return
            until = time.monotonic() + self._delay
            while (left := until - time.monotonic()) > 0:
                self._screen.timeout(max(int(left * 1000), 1))
                key = self._screen.getch()
                if key in (ord("q"), _ESCAPE):
                    return
                if key == ord(" ") or (key == ord("/") and self._ask()):
                    break
                if key != -1:
                    self._obey(key)
                    self._draw()

    def _ask(self) -> bool:
        """Has a filter typed; True when it is one."""
        curses.echo()
        self._screen.timeout(-1)
        self._screen.move(1, 0)
        self._screen.clrtoeol()
        self._screen.addstr(1, 0, "only: ")
        text = self._screen.getstr(1, 6, _LONGEST).decode("utf-8", "replace")
        curses.noecho()
        self._said = self._watch.pick(text)
        self._draw()
        return not self._said

    def _obey(self, key: int) -> None:
        watch = self._watch
        self._helping = key in (ord("h"), ord("?")) and not self._helping
        if key == ord("s"):
            watch.order = ORDERS[(ORDERS.index(watch.order) + 1) % len(ORDERS)]
        elif key == ord("r"):
            watch.backwards = not watch.backwards
        elif ord("1") <= key <= ord("9"):
            watch.order = ORDERS[key - ord("1")]
        elif key == ord("d"):
            self._delay = next((step for step in _STEPS if step > self._delay), _STEPS[0])

    def _draw(self) -> None:
        self._screen.erase()
        height, width = self._screen.getmaxyx()
        room = max(height - 4, 1)
        text = self._watch.text(min(room, self._most) if self._most else room)
        text[1] = self._said or f"every {self._delay:g} s   q quit, h help"
        self._said = ""
        if self._helping:
            text[2:] = list(_HELP)
        for at, line in enumerate(text[: height - 1]):
            self._screen.addnstr(at, 0, line, width - 1, curses.A_REVERSE if line.startswith(HEADS[0]) else 0)
        self._screen.refresh()


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds between 0.1 and 3600")
    return seconds
