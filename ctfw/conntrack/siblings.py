"""What one tracker must know of others that share its traffic: the seam to the workers of other queues.

With several workers each packet goes to the one that its pair of addresses and its protocol choose, so a connection
stays with one of them. Two things do not: an ICMP error comes from anywhere and quotes a connection of somebody else,
and a helper announces connections between other addresses, or of another protocol, than its own. So a tracker tells
what it announces, before the verdict on the packet that announced it leaves, and asks when it does not know something
itself. Who announced an expectation owns it: it alone says whether it still holds, and gives it to one asker.

The methods here are those of somebody who is alone. How the others are reached is not known here (``ctfw.workers``).
"""

from mypy_extensions import i64, mypyc_attr

from ctfw.conntrack.conn import Conn


@mypyc_attr(allow_interpreted_subclasses=True)
class Siblings:
    """To be subclassed. Only rare packets get here, but for ``catch_up``."""

    def __init__(self) -> None:
        self.assigned: i64 = 0
        # Where to see whether somebody has said something: these places of the page then differ from what was read.
        self.page: memoryview | None = None
        self.places: list[int] = []
        self.read: list[int] = []

    def catch_up(self) -> None:
        """Takes note of all that the others have told by now. Ahead of each packet."""

    def elsewhere(self, own: i64) -> i64:
        """How many connections the others have; ``own`` is how many are here, for them to know."""
        return 0

    def expected_elsewhere(self, own: i64) -> i64:
        """The same of expectations."""
        return 0

    def announce(self, target: bytes, src: bytes, prefix: i64, sport: bytes) -> None:
        """Tells the others of an expectation that was just added (its fields as in ``expect``)."""

    def clash(self, target: bytes, src: bytes, prefix: i64, sport: bytes, known_elsewhere: bool, now: i64) -> i64:
        """Whether one of another worker stands in the way of one to be added: 0, or what ``Expectations.add`` says."""
        return 0

    def take(self, key: bytes, now: i64) -> Conn | None:
        """The master of another worker's expectation that a new connection with ``key`` fulfils, now taken there.

        ``assigned`` is then the helper that the new connection gets.
        """
        return None

    def find(self, key: bytes, now: i64) -> Conn | None:
        """A copy of the connection that another worker has under ``key``: what rules may ask about it."""
        return None

    def tell_call(self, master: Conn, keys: list[bytes]) -> None:
        """Tells the others of a PPTP call's two directions."""

    def forget_call(self, master: Conn) -> None:
        """Tells the others that nothing is known of this connection's call any more."""

    def end_call(self, keys: list[bytes]) -> None:
        """Tells the others that a call is over, and its tunnel with it."""

    def tell_member(self, name: str, address: bytes, length: i64, ttl: i64, now: i64) -> None:
        """Tells the others of a member that was added to a dynamic set (``ttl`` -1: without an end)."""

    def forget_member(self, name: str, address: bytes, length: i64, now: i64) -> None:
        """Tells the others of a member that was taken out of a dynamic set."""


def is_behind(siblings: Siblings) -> bool:
    """True when there may be something to catch up with. (A method would be looked up in the subclass each time.)"""
    page = siblings.page
    if page is None:
        return True
    places = siblings.places
    read = siblings.read
    for at in range(len(places)):
        if page[places[at]] != read[at]:
            return True
    return False
