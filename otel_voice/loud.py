"""Log lines that may come a thousand times a second: one a minute is as loud, and can be read."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 60.0


class OnceAMinute:
    """Lets one line a minute through, which says how many were held back. `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._said_at = float("-inf")
        self._held_back = 0

    def say(self, write: Callable[..., None], message: str, *values: object) -> bool:
        """`write` is a logger's method. False when the line was held back."""
        if self._clock() - self._said_at < EVERY_S:
            self._held_back += 1
            return False
        more = f" ({self._held_back} more like this since the last line)" if self._held_back else ""
        self._said_at, self._held_back = self._clock(), 0
        write(message + "%s", *values, more)
        return True
