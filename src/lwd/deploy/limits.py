"""What a server allows its clients."""

from __future__ import annotations

from dataclasses import dataclass

from lwd.config import require


@dataclass(frozen=True)
class Limits:
    """Limits of a server, and how it collects requests."""

    batch: int = 64
    """Observations that are planned for together at most."""
    wait_ms: float = 2.0
    """Milliseconds that the first of them waits for others."""
    queue: int = 256
    """Requests that may wait; to others the answer is 503."""
    bytes: int = 1 << 18
    """Size of a message at most; to larger ones the answer is 413."""
    rate_limit: float = 1000.0
    """Requests per second of one client (an address) at most; to others the answer is 429."""

    def __post_init__(self) -> None:
        least = min(self.batch, self.queue, self.bytes, self.rate_limit)
        require(least > 0 and self.wait_ms >= 0, "batch, queue, bytes and rate-limit must be above 0, and wait-ms not below 0")


class Rates:
    """Who may ask now: each client `per_second` times a second on average, and as many at once."""

    def __init__(self, per_second: float) -> None:
        self.per_second, self.due = per_second, dict[str, float]()  # when a client will have paid for what it asked

    def allows(self, client: str, now: float) -> bool:
        """Books one request at a time `now` in seconds, unless it is one too many."""
        due = max(self.due.get(client, now), now) + 1 / self.per_second
        if due > now + max(1.0, 1 / self.per_second):
            return False
        self.due[client] = due
        if len(self.due) > 1000:
            self.due = {name: time for name, time in self.due.items() if time > now}
        return True
