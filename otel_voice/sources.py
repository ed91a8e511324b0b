"""Sources and their numbers: what is new, what is missing, and in which order it is told.

A source is one page load or one process; its events are numbered from 0.
"""

from __future__ import annotations

from msgspec import Struct, field

from otel_voice.events import WireEvent

# A source with more refused events than this is broken, and what it lost is a guess.
REFUSED = 10_000


class Arrived(Struct):
    """An event with its corrected time (ms), its arrival (ms by the receiver's clock) and an id of its own."""

    source: str
    seq: int | None
    key: str
    t: float
    at: float
    event: WireEvent
    told: bool = False
    counted: bool = True


class Numbers(Struct):
    """Which of 0, 1, 2, … were seen: all below `below`, and those in `above`."""

    below: int = 0
    above: set[int] = field(default_factory=set)
    top: int = -1  # the highest

    def __contains__(self, number: int) -> bool:
        return number < self.below or number in self.above

    def add(self, number: int) -> bool:
        """False when it was seen before."""
        if number in self:
            return False
        self.top = max(self.top, number)
        self.above.add(number)
        while self.below in self.above:
            self.above.remove(self.below)
            self.below += 1
        return True

    @property
    def count(self) -> int:
        return self.below + len(self.above)


class Source(Struct):
    numbers: Numbers = field(default_factory=Numbers)  # that came
    told: Numbers = field(default_factory=Numbers)  # that were folded
    unnumbered: int = 0
    refused: set[int] = field(default_factory=set)  # numbers of events that were not taken, and are not lost
    last_seq: int = -1  # what its session_end said
    floor: float = 0.0  # the time of the highest that was told: a source's clock may jump, its order does not
    checksums: dict[int, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        top = max(self.last_seq, self.told.top)
        return top + 1 - self.told.count - sum(seq <= top for seq in self.refused)

    def refuse(self, seq: int) -> None:
        if seq not in self.numbers and len(self.refused) < REFUSED:
            self.refused.add(seq)

    def take(self, seq: int) -> bool:
        """False when it was taken before."""
        self.refused.discard(seq)
        return self.numbers.add(seq)

    def tell(self, seq: int | None, t: float) -> None:
        """An event was folded, at the time `t`."""
        if seq is None:
            self.unnumbered += 1
            return
        if seq > self.told.top:
            self.floor = t
        self.told.add(seq)

    def remember(self, seq: int, checksum: int) -> None:
        """Enough of the recent past to tell a repetition from another event under the same number."""
        self.checksums[seq] = checksum
        if len(self.checksums) > 256:
            del self.checksums[next(iter(self.checksums))]


def in_order(waiting: list[Arrived], sources: dict[str, Source]) -> list[tuple[float, Arrived]]:
    """The one order of these events, whatever order they came in: by time, each source's own by its numbers.

    Pairs of the time at which to tell an event (never before its source's previous one) and the event."""
    floors = {arrived.source: sources[arrived.source].floor for arrived in waiting}
    ordered = []
    for arrived in sorted(waiting, key=lambda a: (a.source, -1 if a.seq is None else a.seq, a.t)):
        t = arrived.t
        if arrived.seq is not None and arrived.seq > sources[arrived.source].told.top:
            t = floors[arrived.source] = max(t, floors[arrived.source])
        ordered.append((t, arrived))
    ordered.sort(key=lambda pair: pair[0])  # stable: ties stay by source and number
    return ordered
