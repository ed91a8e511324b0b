"""A turn and what is in it: words, speech, responses, tools. Times are milliseconds."""

from __future__ import annotations

from typing import Any

from msgspec import UNSET, Struct, field

from otel_voice import events as e

# How bounds were measured that say that there was sound, but not that it was speech.
ENERGY = "energy"
PAUSE_MS = 1_500.0


class Item(Struct):
    """What was said in one go, final or in chunks."""

    chunks: list[str] = field(default_factory=list)
    final: bool = False
    wordless: bool = True  # nothing has come yet
    readable: bool = False  # it has more than blanks


class Said(Struct):
    """One side's words in a turn: items in the order they were first seen."""

    items: dict[str, Item] = field(default_factory=dict)
    whole: str | None = None
    anonymous: int = 0
    # Every event asks these; joining the text for it would cost ever more.
    wordless: int = 0
    readable: int = 0
    final: int = 0

    def announce(self, item_id: str) -> Item:
        if (item := self.items.get(item_id)) is None:
            item = self.items[item_id] = Item()
            self.wordless += 1
        return item

    def add(self, item_id: str | None, text: str, final: bool) -> None:
        item = self.announce(item_id or f"#{self.anonymous}")
        if final:
            self._finish(item)
            self.anonymous += not item_id
        elif item.final:
            return
        if item.wordless and (text or final):
            item.wordless = False
            self.wordless -= 1
        if text:
            item.chunks.append(text)
        if not item.readable and text.strip():
            item.readable = True
            self.readable += 1

    def _finish(self, item: Item) -> None:
        """What comes replaces the chunks."""
        item.chunks.clear()
        self.readable -= item.readable
        self.final += not item.final
        item.readable, item.final = False, True

    @property
    def is_awaited(self) -> bool:
        """Something was said of which no word has come yet."""
        return self.whole is None and bool(self.wordless)

    @property
    def has_text(self) -> bool:
        return bool(self.readable if self.whole is None else self.whole)

    @property
    def text(self) -> str:
        if self.whole is not None:
            return self.whole
        return " ".join([text for item in self.items.values() if (text := "".join(item.chunks).strip())])


class Speech(Struct):
    """Somebody was audible; only with both bounds does it become a span."""

    who: str
    key: str
    start: float
    end: float | None = None
    measured_by: str | None = None
    of: str | None = None  # the item or response that was spoken
    heard_ms: float | None = None

    @property
    def heard(self) -> float:
        """For how many ms, once it is over."""
        if self.heard_ms is not None:
            return self.heard_ms
        return (self.start if self.end is None else self.end) - self.start


class Response(Struct):
    id: str
    start: float
    end: float | None = None
    model: str | None = None
    finish_reason: str | None = None
    error: str | None = None
    error_type: str | None = None
    usage: e.Usage | None = None
    first_output: float | None = None
    false_start: bool = False
    named: bool = True
    said: Said = field(default_factory=Said)


class Tool(Struct):
    call_id: str
    turn: Turn | None  # None: it was called when its turn was final already
    closed_turn: str | None = None
    name: str | None = None
    arguments: Any = UNSET
    start: float | None = None
    end: float | None = None
    result: Any = UNSET
    error: Any = UNSET
    cancelled: bool = False
    told: Any = None  # as chat has it

    def says(self, fact: e.ToolResult) -> bool:
        """Whether this very result is known already: providers and clients repeat themselves."""
        known = (self.result, self.error, self.cancelled)
        return self.end is not None and known == (fact.result, fact.error, fact.cancelled)

    @property
    def failed(self) -> bool:
        return not self.cancelled and (self.end is None or self.error is not UNSET)


class Happening(Struct):
    """Something on the timeline that becomes a span of type event: a mark, an error, or a fact that came too late."""

    fact: e.Event
    t: float
    key: str
    late: bool = False


