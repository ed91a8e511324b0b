"""What the writer does when nobody waits: it puts the index of words together, and makes unreadable what was erased."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from otel_voice.store import words

# The index is put in order by so many pages at a time (some 2 ms), so often before it is seen who waits elsewhere.
PAGES = 32
STEPS = 10
# Nobody has asked for so long.
QUIET_S = 0.02
# Where what was erased still is: in the write-ahead log, and in parts of the index of words.
LOG, WORDS = 1, 2


class Tidying:
    """`to_wipe` is what an earlier process left to do; `on_damaged_words` hears of an index that is none. All in the
    writer's thread."""

    def __init__(
        self,
        db: sqlite3.Connection,
        has_words: bool,
        to_wipe: int,
        is_waited_for: Callable[[], bool],
        on_damaged_words: Callable[[sqlite3.Error], None],
    ) -> None:
        self._db, self.has_words, self._is_waited_for = db, has_words, is_waited_for
        self._on_damaged_words = on_damaged_words
        self._to_merge, self._to_wipe, self._wiping = has_words, to_wipe, False

    @property
    def is_needed(self) -> bool:
        return self._to_merge or self._to_wipe > 0

    def words_came(self) -> None:
        self._to_merge = self.has_words

    def erased(self, said: bool) -> None:
        """In the transaction that erases."""
        # While the index is made anew, the words may be in a part that is done already: so from the beginning.
        self._to_wipe, self._wiping = max(self._to_wipe, WORDS if said else LOG), False
        # What an earlier try could not do is still to be done.
        self._db.execute("UPDATE counters SET value = max(value, ?) WHERE name = 'to_wipe'", (self._to_wipe,))

    def go_on(self) -> None:
        """With everything, outside a transaction."""
        self.wipe()
        if self._to_merge:
            self._try(self._merge_some)

    def wipe(self) -> None:
        if self._to_wipe:
            self._try(self._wipe)

    def _try(self, step: Callable[[], None]) -> None:
        """What fails is stored; the next start goes on with it, and what is wrong shows at the next commit."""
        try:
            step()
        except sqlite3.Error:
            self._to_merge, self._to_wipe = False, 0

    def _merge_some(self) -> None:
        self._to_merge = not self._merge()

    def _wipe(self) -> None:
        """Out of the index of words, and then out of the write-ahead log, once nobody reads there."""
        if self.has_words and self._to_wipe == WORDS and not self._wipe_words():
            return
        self._db.execute("PRAGMA busy_timeout = 0")
        try:
            (busy, _, _) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self._db.execute("PRAGMA busy_timeout = 5000")
        if not busy:
            self._db.execute("UPDATE counters SET value = 0 WHERE name = 'to_wipe'")
            self._to_wipe = 0

    def _wipe_words(self) -> bool:
        """Says whether it is done."""
        first, self._wiping = not self._wiping, True
        self._wiping = not self._merge(from_the_beginning=first)
        return not self._wiping

    def _merge(self, from_the_beginning: bool = False) -> bool:
        """Says whether it is done."""
        try:
            if from_the_beginning:
                words.merge(self._db, -PAGES)
            return self._merge_steps()
        except sqlite3.Error as error:
            if not words.may_be_theirs(error):
                raise
            self._on_damaged_words(error)
            return True

    def _merge_steps(self) -> bool:
        for _ in range(STEPS):
            if not words.merge(self._db, PAGES):
                return True
            if self._is_waited_for():
                break
        return False
