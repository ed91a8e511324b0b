"""The fold: facts in their order -> turns with their responses, tools and speech, each until it is final.

No I/O, clock, log or randomness. Times are milliseconds; `t` is a fact's corrected time. A turn is held until
the next one has begun and the settle time has passed, or after 30 s of quiet with nothing going on in it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

from otel_voice import events as e
from otel_voice.turns import ENERGY, Happening, History, Response, Speech, Tool, Turn, end_speech, response_of

SETTLE_MS = 2_000.0
QUIET_MS = 30_000.0
# Speech recognition may lag behind the conversation by a few turns.
WORDS_MS = 10_000.0
# Sounds that may yet turn out to be what the user said.
OVERHEARD = 32
# Nobody begins more turns than this within the settle time, so what is heard is one of the last.
LATEST = 16


class Conversation:
    """Folds facts; `take()` hands out what became final, in order: Turn, Tool, Happening (of no turn), History."""

    __slots__ = (
        *("_out", "_superseded", "at", "closed", "closed_tools", "current", "facts", "false_starts"),
        *(
            "is_listened_to",
            "last",
            "last_closed",
            "latest",
            "number",
            "open",
            "over",
            "overheard",
            "response_turns",
            "starts_turns",
            "tools",
        ),
    )

    def __init__(self) -> None:
        self.open: dict[str, Turn] = {}
        # As in `sources`, sets that begin empty are dicts.
        self.closed: dict[str, None] = {}
        self.last_closed: str | None = None
        self.starts_turns = False
        self.over = False
        self.tools: dict[str, Tool] = {}
        self.closed_tools: dict[str, None] = {}
        self.current: Turn | None = None
        self.latest: Turn | None = None
        self._superseded: deque[Turn] | None = None
        self.number = 0
        self.false_starts = 0
        self.response_turns: dict[str, str] = {}
        self.last: float | None = None
        # Where a provider listens, sound at the user's end is speech only if it hears words in it.
        self.is_listened_to = False
        self.overheard: list[Speech] | None = None
        self.at = 0.0  # the arrival of what is told
        self.facts = e.SessionFacts()
        self._out: list[Turn | Tool | tuple[str | None, Happening] | History] = []

    def take(self) -> list[Turn | Tool | tuple[str | None, Happening] | History]:
        out, self._out = self._out, []
        return out

    # Finality

    def pass_time(self, t: float) -> bool:
        """A fact of the time `t` is about to be folded. Whether something is final by now."""
        if self._superseded or (self.last is not None and t >= self.last + QUIET_MS):
            self.settle(t)
        if self.last is None or t > self.last:
            self.last = t
        return bool(self._out)

    def settle(self, t: float) -> None:
        """By the facts' own time: what had settled by `t` is final."""
        while (turn := self.superseded) is not None:
            if turn.next_start is None or t < turn.next_start + self.settle_ms(turn):
                break
            self.finish(turn)
        if self.last is not None and t >= self.last + QUIET_MS:
            self.finish_quiet()

    @staticmethod
    def settle_ms(turn: Turn) -> float:
        """How long after the next one's start a turn may still change; what the user said may take longest."""
        return WORDS_MS if turn.user.is_awaited else SETTLE_MS

    @property
    def superseded(self) -> Turn | None:
        """The first of the turns whose successor has begun; they become final in their order."""
        if self._superseded is None:
            return None
        while self._superseded and self._superseded[0].final:
            self._superseded.popleft()
        if self._superseded:
            return self._superseded[0]
        self._superseded = None
        return None

    def _in_turn(self) -> list[Turn]:
        return sorted(self.open.values(), key=lambda turn: turn.number)

    def finish_quiet(self) -> None:
        """After the session's end nothing is waited for."""
        if self.over:
            self.close()
        for turn in [turn for turn in self._in_turn() if not turn.busy]:
            self.finish(turn)

    @property
    def held(self) -> int:
        """How many things are not final."""
        return len(self.tools) + sum(turn.held for turn in self.open.values())

    @property
    def has_quiet(self) -> bool:
        """Whether a silence would make something final."""
        if self.over:
            return bool(self.open or self.tools)
        return any(not turn.busy for turn in self.open.values())

    def finish(self, turn: Turn) -> None:
        """Makes a turn final, and those of its tools that were answered."""
        turn.hear(self.overheard or [])
        if self.overheard and turn.answered is not None:
            self.overheard = [speech for speech in self.overheard if speech.end is None or speech.end > turn.answered]
        del self.open[turn.id]
        self.closed[turn.id] = None
        self.last_closed = turn.id
        if self.current is turn:
            self.current = None
        turn.final = True
        self._out.append(turn)
        for tool in list(turn.tools.values()):
            if tool.end is not None:
                self._finish_tool(tool)

    def close(self) -> None:
        """The session is over: everything is final, answered or not."""
        self.over = True
        for turn in self._in_turn():
            if not turn.done and turn.end_reason is None:
                turn.end_reason = "session_closed"
            self.finish(turn)
        for tool in list(self.tools.values()):
            self._finish_tool(tool)

    def _finish_tool(self, tool: Tool) -> None:
        if self.tools.pop(tool.call_id, None) is not None:
            self.closed_tools[tool.call_id] = None
            self._out.append(tool)

    # Facts

    def fold(self, fact: e.Fact, t: float, key: str) -> None:
        """One fact at its time; `key` is unique to it and gives an id to what it opens."""
        turn_id = self._turn_told_by(fact)
        if turn_id is not None and turn_id in self.closed and not self._about_tool(fact):
            if not isinstance(fact, e.ResponseOutput | e.FalseStart):
                self._happen(turn_id, Happening(fact, t, key, late=True))
            return
        _FOLDS[type(fact)](self, fact, t, key)

    def _turn_told_by(self, fact: e.Fact) -> str | None:
        """The turn that a fact names; a response's is the one in which it was first heard of, whatever comes later."""
        turn_id: str | None = getattr(fact, "turn_id", None)
        begun = self.response_turns.get(getattr(fact, "response_id", None) or "") if self.response_turns else None
        if begun is not None and begun != turn_id and (turn_id is None or isinstance(fact, _OF_RESPONSE)):
            fact.turn_id = turn_id = begun  # type: ignore[union-attr]
        return turn_id

    def _about_tool(self, fact: e.Fact) -> bool:
        """A tool has a span of its own: its call may come after its turn's end, its answer long after."""
        return isinstance(fact, e.ToolCall) or (isinstance(fact, e.ToolResult) and fact.call_id in self.tools)

    def _happen(self, turn_id: str | None, happening: Happening) -> None:
        """On its turn while that is open, so that it keeps its parent; else at once."""
        if turn_id is not None and (turn := self.open.get(turn_id)) is not None:
            turn.happenings.append(happening)
        else:
            self._out.append((turn_id if turn_id in self.closed else None, happening))

    def _begin(self, turn_id: str, t: float, named: bool) -> Turn:
        while not named and (turn_id in self.open or turn_id in self.closed):
            # Somebody named a turn like this one's key.
            turn_id += "'"
        self.number += 1
        turn = self.open[turn_id] = Turn(turn_id, self.number, start=t, end=t, named=named)
        if self.latest is not None and not self.latest.final:
            self.latest.next_start = t
            # What still belongs to it happened within the settle time, and has come after one more.
            self.latest.settle_at = self.at + 2 * SETTLE_MS
            self._superseded = self._superseded or deque()
            self._superseded.append(self.latest)
        self.current = self.latest = turn
        return turn

    def _turn(self, turn_id: str | None, t: float, key: str, begins: Callable[[Turn], bool]) -> Turn:
        """The turn a fact belongs to, which lasts at least until then."""
        turn = self._found(turn_id, t, key, begins)
        turn.end = max(turn.end, t)
        return turn

    def _found(self, turn_id: str | None, t: float, key: str, begins: Callable[[Turn], bool]) -> Turn:
        """The turn that is named, else the current one, unless the fact begins another."""
        turn = self.open.get(turn_id) if turn_id else self.current
        if turn is None or (turn_id is None and begins(turn)):
            turn = self._named(turn_id, t) if turn_id else self._begin(key, t, named=False)
        return turn

    def _ended_turn(self, fact: e.Bound, t: float, key: str) -> Turn | None:
        """The turn of a bound that ends something; it begins none: where all turns are final, it came too late."""
        if fact.turn_id is None and self.current is None and self.last_closed is not None:
            self._happen(self.last_closed, Happening(fact, t, key, late=True))
            return None
        return self._turn(fact.turn_id, t, key, _never)

    def _named(self, turn_id: str, t: float) -> Turn:
        """A turn that is named for the first time: the unnamed one that is open and unfinished, or a new one."""
        turn = self.current
        if turn is None or turn.named or turn.done:
            return self._begin(turn_id, t, named=True)
        del self.open[turn.id]
        for response_id in turn.responses:
            self.response_turns[response_id] = turn_id
        turn.id, turn.named = turn_id, True
        self.open[turn_id] = turn
        return turn

    def _turn_start(self, fact: e.TurnStart, t: float, key: str) -> None:
        self.starts_turns = True
        if (turn := self.open.get(fact.turn_id)) is not None:
            turn.start = min(turn.start, t)
        elif self.current is not None and self.current.agent_has_acted:
            self._begin(fact.turn_id, t, named=True)
        else:
            self._named(fact.turn_id, t)

    def _turn_complete(self, fact: e.TurnComplete, t: float, key: str) -> None:
        turn = self._turn(fact.turn_id, t, key, _never)
        turn.done = True
        turn.end_reason = fact.end_reason or turn.end_reason
        turn.model = fact.model or turn.model
        turn.user.whole = fact.user_text if fact.user_text is not None else turn.user.whole
        turn.agent.whole = fact.agent_text if fact.agent_text is not None else turn.agent.whole
        turn.usage = fact.usage or turn.usage
        for response in turn.responses.values():
            response.end = t if response.end is None else response.end

    def _transcript(self, fact: e.Transcript, t: float, key: str) -> None:
        if fact.role == "user":
            turn = self._found(fact.turn_id, t, key, _begins_by_user_text)
            if not turn.agent_has_acted:
                turn.last_until(t)
            turn.user.add(fact.item_id, fact.text, fact.final)
            if fact.typed:
                turn.user_ends.append(t)
            return
        turn = self._found(fact.turn_id, t, key, _never)
        turn.last_until(t)
        turn.agent.add(fact.item_id, fact.text, fact.final)
        if (response := turn.responses.get(fact.response_id or "")) is not None:
            response.said.add(fact.item_id, fact.text, fact.final)

    def _is_overheard(self, fact: e.Bound) -> bool:
        return self.is_listened_to and fact.measured_by == ENERGY and fact.turn_id is None

    def _user_speech_start(self, fact: e.UserSpeechStart, t: float, key: str) -> None:
        if self._is_overheard(fact):
            speech = Speech("user", key, t, measured_by=ENERGY)
            self.overheard = [*(self.overheard or [])[1 - OVERHEARD :], speech]
            return
        turn = self._turn(fact.turn_id, t, key, _begins_by_user_speech)
        if fact.item_id:
            turn.user.announce(fact.item_id)
        turn.speech.append(Speech("user", key, t, measured_by=fact.measured_by, of=fact.item_id))

    def _user_speech_end(self, fact: e.UserSpeechEnd, t: float, key: str) -> None:
        if self._is_overheard(fact):
            if self.overheard:
                self.overheard[-1].end = max(self.overheard[-1].start, t)
            return
        if (turn := self._ended_turn(fact, t, key)) is None:
            return
        turn.user_ends.append(t)
        end_speech(turn, "user", t, fact.item_id, fact.measured_by)

    def _agent_speech_start(self, fact: e.AgentSpeechStart, t: float, key: str) -> None:
        turn = self._speaking(fact, t, key)
        turn.audible = t if turn.audible is None else min(turn.audible, t)
        turn.speech.append(Speech("agent", key, t, measured_by=fact.measured_by, of=fact.response_id))

    def _agent_speech_end(self, fact: e.AgentSpeechEnd, t: float, key: str) -> None:
        turn = self._still_speaking() if fact.turn_id is None else None
        if turn is not None:
            turn.end = max(turn.end, t)
        elif (turn := self._ended_turn(fact, t, key)) is None:
            return
        speech = end_speech(turn, "agent", t, fact.response_id, fact.measured_by)
        if speech is not None and fact.heard_ms is not None:
            speech.heard_ms = fact.heard_ms

    def _speaking(self, fact: e.AgentSpeechStart, t: float, key: str) -> Turn:
        """The turn whose answer is heard: who interrupts it has begun another."""
        turn = self._last_heard() if fact.turn_id is None else None
        if turn is None:
            return self._turn(fact.turn_id, t, key, _never)
        turn.end = max(turn.end, t)
        return turn

    def _still_speaking(self) -> Turn | None:
        latest = islice(reversed(self.open.values()), LATEST)
        spoken = ((turn, speech) for turn in latest for speech in turn.speech)
        return next((turn for turn, speech in spoken if speech.who == "agent" and speech.end is None), None)

    def _response_start(self, fact: e.ResponseStart, t: float, key: str) -> None:
        turn = self._turn(fact.turn_id, t, key, lambda turn: turn.done)
        id_ = fact.response_id or key
        if id_ not in turn.responses:
            turn.responses[id_] = Response(id_, t, model=fact.model, named=fact.response_id is not None)
            self.response_turns[id_] = turn.id

    def _response_output(self, fact: e.ResponseOutput, t: float, key: str) -> None:
        turn = self._turn(fact.turn_id, t, key, _never)
        turn.first_output = t if turn.first_output is None else min(turn.first_output, t)
        response = turn.responses.setdefault(fact.response_id, Response(fact.response_id, t))
        self.response_turns[response.id] = turn.id
        response.first_output = t if response.first_output is None else min(response.first_output, t)

    def _response_end(self, fact: e.ResponseEnd, t: float, key: str) -> None:
        turn = self._turn(fact.turn_id, t, key, _never)
        response = response_of(turn, fact.response_id, key)
        self.response_turns[response.id] = turn.id
        response.end = t
        response.model = fact.model or response.model
        response.finish_reason = fact.finish_reason or response.finish_reason
        response.error = fact.error or response.error
        response.error_type = fact.error_type or response.error_type
        response.usage = fact.usage or response.usage

    def _false_start(self, fact: e.FalseStart, t: float, key: str) -> None:
        turn = self._turn(fact.turn_id, t, key, _never)
        self.false_starts += 1
        if (response := turn.responses.get(fact.response_id)) is not None:
            response.false_start = True

    def _interrupted(self, fact: e.Interrupted, t: float, key: str) -> None:
        turn = self._turn(fact.turn_id, t, key, _never) if fact.turn_id else self._last_heard()
        if turn is None:
            self._happen(None, Happening(fact, t, key))
            return
        turn.interrupted_by = fact.source
        turn.heard_ms = fact.heard_ms if fact.heard_ms is not None else turn.heard_ms
        if fact.source != "tool_response":
            turn.end_reason = "interrupted"

    def _last_heard(self) -> Turn | None:
        """The latest turn in which the agent said something: what a barge-in without a turn's id cuts off."""
        latest = islice(reversed(self.open.values()), LATEST)
        return next((turn for turn in latest if turn.agent_has_acted), self.current)

    def _tool_call(self, fact: e.ToolCall, t: float, key: str) -> None:
        if fact.call_id in self.closed_tools:
            self._happen(fact.turn_id, Happening(fact, t, key, late=True))
            return
        tool = self.tools.get(fact.call_id)
        if tool is None:
            tool = self._new_tool(fact.call_id, fact.turn_id, t, key)
        if tool.start is None:
            tool.start, tool.name, tool.arguments = t, fact.name, fact.arguments

    def _new_tool(self, call_id: str, turn_id: str | None, t: float, key: str) -> Tool:
        if turn_id in self.closed:
            tool = self.tools[call_id] = Tool(call_id, None, turn_id)
            return tool
        # A client that only ever completes turns calls its tools before the turn has a name.
        turn = self._turn(turn_id, t, key, lambda turn: turn.done and not self.starts_turns)
        tool = self.tools[call_id] = turn.tools[call_id] = Tool(call_id, turn)
        return tool

    def _tool_result(self, fact: e.ToolResult, t: float, key: str) -> None:
        tool = self.tools.get(fact.call_id)
        if tool is not None and tool.says(fact):
            return
        if fact.call_id in self.closed_tools or (tool is not None and tool.end is not None):
            self._happen(fact.turn_id, Happening(fact, t, key, late=True))
            return
        if tool is None:
            tool = self._new_tool(fact.call_id, fact.turn_id, t, key)
        tool.end, tool.result, tool.error, tool.cancelled = t, fact.result, fact.error, fact.cancelled
        tool.name = tool.name or fact.name
        if tool.turn is None or tool.turn.final:
            self._finish_tool(tool)
        else:
            tool.turn.end = max(tool.turn.end, t)

    def _at_the_time(self, fact: e.Error | e.Mark, t: float, key: str) -> None:
        turn = self.open.get(fact.turn_id) if fact.turn_id else self.current
        if turn is not None and not turn.done:
            turn.last_until(t)
        # Between turns it is the session's.
        now = turn.id if turn is not None and t <= turn.end else None
        self._happen(fact.turn_id or now, Happening(fact, t, key))

    def _session_facts(self, fact: e.SessionFacts, t: float, key: str) -> None:
        for name in ("provider", "provider_session_id", "model", "instructions"):
            if (value := getattr(fact, name)) is not None:
                setattr(self.facts, name, value)

    def _history(self, fact: e.HistoryItem, t: float, key: str) -> None:
        self._out.append(History(fact.role, fact.text))

    def _nothing(self, fact: e.Fact, t: float, key: str) -> None:
        """The session's own business."""