class Turn(Struct):
    id: str
    number: int
    start: float
    end: float
    named: bool = False
    next_start: float | None = None
    settle_at: float = 0.0  # by the receiver's clock, once the next one has begun
    waits: bool = False  # ... for the user's words, or behind a turn that does
    user: Said = field(default_factory=Said)
    agent: Said = field(default_factory=Said)
    responses: dict[str, Response] = field(default_factory=dict)
    tools: dict[str, Tool] = field(default_factory=dict)
    speech: list[Speech] = field(default_factory=list)
    happenings: list[Happening] = field(default_factory=list)
    user_ends: list[float] = field(default_factory=list)
    audible: float | None = None
    first_output: float | None = None
    done: bool = False
    end_reason: str | None = None
    interrupted_by: str | None = None
    heard_ms: float | None = None
    usage: e.Usage | None = None
    model: str | None = None
    final: bool = False
    told: Any = None  # as chat has it

    def last_until(self, t: float) -> None:
        """Where the next turn has begun, what is told of this one is late, and nothing that lasts."""
        if self.next_start is None:
            self.end = max(self.end, t)

    @property
    def answered(self) -> float | None:
        """When the agent was first heard; the playback's own word beats the provider's first output."""
        return self.audible if self.audible is not None else self.first_output

    @property
    def latency(self) -> float | None:
        """Seconds from the end of the user's input to the answer; None where either was not measured."""
        if (answered := self.answered) is None:
            return None
        ends = [end for end in self.user_ends if end <= answered]
        return (answered - max(ends)) / 1000 if ends else None

    def hear(self, overheard: list[Speech]) -> None:
        """The turn is over: what was only overheard is its user's speech where the user's words came and nobody told
        when they were spoken. Of what was measured in two ways, energy is the worse."""
        if self.user.has_text and not self.user_ends and self.answered is not None:
            self.speech += _last_heard(overheard, before=self.answered)
            self.user_ends += [speech.end for speech in self.speech if speech.who == "user" and speech.end is not None]
        for who in ("user", "agent") if self.speech else ():
            if any(speech.who == who and speech.measured_by != ENERGY for speech in self.speech):
                self.speech = [each for each in self.speech if each.who != who or each.measured_by != ENERGY]
        if self.interrupted_by is not None and self.heard_ms is None:
            heard = [speech.heard for speech in self.speech if speech.who == "agent" and speech.end is not None]
            self.heard_ms = sum(heard) if heard else None

    @property
    def agent_has_acted(self) -> bool:
        return bool(self.answered is not None or self.agent.has_text or self.tools or self.responses)

    @property
    def held(self) -> int:
        """How many spans it would make, beside its tools'."""
        return 1 + len(self.responses) + len(self.speech) + len(self.happenings)

    @property
    def busy(self) -> bool:
        """Something measurably goes on, so silence is no sign that the turn is over."""
        return (
            any(tool.end is None for tool in self.tools.values())
            or any(speech.end is None for speech in self.speech)
            or any(response.end is None for response in self.responses.values())
        )


class History(Struct):
    """Messages that the app seeded before a turn."""

    role: str
    text: str


def _last_heard(overheard: list[Speech], before: float) -> list[Speech]:
    """What was heard last before the answer, with no longer pauses in it than somebody makes who speaks."""
    heard: list[Speech] = []
    for speech in reversed([each for each in overheard if each.end is not None and each.end <= before]):
        if heard and heard[0].start - (speech.end or 0.0) > PAUSE_MS:
            break
        heard.insert(0, speech)
    return heard


def end_speech(turn: Turn, who: str, t: float, id_: str | None, measured_by: str | None) -> Speech | None:
    for speech in turn.speech:
        alike = measured_by is None or speech.measured_by in (None, measured_by)
        if speech.who == who and speech.end is None and alike and (id_ is None or speech.of in (None, id_)):
            speech.end = max(speech.start, t)
            speech.measured_by = measured_by or speech.measured_by
            return speech
    return None


def response_of(turn: Turn, response_id: str | None, key: str) -> Response:
    """The response that ends: the one named, else the latest that is open, else one that nobody saw begin."""
    if response_id is None:
        running = [response for response in turn.responses.values() if response.end is None]
        if running:
            return running[-1]
    id_ = response_id or key
    return turn.responses.setdefault(
        id_, Response(id_, start=max(turn.user_ends, default=turn.start), named=response_id is not None)
    )
