"""A rate limit as a token bucket: one token every ``interval`` nanoseconds, ``burst`` of them at most."""

from mypy_extensions import i64


class Limit:
    """Starts full. Time only moves forwards here: an earlier ``now`` than the last one adds nothing."""

    def __init__(self, interval: int, burst: int) -> None:
        self.interval: i64 = interval
        self.burst: i64 = burst
        self._empty_at: i64 = -1  # the time at which the bucket was, or will have been, without a token

    def take(self, now: i64) -> bool:
        """Takes a token; False when there is none."""
        full = now - self.burst * self.interval
        if self._empty_at < full or self._empty_at == -1:
            self._empty_at = full
        if self._empty_at + self.interval > now:
            return False
        self._empty_at += self.interval
        return True
