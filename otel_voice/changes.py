"""Changes: what a listener is yet to hear of the sessions' rows that were written."""

from __future__ import annotations

from collections.abc import Sequence

from otel_voice.store import SessionRow


class Changes:
    """The summaries of rows that were written since the last look; of more than `MOST`, those of the latest made."""

    MOST = 200

    def __init__(self) -> None:
        self.at = 0.0
        self._rows: dict[int, bytes] = {}

    def note(self, rows: Sequence[SessionRow], at: float) -> None:
        """As they were written at the time `at` (ms), unless that was read already."""
        if at <= self.at:
            return
        self.at = at
        self._rows |= {row.no: row.summary for row in rows}
        self._cut()

    def add_older(self, rows: Sequence[SessionRow], at: float) -> None:
        """What was written up to the time `at`; a row that has changed since is known better."""
        self.at = max(self.at, at)
        self._rows = {row.no: row.summary for row in rows} | self._rows
        self._cut()

    def _cut(self) -> None:
        for no in sorted(self._rows)[: -self.MOST]:
            del self._rows[no]

    def take(self) -> list[bytes]:
        """The latest made first."""
        taken, self._rows = self._rows, {}
        return [taken[no] for no in sorted(taken, reverse=True)]
