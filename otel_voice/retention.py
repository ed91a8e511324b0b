"""Retention: what was delivered is let go of when it is old or the store is nearly full; undelivered spans never."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from otel_voice.loud import OnceAMinute
from otel_voice.sessions import Sessions
from otel_voice.store import Store, Unavailable

log = logging.getLogger(__name__)

EVERY_S = 1.0
# Nothing gets old in less, and a round looks at every session.
REST_S = 60.0
# From here on the oldest sessions go, so that there is room before new work has to be refused.
NEARLY_FULL = 0.9
DAY_MS = 86_400_000.0


class Retention:
    """`days` is how long a delivered session is kept; with `delivered` False, spans need not have gone anywhere.
    The clock gives seconds since the epoch."""

    def __init__(
        self, store: Store, sessions: Sessions, clock: Callable[[], float], days: float, delivered: bool = True
    ) -> None:
        self._store, self._sessions, self._clock = store, sessions, clock
        self._days, self._delivered = days, delivered
        self._seen, self._was_pressed = 0, False
        self._rest_until = 0.0
        self._full = OnceAMinute()

    async def run(self) -> None:
        """Sweeps for ever."""
        while True:
            try:
                await self.sweep()
            except Unavailable as error:
                log.debug("retention waits for the store: %s", error)
            await asyncio.sleep(EVERY_S)

    @property
    def _pressed(self) -> bool:
        return self._store.used_bytes > NEARLY_FULL * self._store.max_bytes

    async def sweep(self) -> None:
        """Looks at some sessions, from the oldest on, and lets go of those that may go."""
        if (why := self._store.refuses) is not None:
            self._full.say(log.error, "new work is refused: %s; see `otel-voice doctor`", why)
        if not self._pressed and self._clock() < self._rest_until:
            return
        if self._pressed and not self._was_pressed:
            self._seen = 0  # the oldest first
        self._was_pressed = self._pressed
        old = self._clock() * 1000 - self._days * DAY_MS
        before = float("inf") if self._pressed else old
        past, last = await asyncio.to_thread(self._store.reader.past, self._seen, before, self._delivered)
        for no, session_id in past:
            if before > old and not self._pressed:
                return
            await self._sessions.retire(no, session_id, self._delivered)
        self._seen = last or 0
        if last is None:
            self._rest_until = self._clock() + REST_S