_OF_RESPONSE = e.ResponseStart | e.ResponseOutput | e.ResponseEnd | e.FalseStart

_FOLDS: dict[type, Callable[[Conversation, Any, float, str], None]] = {
    e.TurnStart: Conversation._turn_start,
    e.TurnComplete: Conversation._turn_complete,
    e.ToolCall: Conversation._tool_call,
    e.ToolResult: Conversation._tool_result,
    e.Transcript: Conversation._transcript,
    e.UserSpeechStart: Conversation._user_speech_start,
    e.UserSpeechEnd: Conversation._user_speech_end,
    e.AgentSpeechStart: Conversation._agent_speech_start,
    e.AgentSpeechEnd: Conversation._agent_speech_end,
    e.ResponseStart: Conversation._response_start,
    e.ResponseOutput: Conversation._response_output,
    e.ResponseEnd: Conversation._response_end,
    e.FalseStart: Conversation._false_start,
    e.Interrupted: Conversation._interrupted,
    e.Error: Conversation._at_the_time,
    e.Mark: Conversation._at_the_time,
    e.SessionFacts: Conversation._session_facts,
    e.HistoryItem: Conversation._history,
    e.SessionStart: Conversation._nothing,
    e.SessionEnd: Conversation._nothing,
}


def _never(turn: Turn) -> bool:
    return False


def _begins_by_user_speech(turn: Turn) -> bool:
    return turn.done or turn.agent_has_acted


def _begins_by_user_text(turn: Turn) -> bool:
    """A transcript is often late: it begins a turn only where the current one already has the user's words."""
    return turn.done or (turn.agent_has_acted and bool(turn.user.final))
