"""Rate limits as token buckets: a token every ``interval`` nanoseconds, ``burst`` of them at most.

A bucket is one number, the time at which it was, or will have been, without a token. So the table of a limit per
prefix is a dictionary from prefix to integer; a prefix that is not in it has a full bucket, and the one that was used
least recently makes room when the table is full (it is the one most likely to be full again).

Buckets start full. Time only moves forwards here: an earlier ``now`` than the last one adds nothing.
"""

from typing import Final

from mypy_extensions import i64

from ctfw.packet import Packet
from ctfw.ruleset.prefix import Per

MOST: Final = 65536  # prefixes of one rule


class Limit:
    """One bucket."""

    def __init__(self, interval: int, burst: int) -> None:
        self.interval: i64 = interval
        self.burst: i64 = burst
        self._empty_at: i64 = -(1 << 62)

    def take(self, now: i64) -> bool:
        """Takes a token; False when there is none."""
        full = now - self.burst * self.interval
        if self._empty_at < full:
            self._empty_at = full
        if self._empty_at + self.interval > now:
            return False
        self._empty_at += self.interval
        return True

    def has(self, now: i64) -> bool:
        """True when there is a token to take."""
        full = now - self.burst * self.interval
        empty_at = self._empty_at if self._empty_at > full else full
        return empty_at + self.interval <= now


class RateLimit:
    """A rule's ``limit``: matches while there are tokens; with ``over``, when there are none.

    With ``per`` every source or destination has a bucket of its own. A packet without that address never matches.
    """

    def __init__(self, interval: int, burst: int, per: Per | None = None, over: bool = False, most: int = MOST) -> None:
        self.per = per
        self.over = over
        self.most: i64 = most
        self.limit = Limit(interval, burst)
        self._empty_at: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._empty_at)

    def matches(self, packet: Packet, now: i64, take: bool) -> bool:
        """Is the packet within the rate (``over``: above it)? ``take``: and it counts."""
        per = self.per
        if per is None:
            within = self.limit.take(now) if take else self.limit.has(now)
            return within != self.over
        prefix = per.of(packet)
        if len(prefix) == 0:
            return False
        interval = self.limit.interval
        full = now - self.limit.burst * interval
        empty_at: i64 = self._empty_at.get(prefix, full)
        if empty_at < full:
            empty_at = full
        within = empty_at + interval <= now
        if take and within:
            if prefix in self._empty_at:
                del self._empty_at[prefix]  # so that it goes to the end of the dictionary
            elif len(self._empty_at) >= self.most:
                del self._empty_at[next(iter(self._empty_at))]
            self._empty_at[prefix] = empty_at + interval
        return within != self.over

    def inherit(self, other: "RateLimit | None") -> None:
        """Takes over the buckets of the rule's former self, when it limited to the same."""
        if other is None or self.limit.interval != other.limit.interval or self.limit.burst != other.limit.burst:
            return
        if self.per is None and other.per is None:
            self.limit = other.limit
        elif self.per is not None and self.per.is_like(other.per):
            self._empty_at = other._empty_at
