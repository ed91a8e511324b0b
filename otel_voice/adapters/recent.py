"""A table that forgets: what an adapter remembers of a call stays small however long the call is."""

from __future__ import annotations

from typing import TypeVar

V = TypeVar("V")


class Recent(dict[str, V]):
    """The last 512 keys set; late messages ask for no older ones."""

    LIMIT = 512

    def __setitem__(self, key: str, value: V) -> None:
        super().__setitem__(key, value)
        if len(self) > self.LIMIT:
            del self[next(iter(self))]
