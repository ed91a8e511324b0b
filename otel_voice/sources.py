"""Sources and their numbers: what is new, what is missing, and in which order it is told.

A source is one page load or one process; its events are numbered from 0. Sets that are mostly empty are dicts here:
an empty one takes a third of the memory, and every open session has some.
"""

from __future__ import annotations

from array import array
from bisect import insort

from msgspec import Struct, field

from otel_voice.events import WireEvent

# A source with more refused events than this is broken, and what it lost is a guess.
REFUSED = 10_000
# The recent past in which a repetition is told from another event under the same number.
REMEMBERED = 256


class Arrived(Struct):
    """An event with its corrected time (ms), its arrival (ms by the receiver's clock) and an id of its own."""

    source: str
    seq: int | None
    t: float
    at: float
    event: WireEvent
    mark: str = ""  # in place of a number
    told: bool = False
    counted: bool = True

    @property
    def key(self) -> str:
        return f"{self.source}:{self.mark or self.seq}"


class Numbers(Struct):
    """Which of 0, 1, 2, … were seen: all below `below`, and those in `above`."""

    below: int = 0
    above: dict[int, None] = field(default_factory=dict)
    top: int = -1  # the highest

    def __contains__(self, number: int) -> bool:
        return number < self.below or number in self.above

    def add(self, number: int) -> bool:
        """False when it was seen before."""
        if number < self.below or number in self.above:
            return False
        if number > self.top:
            self.top = number
        if number != self.below:
            self.above[number] = None
            return True
        self.below += 1
        while self.above and self.below in self.above:
            del self.above[self.below]
            self.below += 1
        return True

    @property
    def count(self) -> int:
        return self.below + len(self.above)


class Source(Struct):
    numbers: Numbers = field(default_factory=Numbers)  # that came
    told: Numbers = field(default_factory=Numbers)  # that were folded
    unnumbered: int = 0
    refused: dict[int, None] = field(default_factory=dict)  # of events that were not taken, and are not lost
    last_seq: int = -1  # what its session_end said
    # The time of the highest that was told, and of the highest that waits: a source's clock may jump, its order not.
    floor: float = 0.0
    queued_floor: float = 0.0
    queued_top: int = -1
    checksums: array[int] | None = None

    @property
    def lost(self) -> int:
        top = max(self.last_seq, self.told.top)
        return top + 1 - self.told.count - sum(seq <= top for seq in self.refused)

    def refuse(self, seq: int) -> None:
        if seq not in self.numbers and len(self.refused) < REFUSED:
            self.refused[seq] = None

    def take(self, seq: int, checksum: int) -> bool:
        """False when it was taken before."""
        if self.refused:
            self.refused.pop(seq, None)
        if not self.numbers.add(seq):
            return False
        if seq <= self.numbers.top - REMEMBERED:
            return True
        if self.checksums is None:
            self.checksums = array("I")
        place, known = seq % REMEMBERED, len(self.checksums)
        if place < known:
            self.checksums[place] = checksum
        else:
            if place > known:
                self.checksums.extend([0] * (place - known))
            self.checksums.append(checksum)
        return True

    def conflicts(self, seq: int, checksum: int) -> bool:
        """Whether a number that was taken before, and not long ago, meant another event."""
        if seq <= self.numbers.top - REMEMBERED or self.checksums is None:
            return False
        return self.checksums[seq % REMEMBERED] != checksum

    def tell(self, seq: int | None, t: float) -> None:
        """An event was folded, at the time `t`."""
        if seq is None:
            self.unnumbered += 1
            return
        if seq > self.told.top:
            self.floor = t
        self.told.add(seq)


# The time at which to tell an event (never before its source's previous one), what decides between equal times, and it.
Told = tuple[float, str, int, int, Arrived]


class Waiting:
    """Events that are yet to be told, in the one order in which they will be, whatever order they came in: by time,
    each source's own by its numbers."""

    __slots__ = ("_came", "_order", "_sources", "arrived")

    def __init__(self, sources: dict[str, Source]) -> None:
        self._sources = sources
        self.arrived: list[Arrived] = []  # as they came; the first of them is yet to be told
        self._order: list[Told] | None = []  # None: to be made anew
        self._came = 0

    def __bool__(self) -> bool:
        return bool(self.arrived)

    def add(self, arrived: Arrived) -> None:
        self.arrived.append(arrived)
        self._came += 1
        if self._order is None:
            return
        source, seq = self._sources[arrived.source], arrived.seq
        if seq is not None and source.told.top < seq < source.queued_top:
            # Those of its source that wait behind it may have to wait longer.
            self._order = None
            return
        told = _placed(source, arrived, self._came)
        if not self._order or told > self._order[-1]:
            self._order.append(told)
        else:
            insort(self._order, told)

    @property
    def order(self) -> list[Told]:
        if self._order is None:
            self._order = self._in_order()
        return self._order

    def _in_order(self) -> list[Told]:
        numbered = [(number, arrived) for number, arrived in enumerate(self.arrived, -self._came) if not arrived.told]
        for _, arrived in numbered:
            source = self._sources[arrived.source]
            source.queued_top, source.queued_floor = source.told.top, source.floor
        numbered.sort(key=lambda pair: -1 if pair[1].seq is None else pair[1].seq)
        return sorted(_placed(self._sources[arrived.source], arrived, number) for number, arrived in numbered)

    def older(self, age: float, at: float) -> int:
        """How many of the order to tell, so that at the time `at` nothing of this age waits."""
        missing = 0
        for arrived in self.arrived:
            if arrived.at + age > at:
                break
            missing += not arrived.told
        if missing:
            for count, told in enumerate(self.order, 1):
                missing -= told[-1].at + age <= at
                if not missing:
                    return count
        return 0

    def take(self, count: int) -> list[Told]:
        """The first so many of the order, which leave it."""
        if not count:
            return []
        taken = self.order[:count]
        del self.order[:count]
        for told in taken:
            told[-1].told = True
        gone = next((n for n, arrived in enumerate(self.arrived) if not arrived.told), len(self.arrived))
        del self.arrived[:gone]
        return taken


def _placed(source: Source, arrived: Arrived, number: int) -> Told:
    """Where it belongs, told that none of its source waits that comes after it."""
    t, seq = arrived.t, arrived.seq
    if seq is None:
        return t, arrived.source, -1, number, arrived
    if seq > source.queued_top:
        if t < source.queued_floor:
            t = source.queued_floor
        source.queued_top, source.queued_floor = seq, t
    return t, arrived.source, seq, number, arrived
